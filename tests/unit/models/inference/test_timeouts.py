"""What takes too long is given up; everything else is answered, and by nobody twice."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterator
from typing import Any

import pytest

from models.errors import InferenceFailed, PoolClosed
from models.inference.pool import MOST_LEFT_BEHIND, BatchDone, InferencePool
from models.inference.tasks import Document, Prediction
from tests.word_counter import (
    DEADLINE_S,
    Models,
    WordCounter,
    collect,
    is_empty,
    pool_threads,
    score,
    until,
)

LIMIT_S = 0.4


@pytest.fixture
def engine() -> Iterator[WordCounter]:
    """A model that hangs, until the test is over at the latest."""
    engine = WordCounter()
    yield engine
    engine.released.set()


def run(main: Awaitable[Any]) -> None:
    asyncio.run(asyncio.wait_for(main, DEADLINE_S))


def impatient(engine: WordCounter, **options: Any) -> InferencePool:
    return InferencePool(Models(engine), batch_timeout_s=LIMIT_S, encode_threads=1, **options)


def given_up(found: dict[str, Prediction | Exception]) -> set[str]:
    """The documents answered with the limit; all others have their number."""
    failed = set()
    for text, outcome in found.items():
        if isinstance(outcome, Exception):
            assert isinstance(outcome, InferenceFailed)
            assert "took longer than 0.4 s (BATCH_TIMEOUT_S)" in str(outcome)
            failed.add(text)
        else:
            assert score(outcome) == sum(map(int, text.split()))
    return failed


@pytest.mark.parametrize(
    ("text", "thread", "most_company"),
    [("hang 1", "compute-cpu", 4), ("stall", "decode-cpu", 4), ("~1", "encode-0", 64)],
)
@pytest.mark.parametrize(
    "late_error", [None, RuntimeError("too late"), SystemExit(3)], ids=["result", "error", "bug"]
)
def test_a_step_that_hangs_is_given_up_and_the_rest_is_answered(
    engine: WordCounter,
    text: str,
    thread: str,
    most_company: int,
    late_error: BaseException | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        engine.late_error = late_error
        done: list[BatchDone] = []
        async with impatient(engine, batch_size=4, on_batch=done.append) as pool:
            found = await collect(pool, [text, *map(str, range(200))])
            assert len(found) == 201
            failed = given_up(found)
            assert text in failed
            assert len(failed) <= most_company
            assert engine.hung == [thread]
            assert f"thread={thread} models=counter documents={len(failed)}" in caplog.text
            assert is_empty(pool)
            assert pool.state()["hanging_threads"] == 1

            engine.released.set()
            await until(lambda: pool.state()["hanging_threads"] == 0)
            assert score(await pool.predict(Document("7"))) == 7
            await until(lambda: is_empty(pool))
            assert not pool.crashed
            assert sum(batch.documents for batch in done) == 201 - len(failed) + 1
        assert not pool_threads()

    run(main())


def test_a_document_is_given_up_whole_when_one_of_its_segments_hangs(engine: WordCounter) -> None:
    async def main() -> None:
        async with impatient(engine, batch_size=2) as pool:
            with pytest.raises(InferenceFailed, match="device batch took longer"):
                await pool.predict(Document("hang" + " 1" * 200))
            assert is_empty(pool)
            assert score(await pool.predict(Document("5"))) == 5
            engine.released.set()
            await until(lambda: pool.state()["hanging_threads"] == 0)
            assert engine.batches == [2, 1]

    run(main())


def test_the_other_half_of_a_failed_batch_does_not_wait_for_one_that_hangs(
    engine: WordCounter,
) -> None:
    async def main() -> None:
        async with impatient(engine) as pool:
            # The shorter half is computed first.
            found = await collect(pool, ["hang", "2", "poison 1 1", "3 3 3 3"])
            poisoned = found.pop("poison 1 1")
            assert isinstance(poisoned, InferenceFailed)
            assert "poisoned" in str(poisoned)
            assert given_up(found) == {"hang", "2"}
            assert engine.batches == [4, 2, 2, 1, 1]
            assert is_empty(pool)

    run(main())


def test_the_room_of_what_was_given_up_is_free_again(engine: WordCounter) -> None:
    async def main() -> None:
        async with impatient(engine, batch_size=1, max_documents=2) as pool:
            found = await collect(pool, ["hang", *map(str, range(50))])
            assert given_up(found) == {"hang"}
            assert is_empty(pool)

    run(main())


def test_threads_that_come_to_an_end_after_all_are_forgotten(engine: WordCounter) -> None:
    async def main() -> None:
        async with impatient(engine) as pool:
            for _ in range(MOST_LEFT_BEHIND + 1):
                engine.released.clear()
                with pytest.raises(InferenceFailed):
                    await pool.predict(Document("hang"))
                engine.released.set()
                await until(lambda: pool.state()["hanging_threads"] == 0)
            assert score(await pool.predict(Document("5"))) == 5

    run(main())


def test_a_device_that_hangs_for_good_crashes_the_pool(engine: WordCounter) -> None:
    async def main() -> None:
        pool = impatient(engine, batch_size=1, max_documents=20, stop_timeout_s=0.05)
        await pool.start()
        texts = [f"hang {number}" for number in range(20)]
        mapped = asyncio.ensure_future(collect(pool, texts))
        await until(lambda: pool.state()["documents"] == 20)
        outside = asyncio.ensure_future(pool.predict(Document("5")))
        for waiting in (mapped, outside):
            with pytest.raises(PoolClosed, match="4 threads hang at once: compute-cpu"):
                await waiting
        await until(lambda: pool.crashed)
        assert isinstance(pool.crash_reason, TimeoutError)
        assert len(engine.hung) <= MOST_LEFT_BEHIND + 2
        await pool.stop()
        engine.released.set()
        await until(lambda: not pool_threads())

    run(main())


def test_a_stop_does_not_wait_for_threads_left_behind(
    engine: WordCounter, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with impatient(engine, stop_timeout_s=10 * DEADLINE_S) as pool:
            with pytest.raises(InferenceFailed):
                await pool.predict(Document("hang"))
        assert "threads left behind, still busy: compute-cpu" in caplog.text
        assert pool_threads() == ["compute-cpu"]
        engine.released.set()
        await until(lambda: not pool_threads())

    run(main())


def test_a_pool_that_has_stopped_gives_nothing_up(engine: WordCounter) -> None:
    async def main() -> None:
        pool = impatient(engine, stop_timeout_s=2 * LIMIT_S)
        await pool.start()
        hanging = asyncio.ensure_future(pool.predict(Document("hang")))
        await until(lambda: bool(engine.hung))
        await pool.stop()
        with pytest.raises(PoolClosed, match="stopped"):
            await hanging
        assert pool_threads() == ["compute-cpu"]
        engine.released.set()
        await until(lambda: not pool_threads())
        assert is_empty(pool)

    run(main())
