"""An agent that raises, or that keeps the event loop: the worker goes on, and repeats nothing."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.settings import Settings
from app.topics import ensure_topics
from tests.faults import busy_loop, failing_agent
from tests.faults.test_static_membership import rebalances
from tests.integration.conftest import Topics, run
from tests.integration.test_worker import duplicates, requests
from tests.workers import StartedWorker, service_settings


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
