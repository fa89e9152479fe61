"""A device that hangs: once, and the worker goes on; for good, and it ends for the next one; with
all that a new group has read, which its next worker reads again. One that is slow, and one without
memory for a document, which is that document's affair alone."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from app.settings import Settings
from app.topics import ensure_topics
from benchmarks import slow_device
from models.inference.device import share_cpu
from models.inference.pool import MOST_LEFT_BEHIND
from tests.faults import exhausted_device, hanging_device
from tests.faults.exhausted_device import TEXT
from tests.faults.hanging_device import FILE
from tests.integration.conftest import Produced, Topics, run
from tests.integration.test_worker import duplicates, places, requests
from tests.workers import StartedWorker, eventually, service_settings

ENDS_WITHIN_S = 180.0
COMMITTED_WITHIN_S = 1.0

Serve = Callable[..., Settings]
Start = Callable[..., StartedWorker]


def device(module: str) -> list[str]:
    """The command of a worker whose device is that of the module."""
    return [sys.executable, "-m", module, "-A", "app", "worker", "-l", "info"]


@pytest.fixture
def serve(bootstrap_servers: str, names: str, tmp_path: Path) -> Serve:
    """The settings of a service of this test; its topics exist."""

    def serve(**more: Any) -> Settings:
        settings = service_settings(bootstrap_servers, names, tmp_path, **more)
        run(ensure_topics(settings))
        return settings

    return serve


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts workers with a log of their own, and ends those that still run."""
    workers: list[StartedWorker] = []

    def start(settings: Settings, **options: list[str]) -> StartedWorker:
        workers.append(StartedWorker(settings, tmp_path / f"{len(workers)}.log", **options))
        workers[-1].wait_until_ready()
        return workers[-1]

    yield start
    for worker in workers:
        worker.kill()


def test_a_device_that_hangs(start: Start, serve: Serve, bootstrap_servers: str) -> None:
    # Batches so small that not every document is in one that hangs.
    settings = serve(batch_timeout_s=1, drain_timeout_s=2, batch_size=16)
    topics = Topics(bootstrap_servers)
    hang = settings.data_dir / FILE
    worker = start(settings, command=device(hanging_device.__name__))

    hang.touch()
    topics.write(settings.request_topic, requests(300, "once"))
    eventually(lambda: "device batch given up" in worker.log)
    hang.unlink()
    responses = topics.responses(settings, 300)
    assert duplicates(responses) == {}
    outcomes = Counter(one["error"]["code"] if "error" in one else "ok" for one in responses)
    assert set(outcomes) == {"ok", "inference_failed"}
    assert worker.get("/readyz")[0] == 200

    hang.touch()
    topics.write(settings.request_topic, requests(300, "for good"))
    assert worker.process.wait(ENDS_WITHIN_S) == 1, worker.log[-8000:]
    lanes, _ = share_cpu()
    most = re.search(r"(\d+) threads hang at once: compute-cpu", worker.log)
    assert most is not None
    assert MOST_LEFT_BEHIND * lanes < int(most[1]) <= (MOST_LEFT_BEHIND + 1) * lanes
    hang.unlink()

    next_one = start(settings)
    topics.write(settings.request_topic, requests(1, "last"))

    def everything_answered() -> bool:
        found = {one["id"] for one in topics.responses(settings, 601)}
        return len(found) == 601

    eventually(everything_answered)
    assert next_one.stop() == 0


def test_a_crash_repeats_nothing_that_was_answered_behind_a_long_document(
    start: Start, serve: Serve, bootstrap_servers: str
) -> None:
    settings = serve(batch_tokens=2048)
    topics = Topics(bootstrap_servers)
    worker = start(settings, command=device(slow_device.__name__))
    long = orjson.dumps({"id": "long", "text": "Once upon a time. " * 8_000})
    short = [orjson.dumps({"id": f"short-{n}", "text": f"Goal {n}."}) for n in range(50)]
    # The key makes it one partition.
    topics.write(settings.request_topic, [Produced(value, b"same") for value in (long, *short)])
    assert len(topics.responses(settings, 50, quiet_s=COMMITTED_WITHIN_S)) == 50
    worker.kill()

    next_one = start(settings)
    responses = topics.responses(settings, 51)
    assert duplicates(responses) == {}
    assert {one["id"] for one in responses} == {"long", *(f"short-{n}" for n in range(50))}
    assert next_one.stop() == 0


def test_a_new_group_at_the_end_skips_nothing_that_its_first_worker_left_unanswered(
    start: Start, serve: Serve, bootstrap_servers: str
) -> None:
    settings = serve(auto_offset_reset="latest", session_timeout_s=6)
    topics = Topics(bootstrap_servers)
    topics.write(settings.request_topic, requests(20, "old"))
    worker = start(settings, command=device(hanging_device.__name__))
    eventually(lambda: len(run(topics.committed(settings))) == settings.partitions)

    hang = settings.data_dir / FILE
    hang.touch()
    written = topics.write(settings.request_topic, requests(100, "taken"))
    eventually(lambda: worker.get("/api/status")[1]["queue"]["documents"] == 100)
    worker.kill()
    hang.unlink()
    written += topics.write(settings.request_topic, requests(50, "meanwhile"))

    next_one = start(settings)
    assert places(topics.responses(settings, 150)) == Counter(written)
    assert next_one.stop() == 0


def test_a_device_without_memory_for_a_document(
    start: Start, serve: Serve, bootstrap_servers: str
) -> None:
    settings = serve()
    topics = Topics(bootstrap_servers)
    value = orjson.dumps({"text": TEXT, "more": "than the worker reads"})
    neighbours = requests(40)
    # Before the worker begins, which so reads them at once: one device batch.
    topics.write(
        settings.request_topic,
        [*neighbours[:20], Produced(value, b"too much", [("tag", b"kept")]), *neighbours[20:]],
    )
    worker = start(settings, command=device(exhausted_device.__name__))

    responses = topics.responses(settings, 41)
    assert duplicates(responses) == {}
    by_id = {one["id"]: one for one in responses}
    assert len(responses) == len(by_id) == 41
    failed = by_id.pop("too much")
    assert (failed["status"], failed["error"]["code"]) == ("error", "out_of_memory")
    assert failed["error"]["retryable"] is True
    assert {one["status"] for one in by_id.values()} == {"ok"}
    [halved] = re.findall(r"device batch failed, halving it .* segments=(\d+) ", worker.log)
    assert int(halved) > 1

    [letter] = topics.read(settings.dead_letter_topic, 1)
    headers = dict(letter.headers)
    assert (letter.key, letter.value, headers["tag"]) == (b"too much", value, b"kept")
    assert headers["error.code"] == b"out_of_memory"
    assert worker.stop() == 0
