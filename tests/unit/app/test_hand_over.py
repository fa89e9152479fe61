"""How much a consumer hands over before it is answered, and a publisher takes before delivery."""

from __future__ import annotations

import asyncio

import pytest
from faust.types.tuples import Message

from app import delivery, transport
from app.delivery import MAX_AWAITING_DELIVERY, Publisher
from app.errors import InferenceFailed
from app.fetching import MAX_FETCHED
from app.records import Outcome
from app.settings import Settings
from app.telemetry import Telemetry
from app.transport import MAX_OPEN_REQUESTS
from tests.unit.app.test_commits import PARTITIONS, TOPIC, Unconnected
from tests.unit.app.test_letting_go import new_consumer
from tests.unit.app.test_telemetry import failed


class Held(Publisher):
    """A publisher whose outcomes are delivered when the test says so, as its own consumer."""

    def __init__(self) -> None:
        settings = Settings(_env_file=None)  # type: ignore[call-arg]
        super().__init__(settings, Telemetry(settings), lambda: self, pytest.fail)
        self.sent: list[Outcome] = []

    def owns(self, message: Message) -> bool:
        return True

    may_answer = owns

    def _send(self, outcome: Outcome) -> None:
        self.sent.append(outcome)


def record(consumer: Unconnected, partition: int, offset: int, size: int = 1) -> Message:
    return Message(
        *(TOPIC, partition, offset, 1.0, 0, [], None, b"v" * size, None),
        generation_id=consumer.app.consumer_generation_id,
    )


async def is_waiting(for_room: asyncio.Future[None]) -> bool:
    await asyncio.sleep(0.01)
    return not for_room.done()


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
        assert consumer.open_records == 2

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


def test_requests_that_were_held_back_are_fetched_when_there_is_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And not only when the fetcher looks again by itself."""
    monkeypatch.setattr(transport, "MAX_OPEN_REQUESTS", MAX_FETCHED + 2)

    async def main() -> None:
        consumer = await new_consumer()
        thread = consumer._thread
        told: list[bool] = []
        monkeypatch.setattr(thread, "look_again", lambda: told.append(True))
        assert thread.may_fetch_requests()
        messages = [record(consumer, 0, offset) for offset in range(4)]
        for message in messages:
            await consumer.callback(message)
            assert consumer.take(message)
        assert not thread.may_fetch_requests()
        for message in messages[:2]:
            assert not told
            consumer.ack(message)
        assert told
        assert thread.may_fetch_requests()

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


def test_no_more_outcomes_await_delivery_than_there_is_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(delivery, "MAX_AWAITING_DELIVERY", 3)

    async def main() -> None:
        publisher, outcomes = Held(), [failed(InferenceFailed()) for _ in range(5)]
        publishing = asyncio.ensure_future(publisher.publish(outcomes))
        for room in (3, 4):
            assert await is_waiting(publishing)
            assert publisher.sent == outcomes[:room]
            assert publisher.awaiting_delivery == 3
            publisher.leave()
        await publishing
        assert publisher.sent == outcomes

    asyncio.run(asyncio.wait_for(main(), 10))
