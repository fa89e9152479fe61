"""What a consumer waits for before it lets its partitions go, and what it lets go unanswered."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest
from faust.types.tuples import TP, Message

from app import transport
from app.offsets import Commit
from app.worker import BertstreamApp
from tests.unit.app.test_commits import PARTITIONS, TOPIC, Unconnected, application

RECORDS = 6


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers are waited for shortly, their delivery as long as the test may take."""
    monkeypatch.setattr(transport, "REBALANCE_DRAIN_S", 0.05)
    monkeypatch.setattr(transport, "LAST_DELIVERY_S", 30.0)


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


def test_what_was_answered_behind_an_open_request_is_committed_with_it() -> None:
    async def main() -> None:
        consumer = await new_consumer()
        messages = await taken(consumer, PARTITIONS[0])
        await taken(consumer, PARTITIONS[1])  # nothing of it has been answered
        for offset in (0, 1, 3, 5):
            assert consumer.may_answer(messages[offset])
            assert consumer.ack(messages[offset])
        await consumer.wait_empty()
        assert consumer.broker == {PARTITIONS[0]: Commit(2, frozenset({3, 5}))}
        assert not consumer.may_answer(messages[4])

    asyncio.run(asyncio.wait_for(main(), 10))


def test_an_answer_that_was_sent_is_waited_for_and_committed() -> None:
    async def main() -> None:
        consumer = await new_consumer()
        messages = await taken(consumer, PARTITIONS[0])
        await confirmed_while_letting_go(consumer, messages[1], consumer.wait_empty())
        assert consumer.broker == {PARTITIONS[0]: Commit(0, frozenset({1}))}

    asyncio.run(asyncio.wait_for(main(), 10))


def test_a_rebalance_during_a_stop_waits_for_what_was_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or what was answered and not committed would be answered again by the next owner."""
    monkeypatch.setattr(BertstreamApp, "should_stop", True)

    async def main() -> None:
        consumer = await new_consumer()
        messages = await taken(consumer, PARTITIONS[0])
        revoking = consumer.on_partitions_revoked(set(PARTITIONS))
        await confirmed_while_letting_go(consumer, messages[0], revoking)
        assert consumer.broker == {PARTITIONS[0]: Commit(1)}

    asyncio.run(asyncio.wait_for(main(), 10))


async def confirmed_while_letting_go(
    consumer: Unconnected, message: Message, letting_go: Coroutine[Any, Any, None]
) -> None:
    """The broker confirms an answer when nothing new is sent any more."""
    publisher = consumer.app.publisher
    publisher.awaiting_delivery += 1
    waiting = asyncio.ensure_future(letting_go)
    while not consumer._letting_go:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)
    assert not waiting.done()
    assert consumer.ack(message)
    publisher.awaiting_delivery -= 1
    await waiting


def test_a_commit_that_hangs_does_not_keep_the_partitions(monkeypatch: pytest.MonkeyPatch) -> None:
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
