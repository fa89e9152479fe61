"""Which response belongs to which document."""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple

import pytest

from app.errors import BrokerError
from app.exchange import Document, Exchange, NoAnswer, Progress, Response

TOPIC = "requests"


class Metadata(NamedTuple):
    """What Kafka confirms, as far as an exchange reads it."""

    partition: int
    offset: int


def response(identifier: str, partition: int, offset: int, topic: str = TOPIC) -> Response:
    return {
        "id": identifier,
        "status": "ok",
        "source": {"topic": topic, "partition": partition, "offset": offset},
    }


def confirmed(partition: int, offset: int) -> asyncio.Future[Any]:
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    future.set_result(Metadata(partition, offset))
    return future


async def collect(exchange: Exchange, silence_s: float = 5.0) -> list[tuple[Document, Response]]:
    return [answer async for answer in exchange.answers(silence_s)]


def test_a_response_is_matched_by_its_source() -> None:
    async def main() -> None:
        exchange = Exchange(TOPIC, lambda _: None)
        for offset in (0, 1):  # the same id twice, as a careless file has it
            exchange.sending("same")
            exchange.delivered("same", f"text {offset}", confirmed(3, offset))
        exchange.complete()
        exchange.receive(response("same", 3, 1))
        exchange.receive(response("same", 3, 0))
        assert [document for document, _ in await collect(exchange)] == ["text 1", "text 0"]

    asyncio.run(main())


def test_a_response_may_come_before_kafkas_confirmation() -> None:
    async def main() -> None:
        exchange = Exchange(TOPIC, lambda _: None)
        exchange.sending("a")
        exchange.receive(response("a", 0, 7))
        exchange.delivered("a", "text", confirmed(0, 7))
        exchange.complete()
        assert len(await collect(exchange)) == 1

    asyncio.run(main())


@pytest.mark.parametrize(
    "foreign",
    [
        response("a", 0, 8),  # somebody else's document of the same id
        response("a", 0, 7, topic="other"),
        {"id": "a", "status": "ok"},
        {"id": "a", "source": "nonsense"},
        {"id": "a", "source": {"topic": TOPIC, "partition": [0], "offset": 7}},
        {},
    ],
)
def test_what_others_are_answered_is_passed_over(foreign: Response) -> None:
    async def main() -> None:
        exchange = Exchange(TOPIC, lambda _: None)
        exchange.sending("a")
        exchange.receive(foreign)
        exchange.delivered("a", "text", confirmed(0, 7))
        exchange.receive(foreign)
        exchange.complete()
        with pytest.raises(NoAnswer, match="1 of 1 documents"):
            await collect(exchange, silence_s=0.01)

    asyncio.run(main())


def test_repeated_responses_are_counted_and_not_yielded() -> None:
    counts = Progress()

    def keep(progress: Progress) -> None:
        nonlocal counts
        counts = progress

    async def main() -> None:
        exchange = Exchange(TOPIC, keep)
        exchange.sending("early")
        exchange.receive(response("early", 0, 0))
        exchange.receive(response("early", 0, 0))
        exchange.delivered("early", "text", confirmed(0, 0))
        exchange.receive(response("early", 0, 0))
        exchange.complete()
        assert len(await collect(exchange)) == 1

    asyncio.run(main())
    assert (counts.sent, counts.answered, counts.duplicates) == (1, 1, 2)


def test_a_refused_delivery_ends_the_exchange() -> None:
    async def main() -> None:
        exchange = Exchange(TOPIC, lambda _: None)
        refused: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        refused.set_exception(RuntimeError("too large"))
        exchange.sending("a")
        exchange.delivered("a", "text", refused)
        with pytest.raises(BrokerError, match="'a' was not delivered: too large"):
            await collect(exchange)

    asyncio.run(main())


def test_room_waits_for_answers_that_were_taken() -> None:
    async def main() -> None:
        exchange = Exchange(TOPIC, lambda _: None)
        exchange.sending("a")
        exchange.delivered("a", "text", confirmed(0, 0))
        waiting = asyncio.create_task(exchange.room(1))
        exchange.receive(response("a", 0, 0))
        await asyncio.sleep(0)
        assert not waiting.done()  # answered, but the caller has not taken it
        await anext(exchange.answers(5.0))
        await asyncio.wait_for(waiting, 5.0)

    asyncio.run(main())


def test_a_pause_of_the_caller_is_no_silence() -> None:
    async def main() -> None:
        exchange = Exchange(TOPIC, lambda _: None)
        collecting = asyncio.create_task(collect(exchange, silence_s=0.01))
        await asyncio.sleep(0.1)  # nothing is outstanding: the next document may take its time
        assert not collecting.done()
        exchange.complete()
        assert await collecting == []

    asyncio.run(main())
