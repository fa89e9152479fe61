"""What a stream takes from its channel."""

from __future__ import annotations

import asyncio

import pytest
from faust.events import Event

from app.streams import BatchStream
from app.worker import BertstreamApp
from tests.unit.app.test_hand_over import record
from tests.unit.app.test_letting_go import new_consumer


def test_a_stream_that_is_given_up_takes_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one is whose agent has raised; it stays where it yielded until it is collected."""

    async def main() -> None:
        consumer = await new_consumer()
        app = consumer.app
        monkeypatch.setattr(BertstreamApp, "consumer", consumer)
        app.flow_control.resume()
        channel = app.channel()

        async def put(offset: int) -> None:
            message = record(consumer, 0, offset)
            await consumer.callback(message)
            channel.queue.force_put_nowait(Event(app, None, None, None, message))

        given_up, next_one = (BatchStream(channel, app=app).take(10, within=0.0) for _ in range(2))
        for offset, stream in enumerate((given_up, next_one)):
            await put(offset)
            await asyncio.sleep(0.01)
            [event] = await anext(stream)
            assert event.message.offset == offset
        for stream in (given_up, next_one):
            await stream.aclose()  # type: ignore[attr-defined]

    asyncio.run(asyncio.wait_for(main(), 10))
