"""The consumer's bookkeeping against a plain model, through whatever can happen to a partition.

The model: what may be committed is the offset after the longest prefix of the records handed over
in this generation of which every one has been answered, with the answered ones behind it; those
need no answer in the next generation. Nothing of Kafka is needed for it but the answer to a
commit, which the test gives.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import pytest
from aiokafka.errors import CommitFailedError, OffsetMetadataTooLargeError
from aiokafka.structs import OffsetAndMetadata
from faust.types.tuples import TP, Message
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from app.offsets import Commit
from app.settings import Settings
from app.transport import Consumer
from app.worker import BertstreamApp, create_app
from models.inference.pool import InferencePool
from tests.word_counter import Models, WordCounter

TOPIC = "bert-requests"
PARTITIONS = [TP(TOPIC, number) for number in range(2)]
CLUSTER = "4L6g3nShT-eMCtK--X86sw"
NOTHING = Commit(0)


class Unconnected(Consumer):
    """A consumer whose commits are answered by the test."""

    refuses = False
    left_behind = False
    broker: dict[TP, Commit]

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._thread.thread_loop.close()  # of a thread that is never started

    async def _commit(self, commits: Mapping[TP, Commit]) -> bool:
        await asyncio.sleep(0)
        if self.left_behind:
            raise CommitFailedError
        if not self.refuses:
            self.broker.update(commits)
        return not self.refuses


@dataclass
class Log:
    """One partition, as the broker has it and as this generation has read it."""

    offsets: list[int]
    """What the topic holds: compaction and transactions leave gaps between them."""
    committed: Commit = NOTHING
    """By the broker."""
    found: Commit = NOTHING
    """Committed when this generation began."""
    committed_here: Commit | None = None
    """By this generation."""
    position: int = 0
    """Index of the next record to be fetched."""
    handed: list[int] = field(default_factory=list)
    taken: dict[int, Message] = field(default_factory=dict)
    answered: set[int] = field(default_factory=set)
    ever_answered: set[int] = field(default_factory=set)
    queue: list[Message] = field(default_factory=list)
    """Handed over, and not looked at by a stream."""

    def restart(self) -> None:
        """Read again from what is committed, as a new generation does."""
        self.seek()
        metadata = self.committed.metadata(CLUSTER)
        self.found = Commit.read(self.committed.offset, metadata, CLUSTER)
        assert self.found == self.committed
        self.committed_here = None
        self.handed, self.taken, self.answered = [], {}, set()

    def seek(self) -> None:
        """Go back to what is committed."""
        self.position = sum(offset < self.committed.offset for offset in self.offsets)

    @property
    def next(self) -> Commit | None:
        """The longest answered prefix, and what is answered behind it."""
        done = self.answered | self.found.ahead
        if done.isdisjoint(self.handed):
            return None
        upto = self.handed[0]
        for offset in self.handed:
            if offset not in done:
                break
            upto = offset + 1
        return Commit(upto, frozenset(offset for offset in done if offset >= upto))

    @property
    def under_way(self) -> list[int]:
        """Taken by a stream, and not answered."""
        return sorted(set(self.taken) - self.answered)


@cache
def application() -> BertstreamApp:
    app = create_app(Settings(_env_file=None, request_topic=TOPIC))  # type: ignore[call-arg]
    app.topics._acking_topics.add(TOPIC)  # as where an agent has subscribed to it
    app.pool = InferencePool(Models(WordCounter()))  # nothing is in it
    return app


class Commits(RuleBasedStateMachine):
    """Everything that fetching, streams, deliveries, commits and rebalances do, in any order."""

    @initialize(
        gaps=st.lists(
            st.lists(st.integers(1, 5), min_size=30, max_size=30), min_size=2, max_size=2
        ),
        starts=st.lists(st.sampled_from([0, 1, 64, 10_000]), min_size=2, max_size=2),
    )
    def begin(self, gaps: list[list[int]], starts: list[int]) -> None:
        self.runner = asyncio.Runner()
        self.app = application()
        self.generation = self.app.consumer_generation_id = 1
        self.logs: dict[TP, Log] = {}
        for tp, steps, start in zip(PARTITIONS, gaps, starts, strict=True):
            offsets = [start + sum(steps[:n]) for n in range(len(steps))]
            self.logs[tp] = Log(offsets)
        self.assigned = set(PARTITIONS)
        self.late: list[Message] = []
        self.consumer = self.runner.run(self._new_consumer())

    async def _new_consumer(self) -> Unconnected:
        async def on_message(message: Message) -> None:
            self.logs[message.tp].queue.append(message)

        async def on_change(partitions: set[TP]) -> None:
            pass

        consumer = Unconnected(self.app.transport, on_message, on_change, on_change)
        consumer.broker = {}
        return consumer

    def teardown(self) -> None:
        if hasattr(self, "runner"):
            self.runner.close()

    @rule(tp=st.sampled_from(PARTITIONS), count=st.integers(1, 6))
    def hand_over(self, tp: TP, count: int) -> None:
        """Fetch; what was handed over before is handed over again after a seek."""
        log = self.logs[tp]
        if tp not in self.assigned:
            return
        for offset in log.offsets[log.position : log.position + count]:
            message = Message(
                *(TOPIC, tp.partition, offset, 1.0, 0, [], b"k", b"v", None),
                generation_id=self.generation,
            )
            self.runner.run(self.consumer.callback(message))
            if offset not in log.handed:
                log.handed.append(offset)
        log.position = min(log.position + count, len(log.offsets))

    @rule(tp=st.sampled_from(PARTITIONS), count=st.integers(1, 6))
    def take(self, tp: TP, count: int) -> None:
        """A stream takes what it has not taken yet."""
        log = self.logs[tp]
        for message in log.queue[:count]:
            if message.generation_id == self.generation:
                new = self.consumer.take(message)
                assert new == (message.offset not in log.taken.keys() | log.found.ahead)
                if new:
                    log.taken[message.offset] = message
        del log.queue[:count]

    @rule(tp=st.sampled_from(PARTITIONS), thrown_away=st.booleans())
    def seek_back(self, tp: TP, thrown_away: bool) -> None:
        """What Faust does at each rebalance, also where the partition stays."""
        log = self.logs[tp]
        if thrown_away:
            log.queue.clear()
            log.seek()
        elif tp in self.assigned:
            log.seek()

    @rule(tp=st.sampled_from(PARTITIONS), data=st.data())
    def answer(self, tp: TP, data: st.DataObject) -> None:
        log = self.logs[tp]
        if log.under_way:
            offset = data.draw(st.sampled_from(log.under_way))
            assert self.consumer.ack(log.taken[offset]) is True
            log.answered.add(offset)
            log.ever_answered.add(offset)

    @rule(tp=st.sampled_from(PARTITIONS), data=st.data())
    def answer_again(self, tp: TP, data: st.DataObject) -> None:
        log = self.logs[tp]
        if log.answered:
            offset = data.draw(st.sampled_from(sorted(log.answered)))
            assert self.consumer.ack(log.taken[offset]) is False

    @precondition(lambda self: self.late)
    @rule(data=st.data())
    def answer_too_late(self, data: st.DataObject) -> None:
        """A record of an old generation is answered: that is for its new owner to commit."""
        message = self.late.pop(data.draw(st.integers(0, len(self.late) - 1)))
        self.logs[message.tp].ever_answered.add(message.offset)
        assert self.consumer.ack(message) is False

    @rule(refused=st.booleans())
    def commit(self, refused: bool) -> None:
        self.consumer.refuses = refused
        expected = {tp: log.next for tp, log in self.logs.items() if self._committable(tp)}
        done = self.runner.run(self.consumer.commit())
        assert done == (bool(expected) and not refused)
        if done:
            for tp, commit in expected.items():
                assert commit is not None
                self.logs[tp].committed = self.logs[tp].committed_here = commit
            assert self.consumer.broker | expected == self.consumer.broker

    @rule(kept=st.sets(st.sampled_from(PARTITIONS)))
    def go_on_without_this_worker(self, kept: set[TP]) -> None:
        """The group has: nothing of what it held is offered again, only what it gets anew."""
        offered = self.consumer.uncommitted()
        self.consumer.left_behind = True
        assert self.runner.run(self.consumer.commit()) is False
        self.consumer.left_behind = False
        assert not offered.keys() & self.consumer.uncommitted().keys()
        self.rebalance(kept)

    @rule(kept=st.sets(st.sampled_from(PARTITIONS)))
    def rebalance(self, kept: set[TP]) -> None:
        """Everything is revoked, and some of it assigned in the next generation."""
        self.runner.run(self.consumer.on_partitions_revoked(set(self.assigned)))
        for tp in self.assigned:
            log = self.logs[tp]
            self.late += [log.taken[offset] for offset in log.under_way]
            log.restart()
        self.consumer._thread.found = {tp: log.found for tp, log in self.logs.items()}
        self.generation += 1
        self.app.consumer_generation_id = self.generation
        self.assigned = kept

    @rule()
    def finish_everything(self) -> None:
        """With nothing left to answer the commit stands after the last record."""
        for tp in self.assigned:
            log = self.logs[tp]
            log.seek()
            self.hand_over(tp, len(log.offsets))
            self.take(tp, len(log.queue))
            for offset in reversed(log.under_way):
                self.consumer.ack(log.taken[offset])
                log.answered.add(offset)
                log.ever_answered.add(offset)
        self.commit(refused=False)
        for tp in self.assigned:
            log = self.logs[tp]
            assert log.committed == Commit(log.offsets[-1] + 1)
            assert self.consumer.answered_upto(tp) in {0, log.committed.offset}
        # Room that was never given back would stop the worker in the end.
        assert self.consumer.open_records == self.consumer.open_bytes == 0

    def _committable(self, tp: TP) -> bool:
        log = self.logs[tp]
        return tp in self.assigned and log.next not in {None, log.committed_here}

    @invariant()
    def what_is_answered_is_committable(self) -> None:
        if hasattr(self, "consumer"):
            expected = {tp: log.next for tp, log in self.logs.items() if self._committable(tp)}
            assert self.consumer.uncommitted() == expected

    @invariant()
    def nothing_unanswered_is_committed(self) -> None:
        for log in getattr(self, "logs", {}).values():
            skipped = {offset for offset in log.offsets if offset < log.committed.offset}
            assert skipped | log.committed.ahead <= log.ever_answered


TestCommits = Commits.TestCase
TestCommits.settings = hypothesis_settings(
    max_examples=150, stateful_step_count=40, deadline=None, derandomize=True
)


def test_a_broker_that_takes_no_metadata_gets_the_offset_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its limit, `offset.metadata.max.bytes`, may be lower than Kafka's own."""
    [tp, _] = PARTITIONS
    taken: list[dict[TP, OffsetAndMetadata]] = []

    class Broker:
        async def commit(self, offsets: dict[TP, OffsetAndMetadata]) -> None:
            if any(one.metadata for one in offsets.values()):
                raise OffsetMetadataTooLargeError
            taken.append(offsets)

    async def main() -> None:
        async def nothing(_: object) -> None:
            pass

        thread = Unconnected(application().transport, nothing, nothing, nothing)._thread
        monkeypatch.setattr(thread, "_ensure_consumer", Broker)
        monkeypatch.setattr(thread, "assignment", lambda: {tp})
        thread._cluster = CLUSTER
        commit = {tp: Commit(3, frozenset({5}))}
        assert not await thread._commit(commit)
        assert await thread._commit(commit)

    asyncio.run(main())
    assert taken == [{tp: OffsetAndMetadata(3, "")}]
