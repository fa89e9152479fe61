"""Which offset of a partition may be committed, and which one is."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable

from aiokafka.client import AIOKafkaClient, CoordinationType
from aiokafka.errors import KafkaError, for_code
from aiokafka.protocol.commit import OffsetFetchRequest
from aiokafka.structs import TopicPartition

NO_OFFSET = -1


class OffsetTracker:
    """Follows the records of one partition from their hand-over to their acknowledgement.

    Only the records that were handed over count, in the order of their offsets: offsets that the
    topic does not hold (compacted away, transaction markers) need no acknowledgement of their own.

    Arguments:
        generation: Generation of the consumer group in which the partition was assigned. What
            belongs to another generation is not for this tracker.
    """

    def __init__(self, generation: int | None) -> None:
        self.generation = generation
        self._open: deque[int] = deque()
        self._finished: set[int] = set()
        self._next: int | None = None
        self._last: int | None = None
        self._taken: int | None = None
        self.furthest = NO_OFFSET
        """The last record whose answer was sent, arrived or not; none below it may stay open, or
        the answers above would be given again."""
        self.committed: int | None = None
        self._closed = False

    def __len__(self) -> int:
        """Records handed over and not yet acknowledged, or acknowledged out of order."""
        return len(self._open)

    def begin(self, offset: int) -> bool:
        """Note that the record at `offset` was handed over; False where it was before."""
        if self._last is not None and offset <= self._last:
            return False
        self._open.append(offset)
        self._last = offset
        return True

    def take(self, offset: int) -> bool:
        """Note that the record at `offset` is taken up; False where it already was."""
        if self._taken is not None and offset <= self._taken:
            return False
        self._taken = offset
        return True

    def begin_answer(self, offset: int) -> None:
        """Note that the answer to the record at `offset` is sent."""
        self.furthest = max(self.furthest, offset)

    def finish(self, offset: int) -> None:
        """Note that the record at `offset` has been answered, in whatever order."""
        if not self._open or offset < self._open[0] or offset > self._open[-1]:
            return
        self._finished.add(offset)
        while self._open and self._open[0] in self._finished:
            done = self._open.popleft()
            self._finished.discard(done)
            self._next = done + 1

    def close(self) -> None:
        """The partition went to another owner: nothing can be committed any more."""
        self._closed = True

    @property
    def answered_upto(self) -> int:
        """Offset before which every record that was handed over has been answered."""
        return self._next or 0

    @property
    def committable(self) -> int | None:
        """Offset to commit, the next to be read; None where nothing new can be committed."""
        if self._closed or self._next is None or self._next == self.committed:
            return None
        return self._next


async def committed_offsets(
    client: AIOKafkaClient, group: str, partitions: Iterable[TopicPartition]
) -> dict[TopicPartition, int | None]:
    """Ask the group's coordinator for the committed offsets; None where there is none.

    aiokafka's own consumers and admin clients overlook the error of a whole response, as of a
    coordinator that has just moved: nothing would seem to be committed.

    Raises:
        KafkaError: the coordinator does not say, or not for every partition.
    """
    by_topic: defaultdict[str, list[int]] = defaultdict(list)
    for tp in partitions:
        by_topic[tp.topic].append(tp.partition)
    coordinator = await client.coordinator_lookup(CoordinationType.GROUP, group)
    response = await client.send(coordinator, OffsetFetchRequest(group, list(by_topic.items())))
    offsets: dict[TopicPartition, int | None] = {}
    errors = [response.error_code]
    for topic, found in response.topics:
        for partition, offset, _, error in found:
            offsets[TopicPartition(topic, partition)] = None if offset == NO_OFFSET else offset
            errors.append(error)
    for code in filter(None, errors):
        raise for_code(code)(f"the committed offsets of {group}")
    if len(offsets) != sum(map(len, by_topic.values())):
        raise KafkaError(f"the coordinator told not all committed offsets of {group}")
    return offsets
