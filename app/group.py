"""What all workers of the group do together, read from Kafka by each of them."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError
from aiokafka.structs import ConsumerRecord, TopicPartition
from mode import Service

from app.changelogs import CHANGELOGS, TOTALS
from app.dead_letter_tail import DeadLetterTail
from app.kafka import client_options, close
from app.latency import percentiles
from app.records import Throughput, add_counts
from app.settings import Settings
from app.tables import TOTAL_KEY, WINDOW_KEY, WINDOW_S, Unreadable
from app.topics import PartitionState, partition_states

HISTORY_S = 300.0
RATE_WINDOWS = 2
"""Windows over which the rates of this moment are taken."""
WORKER_MAX_AGE_S = 10.0
"""A worker that has not been heard of for longer is gone."""
PARTITIONS_EVERY_S = 2.0
RETRY_S = 1.0
PERCENTS = (50, 95, 99)


class GroupView(Service):  # type: ignore[misc]
    """Follows the changelogs of the throughput tables, and how far the group has read."""

    def __init__(self, settings: Settings, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.settings = settings
        self.dead_letter_tail = DeadLetterTail(settings)
        self._totals_topic = TOTALS.topic(settings)
        self._unreadable = Unreadable()
        self._windows: dict[float, dict[str, Throughput]] = {}
        self._latest: dict[str, Throughput] = {}
        self._totals: dict[str, Throughput] = {}
        self._partitions: list[PartitionState] = []
        self._last_answer = 0.0
        self._consumer: AIOKafkaConsumer | None = None
        self._admin: AIOKafkaAdminClient | None = None

    def on_init_dependencies(self) -> list[Service]:
        """What starts and stops with it."""
        return [self.dead_letter_tail]

    async def on_start(self) -> None:
        """Connect, and read the changelogs from the beginning; waits for a broker that is away."""
        while not self.should_stop:
            try:
                await self._connect()
                break
            except KafkaError as error:
                self.log.warning("waiting for the broker: %s", error)
                await self.on_stop()
                await self.sleep(RETRY_S)

    async def _connect(self) -> None:
        self._consumer = consumer = AIOKafkaConsumer(**client_options(self.settings))
        self._admin = AIOKafkaAdminClient(**client_options(self.settings))
        await consumer.start()
        await self._admin.start()
        changelogs = [TopicPartition(changelog.topic(self.settings), 0) for changelog in CHANGELOGS]
        consumer.assign(changelogs)
        await consumer.seek_to_beginning(*changelogs)

    async def on_stop(self) -> None:
        """Disconnect."""
        with suppress(KafkaError):
            if self._consumer is not None:
                await close(self._consumer)
            if self._admin is not None:
                await self._admin.close()

    @property
    def seconds_since_answer(self) -> float:
        """How long ago the broker last answered."""
        return time.monotonic() - self._last_answer

    @Service.task  # type: ignore[untyped-decorator]
    async def _follow_changelogs(self) -> None:
        consumer = self._consumer
        assert consumer is not None
        while not self.should_stop:
            try:
                fetched = await consumer.getmany(timeout_ms=500)
            except KafkaError as error:
                self.log.warning("changelogs cannot be read: %s", error)
                await self.sleep(RETRY_S)
                continue
            for record in (record for records in fetched.values() for record in records):
                self._apply(record)
            self._forget_old_windows()

    @Service.task  # type: ignore[untyped-decorator]
    async def _follow_partitions(self) -> None:
        consumer, admin = self._consumer, self._admin
        assert consumer is not None
        assert admin is not None
        silent = False
        while not self.should_stop:
            try:
                async with asyncio.timeout(PARTITIONS_EVERY_S * 2):
                    self._partitions = await partition_states(self.settings, consumer, admin)
                self._last_answer = time.monotonic()
                silent = False
            except (KafkaError, TimeoutError) as error:
                if not silent:
                    self.log.warning(
                        "the broker does not answer: %s", error or type(error).__name__
                    )
                silent = True
            await self.sleep(PARTITIONS_EVERY_S)

    def _apply(self, record: ConsumerRecord) -> None:
        """Take over one record of a changelog; one without a value tells nothing."""
        if record.value is None:
            return
        try:
            value = Throughput.read(record.value)
            if record.topic == self._totals_topic:
                self._totals[TOTAL_KEY.validate_json(record.key or b"")] = value
                return
            name, (start, _) = WINDOW_KEY.validate_json(record.key or b"")
        except ValueError as error:
            self._unreadable(record, error)
        else:
            self._windows.setdefault(start, {})[name] = value
            known = self._latest.get(value.worker)
            if known is None or known.time <= value.time:
                self._latest[value.worker] = value

    def _forget_old_windows(self) -> None:
        oldest = time.time() - HISTORY_S - WINDOW_S
        for start in [start for start in self._windows if start < oldest]:
            del self._windows[start]
        for name in [name for name, worker in self._latest.items() if worker.time < oldest]:
            del self._latest[name]

    def workers(self) -> list[dict[str, Any]]:
        """Every worker that was heard of in the last seconds, by name."""
        now = time.time()
        recent = self._recent_windows(now)
        return [
            self._describe_worker(worker, recent)
            for _, worker in sorted(self._latest.items())
            if now - worker.time < WORKER_MAX_AGE_S
        ]

    def _describe_worker(
        self, worker: Throughput, recent: list[Mapping[str, Throughput]]
    ) -> dict[str, Any]:
        mine = [
            record
            for window in recent
            for record in window.values()
            if record.worker == worker.worker
        ]
        point = _point(worker.time, mine, _seconds(mine))
        return {
            "name": worker.worker,
            "host": worker.host,
            "pid": worker.pid,
            "page": worker.page,
            "started_at": worker.started_at,
            "partitions": worker.partitions,
            "device": ", ".join(worker.devices),
            "dtype": worker.dtype,
            "models": sorted({record.model for record in mine}) or [worker.model],
            "last_seen": worker.time,
            "documents_per_s": point["documents_per_s"],
            "batch_size": point["batch_size"],
            "batch_segments": point["batch_segments"],
            "latency_ms": point["latency_ms"],
        }

    def partitions(self) -> list[dict[str, Any]]:
        """Committed offset, end, lag and owner of each partition of the request topic."""
        now = time.time()
        owners = {
            partition: worker.worker
            for worker in sorted(self._latest.values(), key=lambda worker: worker.time)
            if now - worker.time < WORKER_MAX_AGE_S
            for partition in worker.partitions
        }
        return [
            {**asdict(state), "lag": state.lag, "worker": owners.get(state.partition)}
            for state in self._partitions
        ]

    def throughput(self) -> dict[str, Any]:
        """Rates of this moment, those of the last minutes, and everything ever counted."""
        now = time.time()
        recent = [record for window in self._recent_windows(now) for record in window.values()]
        totals = list(self._totals.values())
        return {
            "interval_s": WINDOW_S,
            "now": _point(now, recent, _seconds(recent)),
            "history": self._history(now),
            "total": {
                name: sum(getattr(total, name) for total in totals)
                for name in ("records", "documents", "tokens")
            }
            | {"errors": sum(sum(total.errors.values()) for total in totals)},
        }

    def errors(self) -> dict[str, int]:
        """Errors by code since the beginning."""
        return _sum_counts(total.errors for total in self._totals.values())

    def dead_letters(self) -> dict[str, Any]:
        """The latest dead letters, and how many came in the last minutes by code."""
        recent = [record.errors for window in self._windows.values() for record in window.values()]
        return {**self.dead_letter_tail.latest(), "recent": _sum_counts(recent)}

    def labels(self) -> dict[str, int]:
        """Predictions by label since the beginning."""
        return _sum_counts(total.labels for total in self._totals.values())

    def _recent_windows(self, now: float) -> list[Mapping[str, Throughput]]:
        oldest = now - (RATE_WINDOWS + 0.5) * WINDOW_S
        starts = deque(sorted(start for start in self._windows if start > oldest), RATE_WINDOWS)
        return [self._windows[start] for start in starts]

    def _history(self, now: float) -> list[dict[str, Any]]:
        """A point for each window of the last minutes, also for one in which nothing came.

        Where a worker could not tell of what it did, the next window holds that, too.
        """
        newest = now // WINDOW_S * WINDOW_S - WINDOW_S
        count = int(HISTORY_S / WINDOW_S)
        starts = [newest - step * WINDOW_S for step in reversed(range(count))]
        windows = [(start, list(self._windows.get(start, {}).values())) for start in starts]
        return [
            _point(start + WINDOW_S, records, max(WINDOW_S, _seconds(records)))
            for start, records in windows
        ]


def _seconds(records: list[Throughput]) -> float:
    """Time that the records cover: that of the worker and model that cover most."""
    covered: dict[tuple[str, str], float] = {}
    for record in records:
        key = record.model, record.worker
        covered[key] = covered.get(key, 0.0) + record.seconds
    return max(covered.values(), default=0.0) or WINDOW_S


def _point(at: float, records: list[Throughput], seconds: float) -> dict[str, Any]:
    batches = sum(record.batches for record in records)
    documents = sum(record.batched_documents for record in records)
    segments = sum(record.batched_segments for record in records)
    return {
        "time": at,
        "records_per_s": sum(record.records for record in records) / seconds,
        "documents_per_s": sum(record.documents for record in records) / seconds,
        "tokens_per_s": sum(record.tokens for record in records) / seconds,
        "errors_per_s": sum(sum(record.errors.values()) for record in records) / seconds,
        "batch_size": documents / batches if batches else None,
        "batch_segments": segments / batches if batches else None,
        "latency_ms": percentiles(_sum_counts(record.latency_ms for record in records), PERCENTS),
    }


def _sum_counts(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    summed: dict[str, int] = {}
    for count in counts:
        summed = add_counts(summed, count)
    return summed
