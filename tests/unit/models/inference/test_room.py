"""Room in the pool: bounded, first come first served, never lost."""

from __future__ import annotations

import asyncio

import pytest

from models.errors import PoolClosed
from models.inference.room import Room


async def settle() -> None:
    """Let every task run that can."""
    for _ in range(5):
        await asyncio.sleep(0)


def test_documents_and_bytes_are_bounded() -> None:
    room = Room(documents=3, text_bytes=10)
    assert room.try_enter(4)
    assert not room.try_enter(7)
    assert room.try_enter(6)
    assert not room.try_enter(1)
    room.leave(1, 6)
    assert room.try_enter(0)
    assert room.try_enter(0)
    assert not room.try_enter(0)
    assert (room.documents, room.text_bytes) == (3, 4)


def test_what_is_larger_than_the_room_enters_an_empty_one() -> None:
    room = Room(documents=3, text_bytes=10)
    assert room.try_enter(100)
    assert not room.try_enter(0)
    room.leave(1, 100)
    assert room.try_enter(1)
    assert not room.try_enter(100)


def test_those_who_wait_enter_in_order() -> None:
    async def main() -> None:
        room = Room(documents=10, text_bytes=10)
        await room.enter(10)
        entered: list[int] = []

        async def enter(text_bytes: int) -> None:
            await room.enter(text_bytes)
            entered.append(text_bytes)

        tasks = [asyncio.ensure_future(enter(text_bytes)) for text_bytes in (6, 5, 1)]
        await settle()
        room.leave(1, 10)
        await settle()
        # The last one would fit, but does not overtake.
        assert entered == [6]
        assert not room.try_enter(1)
        room.leave(1, 6)
        await asyncio.gather(*tasks)
        assert entered == [6, 5, 1]

    asyncio.run(main())


def test_one_who_gives_up_lets_the_next_in() -> None:
    async def main() -> None:
        room = Room(documents=2, text_bytes=10)
        await room.enter(6)
        large = asyncio.ensure_future(room.enter(9))
        small = asyncio.ensure_future(room.enter(1))
        await settle()
        assert not small.done()
        large.cancel()
        await small
        assert (room.documents, room.text_bytes) == (2, 7)

    asyncio.run(main())


def test_room_given_to_one_who_gives_up_is_given_on() -> None:
    async def main() -> None:
        room = Room(documents=1, text_bytes=10)
        await room.enter(1)
        given_up = asyncio.ensure_future(room.enter(2))
        waiting = asyncio.ensure_future(room.enter(3))
        await settle()
        room.leave(1, 1)
        given_up.cancel()
        await waiting
        assert given_up.cancelled()
        assert (room.documents, room.text_bytes) == (1, 3)

    asyncio.run(main())


def test_closing_sends_those_who_wait_away() -> None:
    async def main() -> None:
        room = Room(documents=1, text_bytes=10)
        await room.enter(1)
        waiting = [asyncio.ensure_future(room.enter(1)) for _ in range(2)]
        await settle()
        room.close(PoolClosed("over"))
        for one in waiting:
            with pytest.raises(PoolClosed):
                await one
        assert (room.documents, room.text_bytes) == (1, 1)

    asyncio.run(main())
