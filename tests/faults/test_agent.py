"""An agent that raises: nothing is acknowledged, and the worker goes on by itself."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.settings import Settings
from app.topics import ensure_topics
from tests.integration.conftest import Topics, run
from tests.integration.test_worker import duplicates, requests
from tests.workers import StartedWorker, service_settings

COMMAND = [sys.executable, "-m", "tests.faults.failing_agent", "-A", "app", "worker", "-l", "info"]


@pytest.fixture
def settings(bootstrap_servers: str, names: str, tmp_path: Path) -> Settings:
    settings = service_settings(bootstrap_servers, names, tmp_path)
    run(ensure_topics(settings))
    return settings


@pytest.fixture
def worker(settings: Settings, tmp_path: Path) -> Iterator[StartedWorker]:
    worker = StartedWorker(settings, tmp_path / "worker.log", COMMAND)
    worker.wait_until_ready()
    yield worker
    worker.kill()


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
