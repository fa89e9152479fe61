"""How much a consumer hands over before it is answered."""

from __future__ import annotations

import asyncio

import pytest
from faust.types.tuples import Message

from app import transport
from app.delivery import MAX_AWAITING_DELIVERY
from app.transport import MAX_OPEN_REQUESTS
from tests.unit.app.test_commits import PARTITIONS, TOPIC, Unconnected
from tests.unit.app.test_letting_go import new_consumer


def record(consumer: Unconnected, partition: int, offset: int, size: int = 1) -> Message:
    return Message(
        *(TOPIC, partition, offset, 1.0, 0, [], None, b"v" * size, None),
        generation_id=consumer.app.consumer_generation_id,
    )


async def is_waiting(handing_over: asyncio.Future[None]) -> bool:
    await asyncio.sleep(0.01)
    return not handing_over.done()


def test_outcomes_behind_a_slow_request_leave_room_for_its_own() -> None:
    """In transactions they keep theirs until it comes."""
    assert MAX_OPEN_REQUESTS <= MAX_AWAITING_DELIVERY


def test_what_cannot_be_committed_is_bounded_over_all_partitions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(transport, "MAX_OPEN_REQUESTS", 4)

    async def main() -> None:
        consumer = await new_consumer()
        slow, *others = [record(consumer, 0, offset) for offset in range(3)]
        elsewhere = record(consumer, 1, 0)
        for message in (slow, *others, elsewhere):
            await consumer.callback(message)
            assert consumer.take(message)
        next_one = asyncio.ensure_future(consumer.callback(record(consumer, 0, 3)))
        for message in others:
            consumer.ack(message)
            assert await is_waiting(next_one)
        consumer.ack(slow)
        await next_one
        assert consumer.open_requests == 2

    asyncio.run(asyncio.wait_for(main(), 10))


def test_bytes_that_are_not_answered_are_bounded_and_a_larger_record_goes_in_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(transport, "MAX_OPEN_BYTES", 10)

    async def main() -> None:
        consumer = await new_consumer()
        large = record(consumer, 0, 0, size=50)
        await consumer.callback(large)
        assert consumer.take(large)
        small = asyncio.ensure_future(consumer.callback(record(consumer, 0, 1)))
        assert await is_waiting(small)
        consumer.ack(large)
        await small

    asyncio.run(asyncio.wait_for(main(), 10))


def test_whoever_waits_for_room_goes_on_when_the_partitions_go(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(transport, "MAX_OPEN_REQUESTS", 1)

    async def main() -> None:
        consumer = await new_consumer()
        await consumer.callback(record(consumer, 0, 0))
        waiting = asyncio.ensure_future(consumer.callback(record(consumer, 0, 1)))
        assert await is_waiting(waiting)
        await consumer.on_partitions_revoked(set(PARTITIONS))
        await waiting

    asyncio.run(asyncio.wait_for(main(), 10))
