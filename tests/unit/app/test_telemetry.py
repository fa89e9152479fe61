"""What a worker counts, and how it tells the others."""

from __future__ import annotations

import time
from typing import Any

import orjson
import pytest
from faust.events import Event
from faust.types.tuples import Message

from app.errors import InferenceFailed, OutOfMemory, UnknownModel
from app.records import Job, Outcome, Request, Throughput
from app.settings import Settings
from app.telemetry import Telemetry


@pytest.fixture
def telemetry() -> Telemetry:
    return Telemetry(Settings(model="first=here,second=there"))


def failed(error: Exception, **fields: Any) -> Outcome:
    """What became of a request with these fields."""
    value = orjson.dumps({"text": "Shares fell."} | fields)
    message = Message("bert-requests", 0, 0, time.time(), 0, [], None, value, None)
    job = Job.of(Event(None, None, value, None, message), 1000)
    return Outcome.of(job, error if isinstance(job.request, Request) else job.request)


def by_model(records: list[Throughput]) -> dict[str, Throughput]:
    return {record.model: record for record in records}


def test_an_error_is_counted_under_the_model_that_was_asked(telemetry: Telemetry) -> None:
    for outcome in (
        failed(OutOfMemory(), model="second"),
        failed(OutOfMemory(), model="second"),
        failed(InferenceFailed(), model="first"),
        failed(InferenceFailed()),
        failed(UnknownModel(), model="third"),
        failed(InferenceFailed(), model="second", text=" "),
    ):
        telemetry.delivered(outcome)
    counted = by_model(telemetry.take({}))
    assert counted["first"].errors == {"inference_failed": 2, "unknown_model": 1, "empty_text": 1}
    assert counted["second"].errors == {"out_of_memory": 2}
    for model, records in (("first", 4), ("second", 2)):
        assert counted[model].records == sum(counted[model].latency_ms.values()) == records
        counted_for_ever = f'bertstream_latency_seconds_count{{model="{model}"}} {records}.0'
        assert counted_for_ever in telemetry.metrics().decode()
    assert "third" not in telemetry.metrics().decode()
