"""Faust's aiokafka transport with bertstream's promise about offsets.

Faust commits by looking for runs of consecutive acknowledged offsets, which skips records when
acknowledgements come out of order, when nothing is committed yet, or after gaps. Here an
`OffsetTracker` for each partition knows which records were handed over, and what is committed is
the offset before which every one of them has been answered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from aiokafka.errors import KafkaError
from aiokafka.structs import OffsetAndMetadata
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, Message

from app.kafka import client_options
from app.offsets import OffsetTracker
from app.settings import MAX_BATCH_BYTES, Settings

SESSION_TIMEOUT_S = 8.0
HEARTBEAT_S = 2.0
LAST_COMMIT_S = 3.0
DRAIN_POLL_S = 0.05


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
            session_timeout_ms=int(SESSION_TIMEOUT_S * 1000),
            heartbeat_interval_ms=int(HEARTBEAT_S * 1000),
            rebalance_timeout_ms=int((settings.drain_timeout_s + SESSION_TIMEOUT_S) * 1000),
            max_poll_interval_ms=int(self.app.conf.broker_max_poll_interval * 1000),
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
        except KafkaError as error:
            # Nothing is lost: the offsets stay committable, here or with their new owner.
            self.log.warning("offsets were not committed, the next commit tries again: %s", error)
            return False
        return True

    async def seek_to_committed(self) -> Mapping[TP, int]:
        """Seek to the committed offsets; without one, to where the group began.

        aiokafka leaves a partition that has no committed offset, or 0, where it happens to stand,
        which skips what was fetched and thrown away during a rebalance.
        """
        committed: Mapping[TP, int] = await super().seek_to_committed()
        consumer = self._ensure_consumer()
        unread = [tp for tp, offset in committed.items() if not offset]
        if unread and self.settings.auto_offset_reset == "earliest":
            await self.call_thread(consumer.seek_to_beginning, *unread)
        return committed


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

        def hand_over(message: Message) -> Awaitable[None]:
            if self.app.topics.acks_enabled_for(message.topic):
                self._tracker(message).begin(message.offset)
            return callback(message)

        super().__init__(transport, hand_over, *args, **kwargs)

    def _new_consumer_thread(self) -> ConsumerThread:
        return ConsumerThread(self, loop=self.loop, beacon=self.beacon)

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
        """Note that `message` has been answered; one of an old generation is ignored."""
        message.acked = True
        self._unacked_messages.discard(message)
        tracker = self._trackers.get(message.tp)
        if tracker is None or tracker.generation != message.generation_id:
            return False
        tracker.finish(message.offset)
        return True

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Finish and commit what is under way, then forget the partitions."""
        await super().on_partitions_revoked(revoked)
        for tp in revoked:
            self._trackers.pop(tp, None)

    async def wait_empty(self) -> None:
        """Wait until what streams have taken is answered, at most `drain_timeout_s`; commit."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self.app.settings.drain_timeout_s):
                while self._unacked_messages:
                    await self.commit()
                    # Not `_wait_for_ack()`, which swallows the cancellation of the deadline.
                    await asyncio.sleep(DRAIN_POLL_S)
        if self._unacked_messages:
            self.log.warning(
                "%d records were not answered within %.0f s and will be read again",
                len(self._unacked_messages),
                self.app.settings.drain_timeout_s,
            )
            self._unacked_messages.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(LAST_COMMIT_S):
                # `commit()` does nothing but wait where one is under way, which knows less.
                while self.uncommitted():
                    if not await self.commit():
                        await asyncio.sleep(DRAIN_POLL_S)

    def uncommitted(self) -> dict[TP, int]:
        """Offset to commit next, by partition."""
        return {
            tp: tracker.committable
            for tp, tracker in self._trackers.items()
            if tracker.committable is not None
        }

    def _filter_tps_with_pending_acks(self, topics: Any = None) -> Iterator[TP]:
        return (
            tp for tp in self.uncommitted() if topics is None or tp in topics or tp.topic in topics
        )

    async def _commit_tps(self, tps: Iterable[TP], start_new_transaction: bool) -> bool:
        uncommitted = self.uncommitted()
        offsets = {tp: uncommitted[tp] for tp in tps}
        if not offsets:
            return False
        # The offsets of a table's source must not be ahead of the table's changelog.
        await self.app.producer.flush()
        trackers = {tp: self._trackers[tp] for tp in offsets}
        if not await self._commit(offsets):
            return False
        for tp, offset in offsets.items():
            trackers[tp].committed = offset
        self._committed_offset.update(offsets)
        self.app.tables.on_commit(offsets)
        self.app.monitor.on_tp_commit(offsets)
        return True

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        """Offsets that the topic does not hold need no acknowledgement."""


class Producer(driver.Producer):  # type: ignore[misc]
    """Faust's producer, for tables and throughput records, as safe as our own."""

    def _settings_default(self) -> Mapping[str, Any]:
        return {
            **super()._settings_default(),
            "acks": "all",
            "max_request_size": MAX_BATCH_BYTES,
        }

    def _settings_auth(self) -> Mapping[str, Any]:
        return client_options(self.app.settings)

    def _settings_extra(self) -> Mapping[str, Any]:
        return {"enable_idempotence": True}


class Transport(driver.Transport):  # type: ignore[misc]
    """The aiokafka transport with our consumer and producer."""

    Consumer = Consumer
    Producer = Producer
