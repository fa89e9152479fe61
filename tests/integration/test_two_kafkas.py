"""A worker beside the embedded broker, on a machine whose default port is another Kafka's."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.broker import EmbeddedBroker
from app.folder_lock import FolderLock
from app.kafka_config import HOST
from app.settings import Settings, load_settings
from tests.integration.conftest import Produced, Topics, run
from tests.workers import StartedWorker, eventually, service_settings

WORKER = """
import sys
import app.settings
app.settings.DEFAULT_BROKER = sys.argv[1]
from app.cli import main
main(["worker"])
"""


@pytest.fixture
def settings(names: str, tmp_path: Path) -> Settings:
    """Settings of a service that names no broker."""
    return service_settings("", names, tmp_path, broker_url=None, partitions=2)


@pytest.fixture
def worker(settings: Settings, bootstrap_servers: str, tmp_path: Path) -> Iterator[StartedWorker]:
    """Takes the broker of all tests for what listens on the default port."""
    command = [sys.executable, "-P", "-c", WORKER, bootstrap_servers]
    worker = StartedWorker(settings, tmp_path / "worker.log", command)
    yield worker
    worker.kill()


@pytest.fixture
def ours(settings: Settings, kafka_jars: list[Path]) -> Iterator[EmbeddedBroker]:
    """The embedded broker of the service; not started yet."""
    settings.embedded_address_file.parent.mkdir()
    broker = EmbeddedBroker(settings.embedded_address_file.parent)
    yield broker
    broker.stop()


def topics_at(address: str) -> set[str]:
    from aiokafka.admin import AIOKafkaAdminClient

    async def listed() -> set[str]:
        admin = AIOKafkaAdminClient(bootstrap_servers=address)
        await admin.start()
        try:
            return set(await admin.list_topics())
        finally:
            await admin.close()

    return run(listed())


def test_a_broker_that_is_starting_is_waited_for(
    ours: EmbeddedBroker, settings: Settings, worker: StartedWorker, bootstrap_servers: str
) -> None:
    waiting = f"waiting for the broker at {HOST}:1"
    with FolderLock(ours.folder, 1) as lock:  # as a broker holds it that fetches its jars
        lock.name_holder(address=f"{HOST}:1")
        eventually(lambda: waiting in worker.log, 30, "the worker waits")
    # It gave up, and starts once more.
    ours.start(port=0)
    worker.wait_until_ready()
    topics = Topics(ours.address)
    topics.write(settings.request_topic, [Produced(json.dumps({"text": "A goal."}).encode())])
    assert topics.responses(settings, 1)[0]["status"] == "ok"
    assert settings.request_topic not in topics_at(bootstrap_servers)
    assert worker.stop() == 0


def test_a_broker_that_starts_later_takes_nothing_over(
    ours: EmbeddedBroker, settings: Settings, worker: StartedWorker, bootstrap_servers: str
) -> None:
    worker.wait_until_ready()
    ours.start(port=0)
    topics = Topics(bootstrap_servers)
    for count, text in enumerate(("A goal.", "Two goals."), start=1):
        topics.write(settings.request_topic, [Produced(json.dumps({"text": text}).encode())])
        assert len(topics.responses(settings, count)) == count
    assert worker.get("/api/status")[1]["broker"]["addresses"] == [bootstrap_servers]
    assert settings.request_topic not in topics_at(ours.address)
    assert worker.stop() == 0


def test_where_the_broker_is_looked_for(ours: EmbeddedBroker, tmp_path: Path) -> None:
    settings = load_settings(_env_file=None, broker_url=None, data_dir=tmp_path)
    assert settings.bootstrap_servers == ["127.0.0.1:9092"]
    assert not settings.find_broker()
    ours.start(port=0)
    assert settings.bootstrap_servers == ["127.0.0.1:9092"], "it stays where it is"
    assert settings.find_broker()
    assert settings.bootstrap_servers == [first := ours.address]
    ours.stop()
    assert not settings.find_broker()
    assert settings.bootstrap_servers == [first], "a Kafka that was ours is waited for"
    (ours.folder / "port").unlink()
    ours.start(port=0)
    assert settings.find_broker() == (ours.address != first)
    assert settings.bootstrap_servers == [ours.address]
