"""Records on their way to one topic: batches of whatever waits, each partition on its own."""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any, Generic, TypeVar

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from app.envelopes import Envelope
from app.murmur2 import murmur2

T = TypeVar("T")


class Outbox(Generic[T]):
    """Sends records of which each belongs to an item, and tells what became of the items.

    While a batch of a partition is on its way, what comes makes up the next one. aiokafka's own
    `send()` would look up the topic, compute the partition in Python and make a future for each.
    """

    def __init__(
        self,
        topic: str,
        producer: Callable[[], AIOKafkaProducer],
        spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
        *,
        on_delivered: Callable[[Sequence[T]], None],
        on_failed: Callable[[Sequence[T]], None],
        on_given_up: Callable[[Sequence[T]], None],
    ) -> None:
        """
        Args:
            producer: the one to send with, at the moment that this is asked.
            spawn: runs a task; one that it cancels gives up what it was about to send.
            on_delivered: the broker has confirmed the records.
            on_failed: the broker, or the producer, has refused them.
            on_given_up: they were not sent.
        """
        self._topic = topic
        self._producer = producer
        self._spawn = spawn
        self._on_delivered = on_delivered
        self._on_failed = on_failed
        self._on_given_up = on_given_up
        self._new: list[tuple[T, Envelope]] = []
        self._queues: defaultdict[int, deque[tuple[T, Envelope]]] = defaultdict(deque)
        self._sorting: asyncio.Task[None] | None = None
        self._sending: dict[int, asyncio.Task[None]] = {}

    def put(self, item: T, envelope: Envelope) -> None:
        """Send a record that has a key, together with what else waits for its partition."""
        self._new.append((item, envelope))
        if self._sorting is None or self._sorting.done():
            self._sorting = self._spawn(self._sort())

    def clear(self) -> None:
        """Give up what no task is about to send."""
        given_up = self._take_new()
        for queue in self._queues.values():
            given_up += queue
            queue.clear()
        self._on_given_up([item for item, _ in given_up])

    async def _sort(self) -> None:
        """Find the partitions of what is new, and have them written."""
        while self._new:
            try:
                partitions = sorted(await self._producer().partitions_for(self._topic))
            except KafkaError:
                self._on_failed([item for item, _ in self._take_new()])
                return
            new = self._take_new()
            hashes = murmur2([envelope.key or b"" for _, envelope in new])
            for one, number in zip(new, hashes, strict=True):
                self._queues[partitions[number % len(partitions)]].append(one)
            for partition, queue in self._queues.items():
                task = self._sending.get(partition)
                if queue and (task is None or task.done()):
                    self._sending[partition] = self._spawn(self._send(partition, queue))

    async def _send(self, partition: int, queue: deque[tuple[T, Envelope]]) -> None:
        """Write one batch after the other, as long as something waits."""
        while queue:
            items: list[T] = []
            try:
                producer = self._producer()
                batch = producer.create_batch()
                while queue:
                    item, record = queue[0]
                    if not batch.append(
                        timestamp=None, key=record.key, value=record.value, headers=record.headers
                    ):
                        break
                    items.append(item)
                    queue.popleft()
                delivery = await producer.send_batch(batch, self._topic, partition=partition)
            except KafkaError:
                self._on_failed(items)
            except BaseException:
                self._on_given_up(items)
                raise
            else:
                delivery.add_done_callback(partial(self._resolve, items))

    def _resolve(self, items: Sequence[T], delivery: asyncio.Future[Any]) -> None:
        if delivery.cancelled():
            return
        if delivery.exception() is None:
            self._on_delivered(items)
        else:
            self._on_failed(items)

    def _take_new(self) -> list[tuple[T, Envelope]]:
        new, self._new = self._new, []
        return new
