"""Faust's aiokafka transport with bertstream's promise about offsets.

Faust commits by looking for runs of consecutive acknowledged offsets, which skips records when
acknowledgements come out of order, when nothing is committed yet, or after gaps. Here an
`OffsetTracker` for each partition knows which records were handed over, and what is committed is
the offset before which every one of them has been answered, with those behind it that are, too.

Faust also makes four tasks for each record that it hands over; requests are handed over without.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from aiokafka.errors import CommitFailedError
from faust.events import Event
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, Message
from faust.types.tuples import ConsumerMessage
from mode import Service

from app.delivery import MAX_AWAITING_DELIVERY
from app.fetching import MAX_FETCHED, REBALANCE_DRAIN_S, ConsumerThread, RebalanceListener
from app.kafka import client_options
from app.offsets import Commit, OffsetTracker
from app.recurrence import Recurrence
from app.settings import MAX_BATCH_BYTES, MEBIBYTE, PREFIX, Settings

COMMIT_INTERVAL_S = 0.2
"""What was answered since the last commit is answered again after a crash."""
LAST_DELIVERY_S = 1.0
LAST_COMMIT_S = 1.5
DRAIN_POLL_S = 0.05
PRODUCER_TIMEOUT_S = 20.0
MAX_REPLACED = 3
REPLACED_S = 60.0
"""A static member that was replaced more often than that in this time is not the only one."""
NAMESAKE_S = 10.0
"""How soon it is replaced again by the other one."""
MAX_OPEN_BYTES = 64 * MEBIBYTE
"""Bytes of requests that were handed over and are not answered; a larger one goes in alone."""
MAX_OPEN_REQUESTS = MAX_AWAITING_DELIVERY
"""Requests that were handed over and cannot be committed. Not more than outcomes have room: those
behind a slow request, which wait for it in a transaction, would keep its own from coming."""


class Consumer(driver.Consumer):  # type: ignore[misc]
    """Consumer that commits what has been answered, in order, and nothing else."""

    RebalanceListener = RebalanceListener

    def __init__(
        self,
        transport: Transport,
        callback: Callable[[Message], Awaitable[None]],
        *args: Any,
        **kwargs: Any,
    ) -> None:
        self._trackers: dict[TP, OffsetTracker] = {}
        self.open_records = 0
        """Records that were handed over and cannot be committed yet."""
        self.open_bytes = 0
        """Bytes of those that are not answered."""
        self._open_bytes: Counter[TP] = Counter()
        self._room = asyncio.Event()
        self._letting_go = False
        self._fetched_in = 0
        self._not_alone_at = -NAMESAKE_S
        self._replaced = Recurrence(MAX_REPLACED, REPLACED_S)

        async def hand_over(message: Message) -> None:
            if self.app.topics.acks_enabled_for(message.topic):
                size = _size(message)
                if message.topic == self.settings.request_topic:
                    await self._room_for(size)
                self._begin(message, size)
            await callback(message)

        super().__init__(transport, hand_over, *args, **kwargs)
        # Faust's holds them weakly, at more cost; here what will not be answered is taken out.
        self._unacked_messages: set[Message] = set()

    def _new_consumer_thread(self) -> ConsumerThread:
        return ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    @property
    def settings(self) -> Settings:
        settings: Settings = self.app.settings
        return settings

    def _begin(self, message: Message, size: int) -> None:
        """Note that `message`, of this size in bytes, is handed over."""
        if message.generation_id != self.app.consumer_generation_id:
            return
        tracker = self._tracker(message)
        open_before = len(tracker)
        if tracker.begin(message.offset):
            self._open_bytes[message.tp] += size
            self.open_bytes += size
        self.open_records += len(tracker) - open_before

    async def _room_for(self, size: int) -> None:
        """Wait until a request of this size may be handed over; Faust gives up when the flow
        stops."""
        while not self._has_room(size):
            self._room.clear()
            await self._room.wait()

    def _has_room(self, size: int) -> bool:
        """Whether a request of this size, in bytes, may be handed over."""
        return self.open_records < MAX_OPEN_REQUESTS and (
            not self.open_bytes or self.open_bytes + size <= MAX_OPEN_BYTES
        )

    @property
    def has_room_for_more(self) -> bool:
        """Whether as many requests as are fetched at once may be handed over, if none is large."""
        return (
            self.open_records + MAX_FETCHED <= MAX_OPEN_REQUESTS
            and self.open_bytes + MAX_BATCH_BYTES <= MAX_OPEN_BYTES
        )

    def _tracker(self, message: Message) -> OffsetTracker:
        """The tracker of the partition, in the generation of the message."""
        tracker = self._trackers.get(message.tp)
        if tracker is None or tracker.generation != message.generation_id:
            self._forget(message.tp)
            tracker = OffsetTracker(message.generation_id, self._thread.found.get(message.tp))
            self._trackers[message.tp] = tracker
        return tracker

    def _forget(self, tp: TP) -> None:
        """Follow the records of a partition no more."""
        self.open_records -= len(self._trackers.pop(tp, ()))
        self.open_bytes -= self._open_bytes.pop(tp, 0)

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
        size = _size(message)
        self._open_bytes[message.tp] -= size
        self.open_bytes -= size
        self._room.set()
        if self._thread.held_back and self.has_room_for_more:
            self._thread.look_again()
        return True

    def finish(self, message: Message) -> bool:
        """Note that `message` has been answered; False for one of an old generation."""
        if not self.owns(message):
            return False
        tracker = self._trackers[message.tp]
        open_before = len(tracker)
        tracker.finish(message.offset)
        self.open_records += len(tracker) - open_before
        return True

    def owns(self, message: Message) -> bool:
        """Whether the partition of `message` is ours, without a break since it was handed over."""
        tracker = self._trackers.get(message.tp)
        return tracker is not None and tracker.generation == message.generation_id

    def may_answer(self, message: Message) -> bool:
        """Whether an answer to `message`, sent now, can still be committed."""
        return self.owns(message) and not self._letting_go

    def answered_upto(self, tp: TP) -> int:
        """Offset before which every request of the partition has been answered."""
        tracker = self._trackers.get(tp)
        return 0 if tracker is None else tracker.answered_upto

    async def read_again(self) -> None:
        """Have everything read again that was handed over and will not be answered."""
        self._unacked_messages.clear()
        await self._thread.rejoin()

    async def _getmany(
        self,
        active_partitions: set[TP] | None,
        timeout: float,  # noqa: ASYNC109 - as Faust calls it
    ) -> Any:
        records = await super()._getmany(active_partitions, timeout)
        self._fetched_in = self._thread.fetched_in
        return records

    async def _wait_next_records(self, timeout: float) -> Any:  # noqa: ASYNC109 - as Faust calls it
        """Hand requests over in chunks; Faust does the rest, with four tasks for each record."""
        records, active_partitions = await super()._wait_next_records(timeout)
        topic = self.settings.request_topic
        requests = {tp: fetched for tp, fetched in (records or {}).items() if tp.topic == topic}
        if not requests:
            return records, active_partitions
        if self.flow_active:
            await self.wait_first(self._hand_over(requests), self.suspend_flow.wait())
        others = {tp: fetched for tp, fetched in records.items() if tp not in requests}
        return others, active_partitions

    async def _hand_over(self, requests: Mapping[TP, Sequence[Any]]) -> None:
        """Hand over what was fetched."""
        await self.app.flow_control.acquire()
        for tp, records in requests.items():
            messages: list[Message] = []
            for record in records:
                message = self._to_message(tp, record)
                size = _size(message)
                if not self._has_room(size):
                    # For those before it to be answered they have to be on their way.
                    self._put(tp, messages)
                    messages = []
                    await self._room_for(size)
                self._begin(message, size)
                messages.append(message)
            self._put(tp, messages)
            self._read_offset[tp] = records[-1].offset
            self.app.monitor.track_tp_end_offset(tp, self.highwater(tp))
            await asyncio.sleep(0)

    def _put(self, tp: TP, messages: Sequence[Message]) -> None:
        """Put requests before the streams of their topic; the bound is `MAX_OPEN_REQUESTS`."""
        channels = self.app.topics._tp_index[tp]
        for message in messages:
            message.incref(len(channels))
        for channel in channels:
            channel.queue.put_many(
                [Event(self.app, one.key, one.value, one.headers, one) for one in messages]
            )

    def _to_message(self, tp: TP, record: Any) -> Message:
        return ConsumerMessage(
            record.topic,
            record.partition,
            record.offset,
            (record.timestamp or 0) / 1000,  # none in the oldest format
            record.timestamp_type,
            record.headers,
            record.key,
            record.value,
            record.checksum,
            record.serialized_key_size,
            record.serialized_value_size,
            tp,
            generation_id=self._fetched_in,
        )

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        """Take the partitions.

        A static member that was replaced comes back at once, into the same generation, and
        replaces the other.
        """
        if self._thread.returned and self.settings.worker_id and self._replaced.happened():
            self._not_alone_at = time.monotonic()
        await super().on_partitions_assigned(assigned, generation_id)

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Finish and commit what is under way, then forget the partitions."""
        if time.monotonic() - self._not_alone_at < NAMESAKE_S:
            # At once, not to join again and take the place from the other.
            self.app.end_at_once(
                f"another live worker has the {PREFIX}WORKER_ID {self.settings.worker_id}: "
                "give each an id of its own"
            )
        await super().on_partitions_revoked(revoked)
        if self.app.should_stop:  # then Faust waits for nothing here
            await self._let_go(REBALANCE_DRAIN_S)
        for tp in revoked:
            self._forget(tp)
        self._unacked_messages.clear()  # Kafka's eager protocol takes all partitions away
        self._letting_go = False
        await self.app.publisher.on_partitions_revoked()
        self._room.set()
        self.app.pool.drop(lambda job: not self.owns(job.event.message))

    async def wait_empty(self) -> None:
        """Wait until what streams have taken is answered, but not for long; commit."""
        in_rebalance = not self.app.should_stop  # the whole group waits with us
        await self._let_go(REBALANCE_DRAIN_S if in_rebalance else self.settings.drain_timeout_s)

    async def _let_go(self, limit_s: float) -> None:
        """Wait for the answers that are under way, at most `limit_s` seconds; commit.

        What is not answered by then is read again by the next owner.
        """
        await self._wait_for_answers(limit_s)
        self._letting_go = True
        if self._unacked_messages:
            self.log.info(
                "%d records were not answered in time and will be read again",
                len(self._unacked_messages),
            )
            self.app.pool.drop(lambda _: True)
            self._unacked_messages.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(LAST_DELIVERY_S):
                await self.app.publisher.settle()
        with suppress(TimeoutError):
            async with asyncio.timeout(LAST_COMMIT_S):
                # `commit()` does nothing but wait where one is under way, which knows less.
                while self.uncommitted():
                    if not await self.commit():
                        await asyncio.sleep(DRAIN_POLL_S)

    async def _wait_for_answers(self, limit_s: float) -> None:
        """Wait for what is not acknowledged; a pool that has crashed answers nothing any more."""
        with suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                while self._unacked_messages and not self.app.pool.crashed:
                    await self.commit()
                    # Not `_wait_for_ack()`, which swallows the cancellation of the deadline.
                    await asyncio.sleep(DRAIN_POLL_S)

    async def maybe_wait_for_commit_to_finish(self) -> bool:
        """Wait for a commit that is under way; whether there was one.

        Faust's own swallows the cancellation of a deadline, and goes on without it.
        """
        if self._commit_fut is None:
            return False
        await asyncio.wait({self._commit_fut})
        return True

    @Service.task  # type: ignore[untyped-decorator]
    async def _commit_handler(self) -> None:
        """Commit again and again; one that takes long, as when a broker hangs, is no overlap."""
        while not self.should_stop:
            await self.sleep(COMMIT_INTERVAL_S)
            await self.commit()

    def uncommitted(self) -> dict[TP, Commit]:
        """What to commit next, by partition; what transactions commit is none of it."""
        in_transactions = (
            self.settings.request_topic if self.settings.delivery == "exactly-once" else None
        )
        return {
            tp: commit
            for tp, tracker in self._trackers.items()
            if tp.topic != in_transactions and (commit := tracker.committable) is not None
        }

    def _filter_tps_with_pending_acks(self, topics: Any = None) -> Iterator[TP]:
        return (
            tp for tp in self.uncommitted() if topics is None or tp in topics or tp.topic in topics
        )

    async def _commit_tps(self, tps: Iterable[TP], start_new_transaction: bool) -> bool:
        uncommitted = self.uncommitted()
        commits = {tp: uncommitted[tp] for tp in tps}
        requests = self.settings.request_topic
        changelogs_first = any(tp.topic != requests for tp in commits)
        if changelogs_first and not await self.app.flush_in_time():
            commits = {tp: commit for tp, commit in commits.items() if tp.topic == requests}
        if not commits:
            return False
        trackers = {tp: self._trackers[tp] for tp in commits}
        try:
            if not await self._commit(commits):
                return False
        except CommitFailedError:
            self.log.warning("offsets not committed: the group has gone on without this worker")
            for tracker in trackers.values():
                tracker.close()
            return False
        for tp, commit in commits.items():
            trackers[tp].committed = commit
        offsets = {tp: commit.offset for tp, commit in commits.items()}
        self._committed_offset.update(offsets)
        self.app.tables.on_commit(offsets)
        self.app.monitor.on_tp_commit(offsets)
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
    size = len(message.key or b"") + len(message.value or b"")
    for name, value in message.headers or ():
        size += len(name) + len(value or b"")
    return size
