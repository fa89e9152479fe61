"""Workers with a `WORKER_ID`: back in time they find their partitions, and nobody is disturbed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.settings import Settings
from app.topics import ensure_topics
from tests.integration.conftest import Topics, run
from tests.integration.test_worker import duplicates, requests, shares
from tests.workers import StartedWorker, eventually, service_settings

SESSION_S = 60.0
"""Longer than a start takes, also on a busy machine."""


@pytest.fixture
def start(
    bootstrap_servers: str, names: str, tmp_path: Path
) -> Iterator[Callable[[str], StartedWorker]]:
    started: list[StartedWorker] = []

    def start(worker_id: str) -> StartedWorker:
        settings = service_settings(
            *(bootstrap_servers, names, tmp_path),
            worker_id=worker_id,
            session_timeout_s=SESSION_S,
        )
        worker = StartedWorker(settings, tmp_path / f"{worker_id}-{len(started)}.log")
        started.append(worker)
        worker.wait_until_ready()
        return worker

    run(ensure_topics(service_settings(bootstrap_servers, names, tmp_path)))
    yield start
    for worker in started:
        worker.kill()


def rebalances(worker: StartedWorker) -> int:
    return worker.log.count("Revoking previously assigned partitions")


def answered_once(topics: Topics, settings: Settings, count: int) -> None:
    responses = topics.responses(settings, count, within_s=SESSION_S)
    assert len(responses) == count
    assert duplicates(responses) == {}


def test_a_static_member_that_is_back_in_time_disturbs_nobody(
    start: Callable[[str], StartedWorker], bootstrap_servers: str
) -> None:
    topics = Topics(bootstrap_servers)
    first, second = start("first"), start("second")
    settings = first.settings
    eventually(lambda: shares(first, 2), 30, "both have partitions")
    before = rebalances(first)

    topics.write(settings.request_topic, requests(200))
    assert second.stop() == 0
    topics.write(settings.request_topic, requests(200))
    second = start("second")
    answered_once(topics, settings, 400)
    second.kill()
    topics.write(settings.request_topic, requests(100))
    second = start("second")
    answered_once(topics, settings, 500)
    assert rebalances(first) == before
    eventually(lambda: shares(first, 2), 30, "both have partitions again")

    # One id for two live workers: one of them ends and says why, the other goes on alone.
    namesake = start("second")
    ended = eventually(
        lambda: next((one for one in (second, namesake) if one.process.poll() is not None), None),
        60,
        "one of the two ends",
    )
    assert ended.process.returncode == 1
    assert "another live worker has the BERTSTREAM_WORKER_ID second" in ended.log
    topics.write(settings.request_topic, requests(100))
    eventually(lambda: len(topics.responses(settings, 600)) >= 600, 60, "the other answers")
