"""Whoever waits for a turn gets it, whatever became of those before."""

from __future__ import annotations

import asyncio

from aiokafka.errors import KafkaError

from app.confirmations import Turns


async def take(turns: Turns, done: list[int], number: int) -> None:
    async with turns.turn():
        done.append(number)


async def settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def test_turns_of_those_who_have_gone_are_given_to_others() -> None:
    async def main() -> None:
        turns, done = Turns(1), list[int]()
        async with turns.turn():
            waiting = [asyncio.create_task(take(turns, done, number)) for number in range(5)]
            await settled()
            for task in waiting[:3]:
                task.cancel()
            await settled()
        await settled()
        assert done == [3, 4]

    asyncio.run(main())


def test_a_turn_that_was_given_to_one_who_goes_is_passed_on() -> None:
    async def main() -> None:
        turns, done = Turns(1), list[int]()
        async with turns.turn():
            first, second = (asyncio.create_task(take(turns, done, number)) for number in range(2))
            await settled()
        first.cancel()  # the turn is its own, and it has not run yet
        await settled()
        assert done == [1]
        assert second.done()

    asyncio.run(main())


def test_one_goes_at_a_time_while_they_fail() -> None:
    async def main() -> None:
        turns, at_once = Turns(4), list[int]()
        under_way = 0

        async def turn(fails: bool) -> None:
            nonlocal under_way
            try:
                async with turns.turn():
                    under_way += 1
                    at_once.append(under_way)
                    await asyncio.sleep(0)
                    under_way -= 1
                    if fails:
                        raise KafkaError
            except KafkaError:
                pass

        await asyncio.gather(*(turn(fails=True) for _ in range(12)))
        assert at_once[:4] == [1, 2, 3, 4]
        assert set(at_once[4:]) == {1}
        at_once.clear()
        await asyncio.gather(*(turn(fails=False) for _ in range(20)))
        assert max(at_once) == 4

    asyncio.run(main())
