"""The topic of dead letters: reading it, choosing from it, finding one."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition

from app.dead_letters import DeadLetter, Mark
from app.kafka import broker_errors
from app.reading import Ranges, offsets_now, read, reader, settle
from app.records import Source
from app.settings import Settings

MOST_CODES = 126
OTHER_CODES = "(others)"
REPLAYED_BIT = 128


class DeadLetterTopic:
    """The topic of dead letters up to where it ended when it was opened."""

    def __init__(self, consumer: AIOKafkaConsumer, name: str, ranges: Ranges) -> None:
        self.name = name
        self.ranges = ranges
        self._consumer = consumer

    @classmethod
    @asynccontextmanager
    async def open(
        cls, settings: Settings, *, settled: bool = False
    ) -> AsyncIterator[DeadLetterTopic]:
        """The topic as it is now.

        Arguments:
            settled: Miss nothing: wait for transactions that are still open.

        Raises:
            BrokerError: no broker answers, the topic is missing, or a transaction does not end.
        """
        if settled:
            await settle(settings, settings.dead_letter_topic)
        async with reader(settings) as consumer:
            name = settings.dead_letter_topic
            yield cls(consumer, name, await offsets_now(consumer, name))

    async def since(self, moment: float | None) -> Ranges:
        """The offsets of what became a dead letter at `moment` (Unix seconds) or later."""
        if moment is None or not self.ranges:
            return self.ranges
        with broker_errors("cannot look for the time"):
            found = await self._consumer.offsets_for_times(
                dict.fromkeys(self.ranges, max(0, int(moment * 1000)))
            )
        return {
            tp: range(max(offsets.start, found[tp].offset), offsets.stop)
            for tp, offsets in self.ranges.items()
            if found.get(tp) is not None
        }

    async def later(self) -> Ranges:
        """The offsets of what has come since the topic was opened."""
        now = await offsets_now(self._consumer, self.name)
        before = {tp: offsets.stop for tp, offsets in self.ranges.items()}
        return {
            tp: range(max(offsets.start, before.get(tp, 0)), offsets.stop)
            for tp, offsets in now.items()
        }

    async def read(self, ranges: Ranges) -> AsyncGenerator[list[DeadLetter | Mark]]:
        """Dead letters and marks in these offsets; in order within each partition.

        Raises:
            BrokerError: the broker does not answer.
        """
        async for records in read(self._consumer, ranges):
            items = (DeadLetter.of(record) or Mark.of(record) for record in records)
            yield [item for item in items if item is not None]

    async def newest(
        self, selection: Selection, count: int, *, replayed: bool, length: int
    ) -> list[dict[str, Any]]:
        """The last selected dead letters, the newest first, as `DeadLetter.describe` tells of them.

        Arguments:
            count: How many.
            replayed: Whether those that have been replayed are among them.
            length: Characters of their values.
        """
        found: dict[int, dict[int, dict[str, Any]]] = {}
        ranges = {
            TopicPartition(self.name, partition): offsets
            for partition, offsets in selection.newest(count, replayed=replayed).items()
        }
        async for items in self.read(ranges):
            for item in items:
                if isinstance(item, Mark):
                    for offset, row in found.get(item.partition, {}).items():
                        if item.covers(offset):
                            row["replayed_at"] = item.time
                elif selection.includes(item.place, replayed=replayed):
                    of_partition = found.setdefault(item.place.partition, {})
                    of_partition[item.place.offset] = item.describe(length)
        rows = [row for of_partition in found.values() for row in of_partition.values()]
        return sorted(rows, key=lambda row: row["time"], reverse=True)[:count]

    async def find(
        self, place: Source, advance: Callable[[int], object] = lambda records: None
    ) -> tuple[DeadLetter, float | None] | None:
        """The dead letter at a place, its own or that of its request, and when it was replayed.

        Of several that came of one request it is the newest. Times are Unix seconds.
        """
        ranges = self.ranges
        if place.topic == self.name:
            tp = TopicPartition(place.topic, place.partition)
            if place.offset not in ranges.get(tp, ()):
                return None
            ranges = {tp: range(place.offset, ranges[tp].stop)}
        found: DeadLetter | None = None
        replayed_at: float | None = None
        async with aclosing(self.read(ranges)) as reading:
            async for items in reading:
                advance(len(items))
                for item in items:
                    if isinstance(item, DeadLetter):
                        if place in (item.place, item.source) and (
                            found is None or item.time >= found.time
                        ):
                            found, replayed_at = item, None
                    elif (
                        found is not None
                        and item.partition == found.place.partition
                        and item.covers(found.place.offset)
                    ):
                        replayed_at = item.time
        return None if found is None else (found, replayed_at)


@dataclass
class Selection:
    """The dead letters that were asked for, in one byte each, however large they are."""

    codes: Counter[str] = field(default_factory=Counter)
    """How many there are of each code."""
    replayed: Counter[str] = field(default_factory=Counter)
    """How many of these have been replayed."""
    topics: set[str] = field(default_factory=set)
    """Where the requests came from."""
    _ranges: dict[int, range] = field(default_factory=dict)
    _bytes: dict[int, bytearray] = field(default_factory=dict)
    """By offset: 0 not selected, else the number of the code; 128 more where it was replayed."""
    _numbers: dict[str, int] = field(default_factory=dict)

    @classmethod
    async def of(
        cls,
        topic: DeadLetterTopic,
        ranges: Ranges,
        admits: Callable[[DeadLetter], bool],
        advance: Callable[[int], object] = lambda records: None,
    ) -> Selection:
        """Read the offsets once and note what is admitted.

        Arguments:
            advance: Told, now and then, how many records more have been read.
        """
        selection = cls()
        for tp, offsets in ranges.items():
            selection._ranges[tp.partition] = offsets
            selection._bytes[tp.partition] = bytearray(len(offsets))
        async for items in topic.read(ranges):
            for item in items:
                if isinstance(item, Mark):
                    selection._mark(item)
                elif admits(item):
                    selection._add(item)
            advance(len(items))
        return selection

    async def update(self, topic: DeadLetterTopic) -> None:
        """Take over the marks that have been set since this was made.

        Raises:
            BrokerError: the broker does not answer.
        """
        async for items in topic.read(await topic.later()):
            for item in items:
                if isinstance(item, Mark) and item.partition in self._ranges:
                    self._mark(item)

    def includes(self, place: Source, *, replayed: bool) -> bool:
        """Whether the dead letter at this place was selected.

        Arguments:
            replayed: Whether it may have been replayed.
        """
        offsets = self._ranges.get(place.partition)
        if offsets is None or place.offset not in offsets:
            return False
        byte = self._bytes[place.partition][place.offset - offsets.start]
        return 0 < byte < (256 if replayed else REPLAYED_BIT)

    def newest(self, count: int, *, replayed: bool) -> dict[int, range]:
        """For each partition the offsets from its last `count` selected dead letters on."""
        result = {}
        for partition, marks in self._bytes.items():
            offsets = self._ranges[partition]
            limit = 256 if replayed else REPLAYED_BIT
            chosen = (
                offset
                for offset, byte in zip(reversed(offsets), reversed(marks), strict=True)
                if 0 < byte < limit
            )
            last = deque(islice(chosen, count), maxlen=1)
            if last:
                result[partition] = range(last[0], offsets.stop)
        return result

    def _add(self, letter: DeadLetter) -> None:
        code = letter.code
        if code not in self._numbers and len(self._numbers) >= MOST_CODES:
            code = OTHER_CODES
        place = letter.place.offset - self._ranges[letter.place.partition].start
        number = self._numbers.setdefault(code, len(self._numbers) + 1)
        self._bytes[letter.place.partition][place] = number
        self.codes[code] += 1
        self.topics.add(letter.source.topic)

    def _mark(self, mark: Mark) -> None:
        selected, marks = self._ranges[mark.partition], self._bytes[mark.partition]
        codes = tuple(self._numbers)
        for offsets in mark.offsets:
            start, stop = max(offsets.start, selected.start), min(offsets.stop, selected.stop)
            for place in range(start - selected.start, stop - selected.start):
                if 0 < marks[place] < REPLAYED_BIT:
                    self.replayed[codes[marks[place] - 1]] += 1
                    marks[place] |= REPLAYED_BIT
