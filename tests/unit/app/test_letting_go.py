"""What a consumer waits for before it lets its partitions go, and what it lets go unanswered."""

from __future__ import annotations

import asyncio

import pytest
from faust.types.tuples import TP, Message

from app import transport
from app.worker import BertstreamApp
from tests.unit.app.test_commits import PARTITIONS, TOPIC, Unconnected, application

RECORDS = 6


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """All is waited for shortly, gaps as long as the test may take."""
    monkeypatch.setattr(transport, "REBALANCE_DRAIN_S", 0.05)
    monkeypatch.setattr(transport, "GAPS_S", 30.0)


async def taken(consumer: Unconnected, tp: TP) -> list[Message]:
    """Records that were handed over and that a stream has taken."""
    messages = [
        Message(
            *(TOPIC, tp.partition, offset, 1.0, 0, [], b"k", b"v", None),
            generation_id=consumer.app.consumer_generation_id,
        )
        for offset in range(RECORDS)
    ]
    for message in messages:
        await consumer.callback(message)
        assert consumer.take(message)
    return messages


async def new_consumer() -> Unconnected:
    async def nothing(_: object) -> None:
        pass

    app = application()
    app.consumer_generation_id = 1
    consumer = Unconnected(app.transport, nothing, nothing, nothing)
    consumer.broker = {}
    return consumer


def test_only_what_comes_before_an_answer_is_waited_for() -> None:
    async def main() -> None:
        consumer = await new_consumer()
        messages = await taken(consumer, PARTITIONS[0])
        await taken(consumer, PARTITIONS[1])  # nothing of it has been answered
        for offset in (0, 1, 4):
            assert consumer.begin_answer(messages[offset])
            assert consumer.ack(messages[offset])
        waiting = asyncio.ensure_future(consumer.wait_empty())
        while not consumer._letting_go:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert not consumer.begin_answer(messages[5])
        for offset in (3, 2):
            assert not waiting.done()
            assert consumer.begin_answer(messages[offset])
            assert consumer.ack(messages[offset])
        await waiting
        assert consumer.broker == {PARTITIONS[0]: 5}

    asyncio.run(asyncio.wait_for(main(), 10))


def test_an_answer_that_was_sent_and_not_confirmed_has_gaps_as_well() -> None:
    async def main() -> None:
        consumer = await new_consumer()
        messages = await taken(consumer, PARTITIONS[0])
        assert consumer.begin_answer(messages[1])
        waiting = asyncio.ensure_future(consumer.wait_empty())
        while not consumer._letting_go:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert consumer.begin_answer(messages[0])
        consumer.ack(messages[1])
        assert not waiting.done()
        consumer.ack(messages[0])
        await waiting
        assert consumer.broker == {PARTITIONS[0]: 2}

    asyncio.run(asyncio.wait_for(main(), 10))


def test_a_rebalance_during_a_stop_waits_for_what_was_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or what was answered and not committed would be answered again by the next owner."""
    monkeypatch.setattr(BertstreamApp, "should_stop", True)

    async def main() -> None:
        consumer = await new_consumer()
        messages = await taken(consumer, PARTITIONS[0])
        for message in messages[:2]:
            assert consumer.begin_answer(message)
        consumer.ack(messages[1])
        revoking = asyncio.ensure_future(consumer.on_partitions_revoked(set(PARTITIONS)))
        while not consumer._letting_go:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert not revoking.done()
        consumer.ack(messages[0])
        await revoking
        assert consumer.broker == {PARTITIONS[0]: 2}

    asyncio.run(asyncio.wait_for(main(), 10))


def test_a_commit_that_hangs_does_not_keep_the_partitions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "GAPS_S", 0.05)
    monkeypatch.setattr(transport, "LAST_COMMIT_S", 0.05)

    async def hang(*_: object) -> bool:
        await asyncio.Event().wait()
        return True

    async def main() -> None:
        consumer = await new_consumer()
        messages = await taken(consumer, PARTITIONS[0])
        consumer.ack(messages[0])
        monkeypatch.setattr(consumer, "_commit", hang)
        committing = asyncio.ensure_future(consumer.commit())
        await asyncio.sleep(0)
        await consumer.wait_empty()
        assert not committing.done()
        committing.cancel()

    asyncio.run(asyncio.wait_for(main(), 10))
