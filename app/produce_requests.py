"""Produce requests of a size that brokers take.

aiokafka puts a batch of every partition that has one into one request, however large that becomes.
A broker closes the connection at a request above its `socket.request.max.bytes`, which passes for a
fault of the network: an idempotent producer would send the same request for ever. Here a request
holds as much as the largest record, so that whoever takes our records takes our requests.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Set
from typing import Any

from aiokafka import TopicPartition
from aiokafka.producer import producer
from aiokafka.producer.message_accumulator import MessageAccumulator

from app.settings import MAX_BATCH_BYTES


class Accumulator(MessageAccumulator):  # type: ignore[misc]
    """What waits to be sent: at most `MAX_BATCH_BYTES`, or one batch, go to a broker at once."""

    def drain_by_nodes(
        self, ignore_nodes: Set[int], muted_partitions: Set[TopicPartition] = frozenset()
    ) -> Any:
        """Batches by the broker that leads their partition."""
        muted = muted_partitions | self._left_behind(ignore_nodes, muted_partitions)
        return super().drain_by_nodes(ignore_nodes, muted)

    def _left_behind(
        self, ignore_nodes: Set[int], muted_partitions: Set[TopicPartition]
    ) -> set[TopicPartition]:
        """The partitions whose turn comes with a later request."""
        left: set[TopicPartition] = set()
        sizes: Counter[int | None] = Counter()
        for tp in [tp for tp in self._batches if tp not in muted_partitions]:
            leader = self._cluster.leader_for_partition(tp)
            if leader in ignore_nodes:
                continue
            size = self._batches[tp][0]._builder.size()
            if sizes[leader] and sizes[leader] + size > MAX_BATCH_BYTES:
                left.add(tp)
            else:
                sizes[leader] += size
                # Back to the end of the queue: all have their turn, whichever is sent again.
                self._batches[tp] = self._batches.pop(tp)
        return left


def bound_produce_requests() -> None:
    """Have every producer of this process send such requests; again does nothing."""
    producer.MessageAccumulator = Accumulator
