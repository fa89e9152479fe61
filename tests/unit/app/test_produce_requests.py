"""What goes to a broker in one request, with nothing of Kafka but who leads which partition."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

from aiokafka import TopicPartition
from aiokafka.producer.message_accumulator import MessageBatch

from app.produce_requests import Accumulator
from app.settings import MAX_BATCH_BYTES, MEBIBYTE

Requests = dict[int, dict[TopicPartition, MessageBatch]]
LARGE = 15 * MEBIBYTE
MANY = 20


@dataclass
class Cluster:
    """Leads each partition with the broker of its number, as far as there are as many."""

    brokers: int = 1

    def leader_for_partition(self, tp: TopicPartition) -> int:
        return int(tp.partition % self.brokers)


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    asyncio.run(coroutine)


def accumulator(brokers: int = 1) -> Accumulator:
    return Accumulator(Cluster(brokers), 16384, 0, 60.0)


async def put(batches: Accumulator, partition: int, size: int) -> None:
    await batches.add_message(TopicPartition("letters", partition), None, b"x" * size, 60.0)


def drain(batches: Accumulator, ignore: set[int] | None = None) -> Requests:
    requests: Requests = batches.drain_by_nodes(ignore or set())[0]
    return requests


def partitions(requests: Requests, broker: int = 0) -> list[int]:
    return sorted(tp.partition for tp in requests.get(broker, {}))


def test_large_records_go_one_after_the_other_and_small_ones_with_them() -> None:
    async def main() -> None:
        batches = accumulator()
        for partition in range(8):
            await put(batches, partition, LARGE)
        for partition in range(8, 16):
            await put(batches, partition, 1000)
        rounds = [partitions(drain(batches)) for _ in range(8)]
        assert rounds == [[0, *range(8, 16)], [1], [2], [3], [4], [5], [6], [7]]
        assert drain(batches) == {}

    run(main())


def test_a_record_above_the_bound_goes_alone() -> None:
    async def main() -> None:
        batches = accumulator()
        await put(batches, 0, 1000)
        await put(batches, 1, MAX_BATCH_BYTES + 1)
        await put(batches, 2, 1000)
        assert [partitions(drain(batches)) for _ in range(2)] == [[0, 2], [1]]

    run(main())


def test_each_broker_has_requests_of_its_own() -> None:
    async def main() -> None:
        batches = accumulator(brokers=2)
        for partition in range(4):
            await put(batches, partition, LARGE)
        # To broker 0 a request is under way: what waits for it is no reason for 1 to wait.
        assert partitions(drain(batches, ignore={0}), broker=1) == [1]
        both = drain(batches)
        assert (partitions(both, 0), partitions(both, 1)) == ([0], [3])
        assert partitions(drain(batches), 0) == [2]

    run(main())


def test_a_record_that_is_sent_again_and_again_lets_others_go() -> None:
    """With one behind it, so that its partition never leaves the queue."""

    async def main() -> None:
        batches = accumulator()
        await put(batches, 0, LARGE)
        failing = drain(batches)[0][TopicPartition("letters", 0)]
        await put(batches, 0, LARGE)
        batches.reenqueue(failing)
        for partition in (1, 2):
            await put(batches, partition, LARGE)
        sent: set[int] = set()
        for _ in range(MANY):
            for tp, batch in drain(batches).get(0, {}).items():
                sent.add(tp.partition)
                if batch is failing:
                    batches.reenqueue(batch)
        assert sent == {0, 1, 2}

    run(main())
