"""What the page tells of the group."""

from __future__ import annotations

import time
from pathlib import Path

import orjson
import pytest
from aiokafka.structs import ConsumerRecord

from app.changelogs import WINDOWS
from app.group import GroupView
from app.records import Throughput
from app.settings import Settings
from app.tables import WINDOW_S


@pytest.fixture
def group(tmp_path: Path) -> GroupView:
    return GroupView(Settings(broker_url="kafka://127.0.0.1:1", data_dir=tmp_path))


def follow(group: GroupView, *records: Throughput) -> None:
    """Have records read from the changelog, as of the window before this one."""
    start = time.time() // WINDOW_S * WINDOW_S - WINDOW_S
    topic = WINDOWS.topic(group.settings)
    for record in records:
        key = orjson.dumps([record.key, [start, start + WINDOW_S]])
        group._apply(ConsumerRecord(topic, 0, 0, 0, 0, key, record.dumps(), None, 0, 0, ()))


def test_what_could_not_be_told_for_a_minute_is_no_peak(group: GroupView) -> None:
    now = time.time()
    follow(group, Throughput(model="m", worker="w", time=now, seconds=60.0, documents=600))
    history = group.throughput()["history"]
    assert max(point["documents_per_s"] for point in history) == 10.0


def test_a_window_that_was_worked_for_a_part_is_taken_as_a_whole(group: GroupView) -> None:
    now = time.time()
    follow(group, Throughput(model="m", worker="w", time=now, seconds=1.0, documents=50))
    history = group.throughput()["history"]
    assert max(point["documents_per_s"] for point in history) == 50 / WINDOW_S


def test_a_device_batch_is_of_documents_and_segments(group: GroupView) -> None:
    batches = {"batches": 10, "batched_documents": 10, "batched_segments": 80}
    follow(group, Throughput(model="m", worker="w", time=time.time(), seconds=1.0, **batches))
    for point in (group.throughput()["now"], *group.workers()):
        assert (point["batch_size"], point["batch_segments"]) == (1.0, 8.0)
    assert group.throughput()["history"][0]["batch_segments"] is None
