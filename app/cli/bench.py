"""`bertstream bench`: how fast this machine, or the running service, answers documents."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.console import add_row, err, out, print_json, progress, run, table
from app.cli.documents import SAMPLES, read_files
from app.cli.options import AsJson, Model, ThroughKafka
from app.cli.outcomes import failure
from app.cli.registry import loaded_registry
from app.errors import BertstreamError
from app.printable import printable
from app.settings import Settings, load_settings

if TYPE_CHECKING:
    from app.client import Client
    from models.inference.engine import Engine

ALONE_DOCUMENTS = 200
"""Documents that are answered one at a time, at most."""
WARM_UP_DOCUMENTS = 64
SHARES = (0.1, 0.5, 0.8)
"""Of what the service answers at most: the loads at which latency is measured."""
LEAST_RATE = 1.0
SETTLE_S = 2.0
"""What is sent in the first seconds of a load does not count."""


@dataclass(frozen=True, slots=True)
class Throughput:
    """Documents that were there all at once, round by round."""

    documents_per_s: list[float]
    tokens_per_s: list[float]
    """Without special tokens, each counted once."""


@dataclass(frozen=True, slots=True)
class Latency:
    """How long documents waited for their answer, in ms."""

    rate: float | None
    """Documents sent in a second; None: the next one when the one before was answered."""
    documents: int
    p50_ms: float
    p99_ms: float

    @classmethod
    def of(cls, seconds: Sequence[float], rate: float | None = None) -> Latency:
        """The percentiles of at least one time."""
        cuts = statistics.quantiles([*seconds, seconds[-1]], n=100, method="inclusive")
        return cls(rate, len(seconds), 1000 * cuts[49], 1000 * cuts[98])


def bench(
    data: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            help="Documents as .txt, .csv, .tsv or .jsonl; repeated.",
            show_default="the samples of bertstream",
        ),
    ] = SAMPLES,
    documents: Annotated[
        int, typer.Option(min=1, metavar="N", help="Documents of a round.")
    ] = 1000,
    rounds: Annotated[int, typer.Option(min=1, metavar="N", help="Rounds of them.")] = 3,
    model: Model = None,
    through_kafka: ThroughKafka = False,
    rate: Annotated[
        list[float] | None,
        typer.Option(
            min=LEAST_RATE,
            metavar="R",
            help="With --through-kafka: documents a second at which latency is measured; may be "
            "given several times. Without it: 10, 50 and 80 % of what was answered at most.",
        ),
    ] = None,
    seconds: Annotated[
        float, typer.Option(min=2 * SETTLE_S, metavar="S", help="How long each rate goes on.")
    ] = 12.0,
    as_json: AsJson = False,
) -> None:
    """Measure documents a second and latency, of the model here or of the running service.

    Through Kafka the documents of a rate are sent when they are due, whatever became of those
    before, so that what waits is counted as waiting.
    """
    if rate and not through_kafka:
        raise typer.BadParameter("--rate is for --through-kafka: here the model is asked directly")
    found = list(read_files([data]))
    if through_kafka:
        facts = run(_ask(load_settings(), found, documents, rounds, model, rate or [], seconds))
    else:
        facts = _predict(model, found, documents, rounds)
    facts["data"] = str(data)
    if as_json:
        print_json(facts)
    else:
        _print(facts)


def _predict(
    path: str | None, found: Sequence[Mapping[str, Any]], count: int, rounds: int
) -> dict[str, Any]:
    """Measure the default model, or the one at `path`, in this process."""
    from models.inference.tasks import Document

    settings = load_settings(**({} if path is None else {"model": path}))
    name, spec = next(iter(settings.models.items()))
    settings = load_settings(model=f"{name}={spec}")
    all_of_them = [
        Document(one["text"], one.get("text_pair")) for one in islice(cycle(found), count)
    ]
    with loaded_registry(settings) as registry, progress(rounds) as display:
        engine = registry.engine()
        engine.warm_up()
        task = display.add_task("predicting", total=rounds)
        _answered(engine, all_of_them[:WARM_UP_DOCUMENTS], settings)
        throughput = Throughput([], [])
        for _ in range(rounds):
            began = time.perf_counter()
            tokens = _answered(engine, all_of_them, settings)
            elapsed = time.perf_counter() - began
            throughput.documents_per_s.append(count / elapsed)
            throughput.tokens_per_s.append(tokens / elapsed)
            display.advance(task)
        display.update(task, description="one at a time")
        alone = []
        for document in all_of_them[:ALONE_DOCUMENTS]:
            began = time.perf_counter()
            _answered(engine, [document], settings)
            alone.append(time.perf_counter() - began)
        described = engine.describe()
    return {
        "through_kafka": False,
        "model": {key: described[key] for key in ("path", "version", "device", "dtype", "engine")},
        "documents": count,
        "throughput": asdict(throughput),
        "latency": [asdict(Latency.of(alone))],
    }


def _answered(engine: Engine, documents: Sequence[Any], settings: Settings) -> int:
    """Have documents predicted; returns their tokens.

    Raises:
        BertstreamError: one could not be predicted.
    """
    tokens = 0
    for outcome in engine.predict(
        documents,
        batch_size=settings.batch_size,
        batch_tokens=settings.batch_tokens,
        threads=settings.threads,
    ):
        if isinstance(outcome, Exception):
            raise _unanswered(outcome.code, str(outcome))
        tokens += outcome.tokens
    return tokens


async def _ask(
    settings: Settings,
    found: Sequence[Mapping[str, Any]],
    count: int,
    rounds: int,
    model: str | None,
    rates: Sequence[float],
    seconds: float,
) -> dict[str, Any]:
    """Measure the running service."""
    from app.client import Client

    extra = {} if model is None else {"model": model}
    requests = [{key: one[key] for key in ("text", "text_pair") if key in one} for one in found]
    requests = [request | extra for request in requests]
    throughput, latencies = Throughput([], []), []
    async with Client(settings) as client:
        with progress() as display:
            task = display.add_task("asking the service")
            first = await _exchange(client, islice(cycle(requests), WARM_UP_DOCUMENTS))
            for turn in range(rounds):
                display.update(task, description=f"all at once, round {turn + 1} of {rounds}")
                began = time.perf_counter()
                answers = await _exchange(client, islice(cycle(requests), count))
                elapsed = time.perf_counter() - began
                throughput.documents_per_s.append(count / elapsed)
                tokens = sum(response["tokens"] for _, response in answers)
                throughput.tokens_per_s.append(tokens / elapsed)
            most = statistics.median(throughput.documents_per_s)
            for rate in rates or [max(LEAST_RATE, share * most) for share in SHARES]:
                display.update(task, description=f"{rate:,.0f} a second, for {seconds:g} s")
                answers = await _exchange(client, _paced(requests, rate, seconds))
                times = [waited for waited, response in answers if waited is not None]
                latencies.append(asdict(Latency.of(times, rate)))
    response = first[0][1]
    return {
        "through_kafka": True,
        "model": {"name": response["model"], "version": response["model_version"]},
        "documents": count,
        "throughput": asdict(throughput),
        "latency": latencies,
    }


async def _exchange(
    client: Client, documents: Iterator[Mapping[str, Any]] | AsyncIterator[Mapping[str, Any]]
) -> list[tuple[float | None, dict[str, Any]]]:
    """Have documents answered; the responses, and the seconds since each was due, if it was.

    Raises:
        BertstreamError: one was answered with an error.
    """
    answers = []
    async with aclosing(client.exchange(documents)) as exchange:
        async for document, response in exchange:
            assert isinstance(document, Mapping)
            if (failed := failure(response)) is not None:
                raise _unanswered(*failed)
            due = document.get("due")
            answers.append((None if due is None else time.perf_counter() - due, response))
    return answers


async def _paced(
    requests: Sequence[Mapping[str, Any]], rate: float, seconds: float
) -> AsyncIterator[Mapping[str, Any]]:
    """Requests as they are due; those of the first seconds do not say when that was."""
    began = time.perf_counter()
    for number, request in enumerate(islice(cycle(requests), int(rate * seconds))):
        due = began + number / rate
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        yield {**request, "due": due} if due >= began + SETTLE_S else request


def _print(facts: Mapping[str, Any]) -> None:
    """The figures as a table, the spread of the rounds with them."""
    lines = table("", "median#", "least#", "most#")
    throughput = facts["throughput"]
    for name, title in (("documents_per_s", "documents/s"), ("tokens_per_s", "tokens/s")):
        of_rounds = throughput[name]
        figures = (statistics.median(of_rounds), min(of_rounds), max(of_rounds))
        add_row(lines, title, *(f"{figure:,.0f}" for figure in figures))
    out.print(lines)
    waits = table("latency, ms", "documents#", "p50#", "p99#")
    for latency in facts["latency"]:
        rate = latency["rate"]
        name = "one at a time" if rate is None else f"{rate:,.1f} documents/s"
        numbers = (f"{latency['p50_ms']:,.1f}", f"{latency['p99_ms']:,.1f}")
        add_row(waits, name, f"{latency['documents']:,}", *numbers)
    out.print(waits)
    model = ", ".join(f"{name} {fact}" for name, fact in facts["model"].items())
    about = f"{facts['documents']:,} documents of {facts['data']} a round; {model}"
    err.print(printable(about), markup=False, soft_wrap=True)


def _unanswered(code: str, message: str) -> BertstreamError:
    return BertstreamError(
        f"a document got no prediction, so nothing is measured: {code}: {message}"
    )
