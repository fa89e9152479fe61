"""What a worker counts, and how it tells the others."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Awaitable
from typing import Any

import orjson
import pytest
from aiokafka.errors import KafkaError, TopicAuthorizationFailedError
from faust.events import Event
from faust.exceptions import ProducerSendError
from faust.types.tuples import Message

from app.errors import InferenceFailed, OutOfMemory, UnknownModel
from app.records import Job, Outcome, Request, Throughput
from app.settings import Settings
from app.telemetry import Telemetry, ThroughputReporter
from models.inference.lane import BatchDone
from tests.word_counter import until


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
        telemetry.delivered([outcome])
    counted = by_model(telemetry.take({}))
    assert counted["first"].errors == {"inference_failed": 2, "unknown_model": 1, "empty_text": 1}
    assert counted["second"].errors == {"out_of_memory": 2}
    for model, records in (("first", 4), ("second", 2)):
        assert counted[model].records == sum(counted[model].latency_ms.values()) == records
        counted_for_ever = f'bertstream_latency_seconds_count{{model="{model}"}} {records}.0'
        assert counted_for_ever in telemetry.metrics().decode()
    assert "third" not in telemetry.metrics().decode()


def test_workers_of_one_host_name_and_process_number_have_names_of_their_own() -> None:
    first, second = (Telemetry(Settings()).take({})[0] for _ in range(2))
    assert first.worker != second.worker
    assert first.worker.startswith(f"{socket.gethostname()}-{os.getpid()}-")
    assert Telemetry(Settings(worker_id="a")).worker == "a"


def test_device_batches_are_counted(telemetry: Telemetry) -> None:
    for segments in (3, 8):
        telemetry.batch_done(BatchDone("second", 2, segments, 0.1))
    counted = by_model(telemetry.take({}))["second"]
    assert (counted.batches, counted.batched_documents, counted.batched_segments) == (2, 4, 11)
    assert 'bertstream_batch_segments_sum{model="second"} 11.0' in telemetry.metrics().decode()


class Topic:
    """The throughput topic, which refuses what it is sent with the next of its errors."""

    def __init__(self, *errors: Exception | None) -> None:
        self.errors = list(errors)
        self.taken: list[Throughput] = []
        self.asked = 0

    async def send(self, *, key: bytes, value: Throughput) -> Awaitable[None]:
        self.asked += 1
        error = self.errors.pop(0) if self.errors else None
        delivered = asyncio.get_running_loop().create_future()
        if isinstance(error, KafkaError):  # as of the broker, when it is asked
            delivered.set_exception(error)
            return delivered
        if error is not None:
            raise error
        assert key == value.key.encode()
        self.taken.append(value)
        delivered.set_result(None)
        return delivered


def test_what_is_not_written_is_kept_and_written_with_the_next(
    telemetry: Telemetry, caplog: pytest.LogCaptureFixture
) -> None:
    gone = ProducerSendError("Error while sending: UnknownTopicOrPartitionError()")
    refused = TopicAuthorizationFailedError("bert-throughput")
    topic = Topic(gone, gone, refused, gone, None, refused)

    async def main() -> None:
        telemetry.delivered([failed(OutOfMemory(), model="second")])
        async with ThroughputReporter(telemetry, topic.send, dict, 0.02) as reporter:
            for count in (2, 4, 6):
                await until(lambda count=count: topic.asked >= count)
                telemetry.delivered([failed(OutOfMemory(), model="second")])
            await until(lambda: len(topic.taken) >= 5)
            assert not reporter.crashed
        records = [record for record in topic.taken if record.model == "second"]
        assert sum(record.records for record in records) == 4
        assert sum(record.errors.get("out_of_memory", 0) for record in records) == 4
        assert records[0].seconds > 3.5 * 0.02, "that of four intervals"

    with caplog.at_level(logging.INFO, "app.telemetry"):
        asyncio.run(main())
    said = [line for line in caplog.messages if "statistics are" in line]
    assert len(said) == 2
    assert "not written, and tried again" in said[0]
    assert said[1].endswith("statistics are written again")


def test_a_stop_does_not_wait_for_a_topic_that_is_gone(
    telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.telemetry.LAST_REPORT_S", 0.05)

    async def hang(*, key: bytes, value: Throughput) -> Awaitable[None]:
        return asyncio.get_running_loop().create_future()

    async def main() -> None:
        async with asyncio.timeout(10):
            async with ThroughputReporter(telemetry, hang, dict, 3600):
                pass

    asyncio.run(main())
