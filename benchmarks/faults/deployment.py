"""A broker and the processes of a subject, with the ways in which they can be harmed."""

from __future__ import annotations

import asyncio
import os
import re
import resource
import signal
import socket
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.admin import CreateAclsRequest, DeleteAclsRequest
from aiokafka.record.memory_records import MemoryRecords

from app.broker import EmbeddedBroker
from app.kafka_config import HOST, SERVER_PROPERTIES
from app.settings import Settings
from app.topics import ensure_topics
from benchmarks.faults.counting import Answer
from benchmarks.faults.load import Load
from benchmarks.faults.proxy import Proxy
from benchmarks.faults.subjects import OURS, Process, Subject
from tests.workers import eventually, service_settings

BROKER_ENDS_WITHIN_S = 60.0
COMMIT_MARKER = b"\x00\x00\x00\x01"
"""Key of the record that ends a transaction well: its version, and what it says."""
_TOPIC, _LITERAL, _ALL, _WRITE, _DENY, _ALLOW, _ANY = 2, 3, 2, 4, 2, 3, 1
"""Kafka's numbers for what an access rule consists of."""


class Deployment:
    """A real broker, a proxy before it, one service of a subject and its processes.

    Everything is ended when the context is left. The broker listens twice: where the load
    connects, and behind the proxy, where the workers do when `through_proxy` is set.

    Args:
        folder: where everything is kept.
        rate: requests per second of a load.
        steady_s: how long a load goes on undisturbed before, between and after the harm.
    """

    def __init__(
        self,
        folder: Path,
        subject: Subject = OURS,
        *,
        rate: float = 300.0,
        steady_s: float = 4.0,
        partitions: int = 8,
    ) -> None:
        self.folder = folder
        self.subject = subject
        self.rate = rate
        self.steady_s = steady_s
        self.proxy = Proxy()
        self.workers: list[Process] = []
        """The processes that live, the oldest first."""
        self.settings: Settings
        self._partitions = partitions
        self._through_proxy = False
        self._started = 0

    def __enter__(self) -> Deployment:
        self.proxy.__enter__()
        self.proxy.target_port = _free_port()
        self.broker = EmbeddedBroker(
            self.folder / "broker",
            properties={
                "listeners": f"PROXIED://{HOST}:{self.proxy.target_port}",
                "advertised.listeners": f"PROXIED://{HOST}:{self.proxy.port}",
                "listener.security.protocol.map": "PROXIED:PLAINTEXT,"
                + SERVER_PROPERTIES["listener.security.protocol.map"],
                "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
                "allow.everyone.if.no.acl.found": "true",
            },
        )
        self.broker.start(port=0)
        self.new_service()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for worker in self.workers:
            worker.kill()
        self.broker.stop()
        self.proxy.__exit__(kind, error, traceback)

    # The service

    def new_service(self, *, through_proxy: bool = False) -> None:
        """Topics and a group of their own from here on; what processes there were is ended.

        Args:
            through_proxy: whether the processes reach the broker through the proxy.
        """
        for worker in self.workers:
            worker.kill()
        self.workers.clear()
        name = f"faults-{uuid.uuid4().hex[:8]}"
        self.settings = service_settings(
            self.broker.address,
            name,
            self.folder / name,
            partitions=self._partitions,
            **self.subject.settings,
        )
        self.create_topics()
        self._through_proxy = through_proxy

    def start_worker(self) -> Process:
        """Start one more process; it is not ready yet."""
        self._started += 1
        settings = self.settings
        if self._through_proxy:
            proxy = f"kafka://{HOST}:{self.proxy.port}"
            settings = settings.model_copy(update={"broker_url": proxy})
        settings.data_dir.mkdir(exist_ok=True)
        worker = self.subject.start(settings, settings.data_dir / f"worker-{self._started}.log")
        self.workers.append(worker)
        return worker

    def have_workers(self, count: int, *, through_proxy: bool = False) -> list[Process]:
        """Start or stop processes until just so many are there, ready."""
        if through_proxy != self._through_proxy:
            self.new_service(through_proxy=through_proxy)
        self.workers = [worker for worker in self.workers if worker.process.poll() is None]
        started = [self.start_worker() for _ in range(count - len(self.workers))]
        for worker in started:
            worker.wait_until_ready()
        for worker in self.workers[count:]:
            self.stop_worker(worker)
        return list(self.workers)

    def revive_workers(self) -> str | None:
        """Start again what ended by itself, as a service manager would; says that it did."""
        ended = [worker for worker in self.workers if worker.process.poll() is not None]
        for worker in ended:
            self.workers.remove(worker)
            self.start_worker()
        return f"{len(ended)} ended by itself, and was started again" if ended else None

    def stop_worker(self, worker: Process) -> None:
        """SIGTERM, as a service manager stops a service; returns when it has ended."""
        self.workers.remove(worker)
        worker.stop()

    def kill_worker(self, worker: Process) -> None:
        """SIGKILL."""
        self.workers.remove(worker)
        worker.kill()

    def load(self, **options: Any) -> Load:
        """A load on the request topic of the service."""
        return Load(
            self.broker.address,
            self.settings.request_topic,
            self.settings.response_topic,
            **{
                "rate": self.rate,
                "watch": self.revive_workers,
                "isolation_level": self.subject.isolation_level,
                "carries_source": self.subject.carries_source,
                **options,
            },
        )

    # The broker

    def start_broker(self) -> None:
        """Start the broker where it was, on the data that it left."""
        self.broker.start(port=self.broker.port)

    def stop_broker(self) -> None:
        """Stop the broker cleanly."""
        self.broker.stop()

    def kill_broker(self) -> None:
        """SIGKILL to the broker."""
        os.kill(self.broker.pid, signal.SIGKILL)
        self._reap_broker()

    def fill_disk(self) -> None:
        """Let the broker write no more, as on a full disk; it ends by itself.

        Instead of a file system of its own, which needs root, the process may make no file larger:
        Kafka meets the same failing write, if by another error number.
        """
        _, hard = resource.prlimit(self.broker.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(self.broker.pid, resource.RLIMIT_FSIZE, (0, hard))
        self._reap_broker()

    def _reap_broker(self) -> None:
        assert self.broker.wait(BROKER_ENDS_WITHIN_S), "the broker did not end"
        self.broker.stop()

    # The response topic

    def set_read_only(self, topic: str) -> None:
        """Forbid everybody to write a topic."""
        for operation, permission in ((_ALL, _ALLOW), (_WRITE, _DENY)):
            rule = CreateAclsRequest(_TOPIC, topic, _LITERAL, "User:*", "*", operation, permission)
            self._ask(rule, "creation_responses")

    def set_writable(self, topic: str) -> None:
        """Take back what `set_read_only` did."""
        rules = DeleteAclsRequest(_TOPIC, topic, _LITERAL, None, None, _ANY, _ANY)
        self._ask(rules, "filter_responses")

    def delete_topic(self, topic: str) -> list[Answer]:
        """Delete a topic; gives what the broker had taken on it.

        A reader may not have seen all of that, but Kafka keeps the files of a deleted topic for a
        minute.
        """

        async def delete() -> None:
            admin = AIOKafkaAdminClient(bootstrap_servers=self.broker.address)
            await admin.start()
            try:
                await admin.delete_topics([topic])
            finally:
                await admin.close()

        asyncio.run(delete())
        pattern = re.compile(rf"{re.escape(topic)}-\d+\.[^.]*-delete")
        data = self.folder / "broker" / "data"

        def deleted() -> list[Path]:
            found = [path for path in data.iterdir() if pattern.fullmatch(path.name)]
            return found if len(found) == self._partitions else []

        folders = eventually(deleted, 30, "the deleted partitions")
        return [answer for folder in folders for answer in _records(folder)]

    def create_topics(self) -> None:
        """Create the topics of the service that are missing."""
        asyncio.run(ensure_topics(self.settings))

    def _ask(self, request: Any, results: str) -> None:
        async def ask() -> None:
            client = AIOKafkaClient(bootstrap_servers=self.broker.address)
            await client.bootstrap()
            try:
                answer = await client.send(client.get_random_node(), request)
            finally:
                await client.close()
            refused = [one for one in answer.to_object()[results] if one["error_code"]]
            assert not refused, refused

        asyncio.run(ask())


def _records(folder: Path) -> Iterator[Answer]:
    """The records of a partition, from the files of its log; of transactions those committed."""
    now = time.monotonic()
    partition = int(folder.name.partition(".")[0].rpartition("-")[2])
    open_transactions: dict[int, list[Answer]] = {}
    for segment in sorted(folder.glob("*.log")):
        batches = MemoryRecords(segment.read_bytes())
        while (batch := batches.next_batch()) is not None:
            answers = [
                Answer(partition, record.offset, record.key, record.value, record.headers, now)
                for record in batch
            ]
            if batch.is_control_batch:
                ended = open_transactions.pop(batch.producer_id, [])
                yield from ended if answers[0].key == COMMIT_MARKER else []
            elif batch.is_transactional:
                open_transactions.setdefault(batch.producer_id, []).extend(answers)
            else:
                yield from answers


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port
