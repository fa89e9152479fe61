"""A device that hangs: once, and the worker goes on; for good, and it ends for the next one."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.settings import Settings
from app.topics import ensure_topics
from tests.faults.hanging_device import FILE
from tests.integration.conftest import Topics, run
from tests.integration.test_worker import duplicates, requests
from tests.workers import StartedWorker, eventually, service_settings

COMMAND = [sys.executable, "-m", "tests.faults.hanging_device", "-A", "app", "worker", "-l", "info"]
ENDS_WITHIN_S = 60.0

Start = Callable[..., StartedWorker]


@pytest.fixture
def settings(bootstrap_servers: str, names: str, tmp_path: Path) -> Settings:
    settings = service_settings(
        bootstrap_servers, names, tmp_path, batch_timeout_s=1, drain_timeout_s=2
    )
    run(ensure_topics(settings))
    return settings


@pytest.fixture
def start(settings: Settings, tmp_path: Path) -> Iterator[Start]:
    """Starts workers with a log of their own, and ends those that still run."""
    workers: list[StartedWorker] = []

    def start(*command: str) -> StartedWorker:
        options = {"command": list(command)} if command else {}
        workers.append(StartedWorker(settings, tmp_path / f"{len(workers)}.log", **options))
        workers[-1].wait_until_ready()
        return workers[-1]

    yield start
    for worker in workers:
        worker.kill()


def test_a_device_that_hangs(start: Start, settings: Settings, bootstrap_servers: str) -> None:
    topics = Topics(bootstrap_servers)
    hang = settings.data_dir / FILE
    worker = start(*COMMAND)

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
    assert worker.process.wait(ENDS_WITHIN_S) == 1
    assert "4 threads hang at once: compute-cpu" in worker.log
    hang.unlink()

    next_one = start()
    topics.write(settings.request_topic, requests(1, "last"))

    def everything_answered() -> bool:
        found = {one["id"] for one in topics.responses(settings, 601)}
        return len(found) == 601

    eventually(everything_answered)
    assert next_one.stop() == 0
