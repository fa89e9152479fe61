"""Faust's aiokafka transport with bertstream's promise about offsets.

Faust commits by looking for runs of consecutive acknowledged offsets, which skips records when
acknowledgements come out of order, when nothing is committed yet, or after gaps. Here an
`OffsetTracker` for each partition knows which records were handed over, and what is committed is
the offset before which every one of them has been answered.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from aiokafka.errors import CommitFailedError, KafkaError
from aiokafka.structs import OffsetAndMetadata, TopicPartition
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, Message

from app.kafka import client_options
from app.offsets import OffsetTracker, committed_offsets
from app.settings import MAX_BATCH_BYTES, MEBIBYTE, Settings

HEARTBEAT_S = 2.0
MAX_POLL_INTERVAL_S = 24 * 3600
"""aiokafka leaves the group when nothing was fetched for this long, as when responses cannot be
written for hours. What else could hang has a limit of its own."""
COMMITTED_TIMEOUT_S = 10.0
LAST_COMMIT_S = 3.0
REBALANCE_MARGIN_S = 5.0
"""What a rebalance may take beyond the drain: the last commit, and the way to the broker."""
DRAIN_POLL_S = 0.05
FLUSH_TIMEOUT_S = 5.0
PRODUCER_TIMEOUT_S = 20.0
MAX_OPEN_BYTES = 64 * MEBIBYTE
"""Bytes of requests that were handed over and are not answered; a larger one goes in alone."""


class ConsumerThread(driver.AIOKafkaConsumerThread):  # type: ignore[misc]
    """The thread that fetches and sends heartbeats, whatever the event loop is busy with."""

    @property
    def settings(self) -> Settings:
        settings: Settings = self.app.settings
        return settings

    def _create_worker_consumer(self, transport: Transport) -> AIOKafkaConsumer:
        settings = self.settings
        # Recovery of a table needs Faust's own assignor; without tables any will do.
        self._assignor = (
            self.app.assignor if self.app.tables.changelog_topics else RoundRobinPartitionAssignor
        )
        return AIOKafkaConsumer(
            **client_options(settings),
            group_id=self.app.conf.id,
            group_instance_id=settings.worker_id,
            partition_assignment_strategy=[self._assignor],
            enable_auto_commit=False,
            auto_offset_reset=settings.auto_offset_reset,
            isolation_level="read_committed",
            session_timeout_ms=int(settings.session_timeout_s * 1000),
            heartbeat_interval_ms=int(HEARTBEAT_S * 1000),
            rebalance_timeout_ms=int((settings.drain_timeout_s + REBALANCE_MARGIN_S) * 1000),
            max_poll_interval_ms=MAX_POLL_INTERVAL_S * 1000,
            max_poll_records=self.app.conf.broker_max_poll_records,
        )

    async def _commit(self, offsets: Mapping[TP, int]) -> bool:
        consumer = self._ensure_consumer()
        assignment = self.assignment()
        wanted = {
            driver.ensure_aiokafka_TP(tp): OffsetAndMetadata(offset, "")
            for tp, offset in offsets.items()
            if tp in assignment
        }
        if not wanted:
            return False
        try:
            await consumer.commit(wanted)
        except CommitFailedError:
            raise
        except KafkaError as error:
            # Nothing is lost: the offsets stay committable, here or with their new owner.
            self.log.warning("offsets were not committed, the next commit tries again: %s", error)
            return False
        return True

    async def seek_to_committed(self) -> Mapping[TP, int]:
        """Seek to the committed offsets; without one, to where the group begins.

        aiokafka leaves a partition that has no committed offset where it happens to stand, which
        skips what was fetched and thrown away during a rebalance.
        """
        offsets: Mapping[TP, int] = await self.call_thread(self._seek_to_committed)
        return offsets

    async def _seek_to_committed(self) -> dict[TP, int | None]:
        consumer = self._ensure_consumer()
        partitions = consumer.assignment()
        committed = await self._committed(consumer, partitions)
        new = [tp for tp in partitions if committed[tp] is None]
        if new and self.settings.auto_offset_reset == "latest":
            # Committed at once, or a rebalance before the first answer would skip its request.
            ends = await consumer.end_offsets(new)
            await consumer.commit(ends)
            committed |= ends
        elif new:
            await consumer.seek_to_beginning(*new)
        for tp, offset in committed.items():
            if offset is not None:
                consumer.seek(tp, offset)
        return {TP(*tp): offset for tp, offset in committed.items()}

    async def _committed(
        self, consumer: AIOKafkaConsumer, partitions: Collection[TopicPartition]
    ) -> dict[TopicPartition, int | None]:
        async with asyncio.timeout(COMMITTED_TIMEOUT_S):
            while True:
                try:
                    return await committed_offsets(consumer._client, self.app.conf.id, partitions)
                except KafkaError as error:
                    self.log.warning("asking for the committed offsets again: %s", error)
                    await asyncio.sleep(HEARTBEAT_S / 4)

    async def rejoin(self) -> None:
        """Join the group anew, so that everything uncommitted is read again."""
        await self.call_thread(self._rejoin)

    async def _rejoin(self) -> None:
        self._ensure_consumer()._coordinator.request_rejoin()


class Consumer(driver.Consumer):  # type: ignore[misc]
    """Consumer that commits what has been answered, in order, and nothing else."""

    def __init__(
        self,
        transport: Transport,
        callback: Callable[[Message], Awaitable[None]],
        *args: Any,
        **kwargs: Any,
    ) -> None:
        self._trackers: dict[TP, OffsetTracker] = {}
        self._open_bytes: Counter[TP] = Counter()
        self._room = asyncio.Event()

        async def hand_over(message: Message) -> None:
            if self.app.topics.acks_enabled_for(message.topic):
                await self._begin(message)
            await callback(message)

        super().__init__(transport, hand_over, *args, **kwargs)

    def _new_consumer_thread(self) -> ConsumerThread:
        return ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    @property
    def settings(self) -> Settings:
        settings: Settings = self.app.settings
        return settings

    async def _begin(self, message: Message) -> None:
        """Wait for room, then note that `message` is handed over; Faust gives up when the flow
        stops."""
        size = _size(message)
        requests = message.topic == self.settings.request_topic
        while requests and (open_bytes := self._open_bytes.total()):
            if open_bytes + size <= MAX_OPEN_BYTES:
                break
            self._room.clear()
            await self._room.wait()
        current = message.generation_id == self.app.consumer_generation_id
        if current and self._tracker(message).begin(message.offset):
            self._open_bytes[message.tp] += size

    def _tracker(self, message: Message) -> OffsetTracker:
        """The tracker of the partition, in the generation of the message."""
        tracker = self._trackers.get(message.tp)
        if tracker is None or tracker.generation != message.generation_id:
            tracker = self._trackers[message.tp] = OffsetTracker(message.generation_id)
        return tracker

    def take(self, message: Message) -> bool:
        """Note that a stream takes `message` up; False where it is not to, having done so.

        After a rebalance Faust may seek back over what it has handed over. Some of that has been
        thrown away before a stream took it, and the rest is under way.
        """
        if not self._tracker(message).take(message.offset):
            return False
        message.tracked = True
        self.track_message(message)
        return True

    def ack(self, message: Message) -> bool:
        """Note that `message` is done with; one of an old generation is ignored."""
        if message.acked:
            return False
        message.acked = True
        self._unacked_messages.discard(message)
        if not self.finish(message):
            return False
        self._open_bytes[message.tp] -= _size(message)
        self._room.set()
        return True

    def finish(self, message: Message) -> bool:
        """Note that `message` has been answered; False for one of an old generation."""
        tracker = self._trackers.get(message.tp)
        if tracker is None or tracker.generation != message.generation_id:
            return False
        tracker.finish(message.offset)
        return True

    def answered_upto(self, tp: TP) -> int:
        """Offset before which every request of the partition has been answered."""
        tracker = self._trackers.get(tp)
        return 0 if tracker is None else tracker.answered_upto

    async def read_again(self) -> None:
        """Have everything read again that was handed over and will not be answered."""
        self._unacked_messages.clear()
        await self._thread.rejoin()

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Finish and commit what is under way, then forget the partitions."""
        await super().on_partitions_revoked(revoked)
        await self.app.publisher.on_partitions_revoked()
        for tp in revoked:
            self._trackers.pop(tp, None)
            self._open_bytes.pop(tp, None)
        self._room.set()

    async def wait_empty(self) -> None:
        """Wait until what streams have taken is answered, at most `drain_timeout_s`; commit.

        A pool that has crashed answers nothing any more.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(self.settings.drain_timeout_s):
                while self._unacked_messages and not self.app.pool.crashed:
                    await self.commit()
                    # Not `_wait_for_ack()`, which swallows the cancellation of the deadline.
                    await asyncio.sleep(DRAIN_POLL_S)
        if self._unacked_messages:
            self.log.warning(
                "%d records were not answered within %.0f s and will be read again",
                len(self._unacked_messages),
                self.settings.drain_timeout_s,
            )
            self._unacked_messages.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(LAST_COMMIT_S):
                # `commit()` does nothing but wait where one is under way, which knows less.
                while self.uncommitted():
                    if not await self.commit():
                        await asyncio.sleep(DRAIN_POLL_S)

    def uncommitted(self) -> dict[TP, int]:
        """Offset to commit next, by partition; what transactions commit is none of it."""
        in_transactions = (
            self.settings.request_topic if self.settings.delivery == "exactly-once" else None
        )
        return {
            tp: tracker.committable
            for tp, tracker in self._trackers.items()
            if tracker.committable is not None and tp.topic != in_transactions
        }

    def _filter_tps_with_pending_acks(self, topics: Any = None) -> Iterator[TP]:
        return (
            tp for tp in self.uncommitted() if topics is None or tp in topics or tp.topic in topics
        )

    async def _commit_tps(self, tps: Iterable[TP], start_new_transaction: bool) -> bool:
        uncommitted = self.uncommitted()
        offsets = {tp: uncommitted[tp] for tp in tps}
        requests = self.settings.request_topic
        if any(tp.topic != requests for tp in offsets) and not await self._changelogs_flushed():
            offsets = {tp: offset for tp, offset in offsets.items() if tp.topic == requests}
        if not offsets:
            return False
        trackers = {tp: self._trackers[tp] for tp in offsets}
        try:
            if not await self._commit(offsets):
                return False
        except CommitFailedError:
            self.log.warning("offsets not committed: the group has gone on without this worker")
            for tracker in trackers.values():
                tracker.close()
            return False
        for tp, offset in offsets.items():
            trackers[tp].committed = offset
        self._committed_offset.update(offsets)
        self.app.tables.on_commit(offsets)
        self.app.monitor.on_tp_commit(offsets)
        return True

    async def _changelogs_flushed(self) -> bool:
        """The offsets of a table's source must not be ahead of the table's changelog."""
        try:
            async with asyncio.timeout(FLUSH_TIMEOUT_S):
                await self.app.producer.flush()
        except TimeoutError:
            return False
        return True

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Faust's watch over its own streams, for which a backlog of minutes is one that hangs."""

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        """Offsets that the topic does not hold need no acknowledgement."""


class Producer(driver.Producer):  # type: ignore[misc]
    """Faust's producer, for tables and throughput records.

    It is not idempotent: an idempotent one that the broker has refused once is refused for ever,
    and what was counted twice in a bad moment does no harm.
    """

    def _settings_default(self) -> Mapping[str, Any]:
        return {
            **super()._settings_default(),
            "acks": "all",
            "max_request_size": MAX_BATCH_BYTES,
            "request_timeout_ms": int(PRODUCER_TIMEOUT_S * 1000),
        }

    def _settings_auth(self) -> Mapping[str, Any]:
        return client_options(self.app.settings)


class Transport(driver.Transport):  # type: ignore[misc]
    """The aiokafka transport with our consumer and producer."""

    Consumer = Consumer
    Producer = Producer


def _size(message: Message) -> int:
    """Bytes of a record as they lie in memory."""
    headers = sum(len(name) + len(value or b"") for name, value in message.headers or ())
    return len(message.key or b"") + len(message.value or b"") + headers
