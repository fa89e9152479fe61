"""An agent that raises, or that keeps the event loop: the worker goes on, and repeats nothing. One
that raises again and again ends it, and the next one answers the rest."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.settings import Settings
from app.topics import ensure_topics
from tests.faults import busy_loop, ever_failing_agent, failing_agent
from tests.faults.test_static_membership import rebalances
from tests.integration.conftest import Topics, run
from tests.integration.test_worker import duplicates, places, requests
from tests.workers import StartedWorker, eventually, service_settings

ENDS_WITHIN_S = 180.0


@pytest.fixture
def settings(bootstrap_servers: str, names: str, tmp_path: Path) -> Settings:
    settings = service_settings(
        bootstrap_servers, names, tmp_path, session_timeout_s=busy_loop.SESSION_S
    )
    run(ensure_topics(settings))
    return settings


@pytest.fixture
def worker(
    settings: Settings, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[StartedWorker]:
    """A worker with the module that the test names in the place of `faust`."""
    command = [sys.executable, "-m", request.param.__name__, "-A", "app", "worker", "-l", "info"]
    worker = StartedWorker(settings, tmp_path / "worker.log", command)
    worker.wait_until_ready()
    yield worker
    worker.kill()


@pytest.mark.parametrize("worker", [failing_agent], indirect=True)
def test_an_agent_that_raises_loses_nothing_and_repeats_nothing(
    worker: StartedWorker, settings: Settings, bootstrap_servers: str
) -> None:
    topics = Topics(bootstrap_servers)
    topics.write(settings.request_topic, requests(1_000))
    responses = topics.responses(settings, 1_000)
    assert duplicates(responses) == {}
    assert Counter(one["status"] for one in responses) == {"ok": 1_000}
    assert "failure 2 of the agent" in worker.log
    assert worker.stop() == 0


@pytest.mark.parametrize("worker", [ever_failing_agent], indirect=True)
def test_an_agent_that_raises_again_and_again_ends_the_worker_and_loses_nothing(
    worker: StartedWorker, settings: Settings, bootstrap_servers: str, tmp_path: Path
) -> None:
    topics = Topics(bootstrap_servers)
    written = set(topics.write(settings.request_topic, requests(100, "before")))
    topics.responses(settings, 100)
    written |= set(topics.write(settings.request_topic, requests(2_000)))
    assert worker.process.wait(ENDS_WITHIN_S) == 1, worker.log[-8000:]
    assert "predict keeps failing, the worker stops" in worker.log
    answered = set(places(topics.responses(settings, 100)))
    assert answered < written
    committed = run(topics.committed(settings))
    assert {place for place in written if place[1] < committed[place[0]]} <= answered

    next_one = StartedWorker(settings, tmp_path / "next.log")
    try:
        eventually(lambda: set(places(topics.responses(settings, 100))) == written, 60)
        assert next_one.stop() == 0
    finally:
        next_one.kill()


@pytest.mark.parametrize("worker", [busy_loop], indirect=True)
def test_a_loop_that_is_busy_for_longer_than_a_session_keeps_its_partitions(
    worker: StartedWorker, settings: Settings, bootstrap_servers: str
) -> None:
    """Heartbeats come from the consumer's own thread."""
    topics = Topics(bootstrap_servers)
    before = rebalances(worker)
    topics.write(settings.request_topic, requests(500))
    responses = topics.responses(settings, 500)
    assert "the event loop was busy" in worker.log
    assert rebalances(worker) == before
    assert len(responses) == 500
    assert duplicates(responses) == {}
    assert worker.stop() == 0
