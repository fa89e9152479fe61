"""Workers on the shared broker, and a way to write and read topics byte for byte."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import orjson
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic, RecordsToDelete
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.structs import ConsumerRecord

from app.settings import MAX_RECORD_BYTES, Settings
from app.topics import ensure_topics
from tests.workers import StartedWorker, service_settings

Result = TypeVar("Result")
Headers = list[tuple[str, bytes]]


def run(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """What the coroutine returns, from an event loop of its own."""
    return asyncio.run(coroutine)


@dataclass
class Produced:
    """A record to write: exactly these bytes."""

    value: bytes | None
    key: bytes | None = None
    headers: Headers = field(default_factory=list)
    timestamp_ms: int | None = None


@dataclass
class Topics:
    """Writes and reads topics of the broker, byte for byte."""

    bootstrap_servers: str

    def write(self, topic: str, records: Iterable[Produced]) -> list[tuple[int, int]]:
        """Write the records; their partitions and offsets."""

        async def write() -> list[tuple[int, int]]:
            producer = AIOKafkaProducer(
                bootstrap_servers=self.bootstrap_servers,
                max_request_size=MAX_RECORD_BYTES,
                enable_idempotence=True,
            )
            async with producer:
                sent = [
                    await producer.send(
                        topic,
                        record.value,
                        key=record.key,
                        headers=record.headers,
                        timestamp_ms=record.timestamp_ms,
                    )
                    for record in records
                ]
                written = await asyncio.gather(*sent)
            return [(one.partition, one.offset) for one in written]

        return run(write())

    def read(
        self, topic: str, count: int, within_s: float = 60.0, quiet_s: float = 1.0
    ) -> list[ConsumerRecord]:
        """Everything on the topic: waits for `count` records, then that no more come."""

        async def read() -> list[ConsumerRecord]:
            consumer = AIOKafkaConsumer(
                bootstrap_servers=self.bootstrap_servers, isolation_level="read_committed"
            )
            async with consumer:
                cluster = await consumer._client.fetch_all_metadata()
                partitions = [
                    TopicPartition(topic, number) for number in cluster.partitions_for_topic(topic)
                ]
                consumer.assign(partitions)
                await consumer.seek_to_beginning(*partitions)
                found: list[ConsumerRecord] = []
                deadline = time.monotonic() + within_s
                while len(found) < count:
                    for records in (await consumer.getmany(timeout_ms=200)).values():
                        found.extend(records)
                    assert time.monotonic() < deadline, (
                        f"{len(found)} of {count} records on {topic} within {within_s} s"
                    )
                for records in (await consumer.getmany(timeout_ms=int(quiet_s * 1000))).values():
                    found.extend(records)
                return found

        return run(read())

    async def create(self, topic: str, partitions: int) -> None:
        """Create a topic."""
        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap_servers)
        await admin.start()
        await admin.create_topics([NewTopic(topic, partitions, 1)])
        await admin.close()

    async def delete_before(self, topic: str, offset: int) -> list[tuple[int, int]]:
        """Delete the first records of every partition; their partitions and offsets."""
        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap_servers)
        await admin.start()
        try:
            [described] = await admin.describe_topics([topic])
            numbers = [one["partition"] for one in described["partitions"]]
            await admin.delete_records(
                {TopicPartition(topic, number): RecordsToDelete(offset) for number in numbers}
            )
        finally:
            await admin.close()
        return [(number, one) for number in numbers for one in range(offset)]

    async def compact(self, topic: str) -> None:
        """Have the broker compact a topic, all but its last segment; each write begins one."""
        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap_servers)
        await admin.start()
        try:
            config = {
                "cleanup.policy": "compact",
                "min.cleanable.dirty.ratio": "0.01",
                "segment.ms": "1",
            }
            await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, config)])
        finally:
            await admin.close()

    async def write_in_transactions(
        self, topic: str, transactions: Iterable[tuple[Iterable[Produced], bool]]
    ) -> None:
        """Write records in transactions, each with whether it is committed or else aborted."""
        producer = AIOKafkaProducer(
            bootstrap_servers=self.bootstrap_servers, transactional_id=f"{topic}-writer"
        )
        async with producer:
            for records, commits in transactions:
                await producer.begin_transaction()
                for record in records:
                    await producer.send_and_wait(topic, record.value, key=record.key)
                await (producer.commit_transaction() if commits else producer.abort_transaction())

    async def config(self, topic: str) -> dict[str, str]:
        """The configuration of a topic."""
        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap_servers)
        await admin.start()
        try:
            resource = ConfigResource(ConfigResourceType.TOPIC, topic)
            [answer] = await admin.describe_configs([resource])
        finally:
            await admin.close()
        [described] = answer.to_object()["resources"]
        return {one["config_names"]: one["config_value"] for one in described["config_entries"]}

    async def committed(self, settings: Settings) -> dict[int, int]:
        """What the group has committed of the request topic, by partition."""
        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap_servers)
        await admin.start()
        try:
            offsets = await admin.list_consumer_group_offsets(settings.app_id)
        finally:
            await admin.close()
        topic = settings.request_topic
        return {tp.partition: one.offset for tp, one in offsets.items() if tp.topic == topic}

    def responses(self, settings: Settings, count: int, **options: Any) -> list[dict[str, Any]]:
        """The decoded values of the response topic."""
        records = self.read(settings.response_topic, count, **options)
        return [orjson.loads(record.value) for record in records]


@pytest.fixture(scope="session")
def topics(bootstrap_servers: str) -> Topics:
    return Topics(bootstrap_servers)


@pytest.fixture(scope="module")
def module_names(request: pytest.FixtureRequest) -> str:
    """A prefix for topics and groups that no other module of tests has."""
    return f"{request.module.__name__.rsplit('.', 1)[-1]}-{time.time_ns():x}"


StartWorker = Callable[..., StartedWorker]


@pytest.fixture(scope="module")
def start_worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartWorker]:
    """Starts workers as processes, and ends those that still run after the module."""
    started: list[StartedWorker] = []

    def start(settings: Settings, *, wait: bool = True, **options: list[str]) -> StartedWorker:
        log_file = tmp_path_factory.mktemp("worker") / "worker.log"
        worker = StartedWorker(settings, log_file, **options)
        started.append(worker)
        if wait:
            worker.wait_until_ready()
        return worker

    yield start
    for worker in started:
        worker.kill()


@pytest.fixture(scope="module")
def module_settings(
    bootstrap_servers: str, module_names: str, tmp_path_factory: pytest.TempPathFactory
) -> Settings:
    """Settings of one service for all the tests of a module; its topics exist."""
    settings = service_settings(bootstrap_servers, module_names, tmp_path_factory.mktemp("service"))
    run(ensure_topics(settings))
    return settings


@pytest.fixture
def settings(bootstrap_servers: str, names: str, tmp_path: Path) -> Settings:
    """Settings of a service of this test alone; its topics exist."""
    settings = service_settings(bootstrap_servers, names, tmp_path)
    run(ensure_topics(settings))
    return settings


@pytest.fixture(scope="module")
def worker(start_worker: StartWorker, module_settings: Settings) -> StartedWorker:
    """One worker, ready, for all the tests of a module."""
    return start_worker(module_settings)
