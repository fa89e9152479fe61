"""Batches that a CPU computes at once."""

from __future__ import annotations

import asyncio

import pytest

from models.inference.pool import InferencePool
from models.inference.tasks import Document
from tests.word_counter import Models, WordCounter, pool_threads, until


@pytest.mark.parametrize(("max_in_flight", "lanes"), [(4, 2), (1, 1)])
def test_each_lane_computes_a_batch_of_its_own(max_in_flight: int, lanes: int) -> None:
    async def main() -> None:
        engine = WordCounter()
        engine.open.clear()
        async with InferencePool(
            Models(engine), batch_size=1, cpu_lanes=2, threads=1, max_in_flight=max_in_flight
        ) as pool:
            names = {"compute-cpu", "decode-cpu", "compute-cpu-1", "decode-cpu-1"}
            assert len(names & set(pool_threads())) == 2 * lanes
            answers = asyncio.gather(*(pool.predict(Document(text)) for text in ("1", "2", "3")))
            await until(lambda: pool.state()["batches_in_flight"] == lanes)
            assert pool.state()["max_in_flight"] == max_in_flight
            engine.open.set()
            assert [answer.score for answer in await answers] == [1.0, 2.0, 3.0]

    asyncio.run(main())
