"""What of a partition may be committed, and what is.

A committed offset alone says nothing of the requests behind it that were answered before an
earlier one, as short documents are before a long one: the next owner would answer them again. So
a commit names these, too, in the metadata that Kafka keeps with each committed offset.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections import defaultdict, deque
from collections.abc import Iterable
from typing import NamedTuple, Self

from aiokafka.client import AIOKafkaClient, CoordinationType
from aiokafka.errors import KafkaError, for_code
from aiokafka.protocol.commit import OffsetFetchRequest
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.structs import OffsetAndMetadata, TopicPartition

NO_OFFSET = -1
MAX_AHEAD = 8 * 2900
"""Offsets behind the committed one of which a commit can tell whether they are answered: a broker
takes 4,096 characters of metadata."""
METADATA_VERSION = "answered/1"


class Commit(NamedTuple):
    """What is answered of a partition: every request before `offset`, and those of `ahead`."""

    offset: int
    ahead: frozenset[int] = frozenset()
    """Offsets behind `offset`."""

    def metadata(self, cluster: str) -> str:
        """What Kafka is to keep with the offset: a bit for each of those that follow it.

        It names the cluster and the offset: what copies offsets to another cluster, where records
        have other ones, copies the metadata as it is.
        """
        bits = sum(1 << offset - self.offset for offset in self.ahead if offset < self._end)
        if not bits or not cluster:
            return ""
        answered = bits.to_bytes((bits.bit_length() + 7) // 8, "little")
        return f"{METADATA_VERSION} {cluster} {self.offset} {b64encode(answered).decode()}"

    @classmethod
    def read(cls, offset: int, metadata: str, cluster: str) -> Self:
        """What such metadata says, and nothing where it is of another origin."""
        version, _, rest = metadata.partition(f" {cluster} {offset} ")
        if version != METADATA_VERSION or not cluster:
            return cls(offset)
        try:
            bits = int.from_bytes(b64decode(rest, validate=True), "little")
        except ValueError:
            return cls(offset)
        ahead = (offset + n for n in range(min(bits.bit_length(), MAX_AHEAD)) if bits >> n & 1)
        return cls(offset, frozenset(ahead))

    @property
    def _end(self) -> int:
        return self.offset + MAX_AHEAD


class OffsetTracker:
    """Follows the records of one partition from their hand-over to their acknowledgement.

    Only the records that were handed over count, in the order of their offsets: offsets that the
    topic does not hold (compacted away, transaction markers) need no acknowledgement of their own.

    Arguments:
        generation: Generation of the consumer group in which the partition was assigned. What
            belongs to another generation is not for this tracker.
        found: What the generation found committed.
    """

    def __init__(self, generation: int | None, found: Commit | None = None) -> None:
        self.generation = generation
        self._found = found or Commit(0)
        self._open: deque[int] = deque()
        self._finished: set[int] = set()
        self._next: int | None = None
        self._last: int | None = None
        self._taken: int | None = None
        self.committed: Commit | None = None
        self._closed = False

    def __len__(self) -> int:
        """Records handed over and not yet acknowledged, or acknowledged out of order."""
        return len(self._open)

    def begin(self, offset: int) -> bool:
        """Note that the record at `offset` was handed over.

        Returns:
            False where it was before, or needs no answer, as a former owner has given it.
        """
        if self._last is None and offset < self._found.offset:
            self._found = Commit(0)  # the topic is not what it was
        if self._last is not None and offset <= self._last:
            return False
        self._open.append(offset)
        self._last = offset
        if offset in self._found.ahead:
            self.finish(offset)
            return False
        return True

    def take(self, offset: int) -> bool:
        """Note that the record at `offset` is taken up; False where it already was, or needs no
        answer."""
        if self._taken is not None and offset <= self._taken:
            return False
        self._taken = offset
        return offset not in self._found.ahead

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
    def committable(self) -> Commit | None:
        """What to commit; None where nothing new can be committed."""
        ahead = self._finished | {
            offset for offset in self._found.ahead if self._last is None or offset > self._last
        }
        upto = self._open[0] if self._next is None and self._finished else self._next
        if self._closed or upto is None:
            return None
        commit = Commit(upto, frozenset(ahead))
        return None if commit == self.committed else commit


async def cluster_id(client: AIOKafkaClient) -> str:
    """Ask which cluster it is; empty where that has no name."""
    response = await client.send(client.get_random_node(), MetadataRequest([]))
    return getattr(response, "cluster_id", None) or ""


async def committed_offsets(
    client: AIOKafkaClient, group: str, partitions: Iterable[TopicPartition]
) -> dict[TopicPartition, OffsetAndMetadata | None]:
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
    offsets: dict[TopicPartition, OffsetAndMetadata | None] = {}
    errors = [response.error_code]
    for topic, found in response.topics:
        for partition, offset, metadata, error in found:
            offsets[TopicPartition(topic, partition)] = (
                None if offset == NO_OFFSET else OffsetAndMetadata(offset, metadata or "")
            )
            errors.append(error)
    for code in filter(None, errors):
        raise for_code(code)(f"the committed offsets of {group}")
    if len(offsets) != sum(map(len, by_topic.values())):
        raise KafkaError(f"the coordinator told not all committed offsets of {group}")
    return offsets
