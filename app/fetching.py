"""The thread that fetches from Kafka, and what keeps the records of a partition in order.

Within one assignment, the records of a partition are handed over one after the other, from the
committed offset on. Faust alone does not see to that: it lets partitions be read before it seeks,
drops what was fetched of a partition that it has paused meanwhile, and hands over what it fetched
in the assignment before. A record that comes late, behind a later one that was answered, would be
taken for a repeat, and its offset committed past.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.consumer.fetcher import FetchResult
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from aiokafka.errors import CommitFailedError, KafkaError, OffsetMetadataTooLargeError
from aiokafka.structs import OffsetAndMetadata, TopicPartition
from faust.transport.drivers import aiokafka as driver
from faust.types import TP

from app.kafka import client_options
from app.offsets import Commit, cluster_id, committed_offsets
from app.settings import Settings

HEARTBEAT_S = 1.0
MAX_POLL_INTERVAL_S = 24 * 3600
"""aiokafka leaves the group when nothing was fetched for this long, as when responses cannot be
written for hours. What else could hang has a limit of its own."""
COMMITTED_TIMEOUT_S = 10.0
RETRY_S = 0.5
MAX_FETCHED = 512
"""Records that are handed over before others are looked for."""
MAX_OF_PARTITION = 64
"""Of one partition."""
REBALANCE_DRAIN_S = 1.5
"""Longest that a rebalance waits for all that is under way."""
REBALANCE_TIMEOUT_S = 12.0
"""After which the group goes on without a member: the drain, the last commit, the last records of
the tables, and the way to the broker."""


class Fetchable:
    """The partitions whose records may leave the fetcher, at the moment that this is asked.

    Empty or not, it counts as true: aiokafka takes an empty collection for all partitions.
    """

    def __init__(self, thread: ConsumerThread, active: Collection[TP]) -> None:
        """
        Args:
            active: changes while this is in use, as Faust pauses and resumes partitions.
        """
        self._thread = thread
        self._active = active

    def __contains__(self, tp: TopicPartition) -> bool:
        thread = self._thread
        changelogs = thread.app.tables.changelog_topics
        return (
            tp in self._active
            and (thread.is_in_place or tp.topic in changelogs)
            and (tp.topic != thread.settings.request_topic or thread.may_fetch_requests())
        )


class RebalanceListener(driver.ConsumerRebalanceListener):  # type: ignore[misc]
    """Numbers assignments by ourselves: a static member may come back into its old generation."""

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """Tell the application of its new partitions."""
        thread = self._thread
        number = thread.next_assignment()
        thread.app.consumer_generation_id = number
        await thread.on_partitions_assigned(driver.ensure_TPset(assigned), number)


class ConsumerThread(driver.AIOKafkaConsumerThread):  # type: ignore[misc]
    """The thread that fetches and sends heartbeats, whatever the event loop is busy with."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.assignments = 0
        """How often partitions were assigned."""
        self.fetched_in = 0
        """The assignment in which the records were fetched that `getmany` gave last."""
        self.held_back = False
        """Whether requests were not fetched for want of room: `look_again()` when there is some."""
        self.returned = False
        """Whether the last assignment was of the same generation of the group as the one before."""
        self.found: Mapping[TP, Commit] = {}
        """What was committed of each partition when it was assigned."""
        self._cluster = ""
        self._generation = 0
        self._sought = 0

    @property
    def settings(self) -> Settings:
        settings: Settings = self.app.settings
        return settings

    @property
    def is_in_place(self) -> bool:
        """Whether the partitions of the present assignment stand where they are to be read."""
        return self._sought == self.assignments

    def may_fetch_requests(self) -> bool:
        """Whether there is room for what is fetched at once; where not, others go on alone."""
        if self.consumer.has_room_for_more:
            return True
        self.held_back = True
        return bool(self.consumer.has_room_for_more)  # it may have come before that was said

    def look_again(self) -> None:
        """Have the fetcher look again at what it may give out; called in any thread."""
        self.held_back = False
        if not self.should_stop:  # then its loop may be closed
            self.thread_loop.call_soon_threadsafe(self._look_again)

    def _look_again(self) -> None:
        fetcher = self._ensure_consumer()._fetcher
        for waiter in list(fetcher._fetch_waiters):
            fetcher._notify(waiter)

    def next_assignment(self) -> int:
        """Count a new assignment; called in this thread, before anything is fetched in it."""
        generation = self._ensure_consumer()._coordinator.generation
        self.returned = generation == self._generation
        self._generation = generation
        self.assignments += 1
        return self.assignments

    async def _fetch_records(
        self,
        consumer: AIOKafkaConsumer,
        active_partitions: Collection[TP],
        timeout: float | None = None,  # noqa: ASYNC109 - as Faust calls it
        max_records: int | None = None,
    ) -> Any:
        """Fetch some records of each partition that is active and in place, if there are any.

        All that is there may take minutes to be answered. What is behind it, on other partitions
        or of other topics, as the statistics of the group, would wait for it.
        """
        fetchable = Fetchable(self, active_partitions)
        records = dict(await super()._fetch_records(consumer, fetchable, timeout, MAX_OF_PARTITION))
        self.fetched_in = self.assignments
        fetcher = consumer._fetcher
        for tp, result in list(fetcher._records.items()):
            if sum(map(len, records.values())) > MAX_FETCHED - MAX_OF_PARTITION:
                break
            # One that waits, as for an assignment, or raises would lose what is fetched already.
            ready = isinstance(result, FetchResult) and not self._is_reassigning(consumer)
            if ready and tp not in records and tp in fetchable:
                records |= await super()._fetch_records(consumer, {tp}, 0, MAX_OF_PARTITION)
        for tp in records.keys() & fetcher._records.keys():
            fetcher._records[tp] = fetcher._records.pop(tp)  # behind the others
        return records

    def _is_reassigning(self, consumer: AIOKafkaConsumer) -> bool:
        return bool(consumer._fetcher._subscriptions.reassignment_in_progress)

    def _create_worker_consumer(self, transport: driver.Transport) -> AIOKafkaConsumer:
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
            rebalance_timeout_ms=int(REBALANCE_TIMEOUT_S * 1000),
            max_poll_interval_ms=MAX_POLL_INTERVAL_S * 1000,
        )

    async def _commit(self, commits: Mapping[TP, Commit]) -> bool:
        consumer = self._ensure_consumer()
        assignment = self.assignment()
        mine = {
            driver.ensure_aiokafka_TP(tp): commit
            for tp, commit in commits.items()
            if tp in assignment
        }
        if not mine:
            return False
        try:
            await consumer.commit(self._with_metadata(mine))
        except CommitFailedError:
            raise
        except OffsetMetadataTooLargeError:
            self.log.warning(
                "the broker takes less metadata (offset.metadata.max.bytes), the next commit does "
                "without: what was answered behind an open request is answered again by its next "
                "owner"
            )
            self._cluster = ""
            return False
        except KafkaError as error:
            # Nothing is lost: the offsets stay committable, here or with their new owner.
            self.log.warning("offsets were not committed, the next commit tries again: %s", error)
            return False
        return True

    def _with_metadata(
        self, commits: Mapping[TopicPartition, Commit]
    ) -> dict[TopicPartition, OffsetAndMetadata]:
        return {
            tp: OffsetAndMetadata(commit.offset, commit.metadata(self._cluster))
            for tp, commit in commits.items()
        }

    async def seek_to_committed(self) -> Mapping[TP, int]:
        """Seek to the committed offsets; without one, to where the group begins.

        aiokafka leaves a partition that has no committed offset where it happens to stand, which
        skips what was fetched and thrown away during a rebalance.
        """
        offsets: Mapping[TP, int] = await self.call_thread(self._seek_to_committed)
        return offsets

    async def _seek_to_committed(self) -> dict[TP, int]:
        consumer = self._ensure_consumer()
        assignment = self.assignments
        partitions = consumer.assignment()
        committed = await self._committed(consumer, partitions)
        new = [tp for tp in partitions if tp not in committed]
        if new and self.settings.auto_offset_reset == "latest":
            # Committed at once, or a rebalance before the first answer would skip its request.
            ends = await consumer.end_offsets(new)
            await consumer.commit(ends)
            committed |= {tp: Commit(offset) for tp, offset in ends.items()}
        elif new:
            await consumer.seek_to_beginning(*new)
        for tp, commit in committed.items():
            consumer.seek(tp, commit.offset)
        self.found = {TP(*tp): commit for tp, commit in committed.items()}
        self._sought = assignment
        self._look_again()
        return {tp: commit.offset for tp, commit in self.found.items()}

    async def _committed(
        self, consumer: AIOKafkaConsumer, partitions: Collection[TopicPartition]
    ) -> dict[TopicPartition, Commit]:
        """What is committed of the partitions of which anything is."""
        async with asyncio.timeout(COMMITTED_TIMEOUT_S):
            while True:
                try:
                    self._cluster = await cluster_id(consumer._client)
                    found = await committed_offsets(consumer._client, self.app.conf.id, partitions)
                except KafkaError as error:
                    self.log.warning("asking for the committed offsets again: %s", error)
                    await asyncio.sleep(RETRY_S)
                else:
                    break
        return {
            tp: Commit.read(committed.offset, committed.metadata, self._cluster)
            for tp, committed in found.items()
            if committed is not None
        }

    async def rejoin(self) -> None:
        """Join the group anew, so that everything uncommitted is read again."""
        await self.call_thread(self._rejoin)

    async def _rejoin(self) -> None:
        self._ensure_consumer()._coordinator.request_rejoin()
