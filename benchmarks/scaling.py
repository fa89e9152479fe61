"""`python -m benchmarks.scaling`: how speed grows, or does not, with what a user may change.

The engine alone by the length of documents and by how many are there at once; through Kafka by the
number of workers; and with a model that does nothing by partitions and by what waits.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import cycle, islice
from pathlib import Path

from benchmarks import plumbing, through_kafka
from benchmarks.engine import SHIPPED, Label, ours
from benchmarks.faults.deployment import Deployment
from benchmarks.page import add_outputs, markdown, publish, spread

LENGTHS = (16, 64, 256, 1024, 4096)
"""Tokens of a document."""
TOKENS = 30_000
"""Of all documents of a round."""
AT_ONCE = (1, 4, 16, 64, 256, 1024)
DOCUMENTS = 512
"""Of a round, at least."""
WORKERS = (1, 2)
PARTITIONS = (1, 8, 64)
BACKLOGS = (1_000, 10_000, 100_000, 1_000_000)


@dataclass(frozen=True, slots=True)
class Point:
    """One figure of a curve."""

    at: int
    per_s: float
    """Documents, or requests."""
    cpu_us: float | None = None
    memory_mib: float | None = None


Curve = list[Point]
"""The points of all rounds."""


def by_length(texts: Sequence[str], rounds: int) -> Curve:
    """The engine, by tokens of a document."""
    from models.inference.checkpoint import load_encoder

    tokenizer = load_encoder("builtin", "mean").tokenizer
    [ids] = tokenizer.encode([" ".join(islice(cycle(texts), 400))])
    label = ours("auto")
    points = []
    for _ in range(rounds):
        for length in LENGTHS:
            count = max(1, TOKENS // length)
            starts = range(0, length * count, length)
            spans = [(start % (len(ids) - length), length) for start in starts]
            documents = [
                " ".join(ids.tokens[start : start + size]).replace(" ##", "")
                for start, size in spans
            ]
            points.append(Point(length, _documents_per_s(label, documents, count)))
    return points


def by_documents_at_once(texts: Sequence[str], rounds: int) -> Curve:
    """The engine, by the number of documents that it is given together."""
    label = ours("auto")
    return [
        Point(size, _documents_per_s(label, list(islice(cycle(texts), max(size, DOCUMENTS))), size))
        for _ in range(rounds)
        for size in AT_ONCE
    ]


def _documents_per_s(label: Label, documents: Sequence[str], at_once: int) -> float:
    label(documents[:at_once])
    began = time.perf_counter()
    for start in range(0, len(documents), at_once):
        label(documents[start : start + at_once])
    return len(documents) / (time.perf_counter() - began)


def by_workers(texts: Sequence[str], rounds: int) -> Curve:
    """Through Kafka, by workers that share the machine."""
    points = []
    with (
        tempfile.TemporaryDirectory(prefix="bertstream-scaling-") as scratch,
        Deployment(Path(scratch), through_kafka.CONTENDERS["ours"]) as site,
    ):
        for _ in range(rounds):
            for count in WORKERS:
                site.new_service()
                site.have_workers(count)
                warm_up = through_kafka.WARM_UP_DOCUMENTS
                asyncio.run(through_kafka.answer(site, texts, count * warm_up))
                documents = through_kafka.DOCUMENTS
                seconds = asyncio.run(through_kafka.answer(site, texts, documents))
                points.append(Point(count, documents / seconds))
    return points


def by_partitions(_: Sequence[str], rounds: int) -> Curve:
    """A model that does nothing, by partitions of the request topic."""
    points = []
    for count in PARTITIONS:
        done = _plumbing(count, [plumbing.REQUESTS] * rounds)
        points += [_point(count, one) for one in done]
    return points


def by_backlog(_: Sequence[str], rounds: int) -> Curve:
    """A model that does nothing, by requests that wait when it begins."""
    backlogs = BACKLOGS * rounds
    return [_point(*one) for one in zip(backlogs, _plumbing(8, backlogs), strict=True)]


def _point(at: int, done: plumbing.Round) -> Point:
    return Point(at, done.requests_per_s, done.cpu_us, done.memory_mib)


def _plumbing(partitions: int, backlogs: Sequence[int]) -> list[plumbing.Round]:
    rounds = []
    with (
        tempfile.TemporaryDirectory(prefix="bertstream-scaling-") as scratch,
        Deployment(Path(scratch), partitions=partitions) as site,
    ):
        for backlog in backlogs:
            rounds.append(plumbing.measure(site, "ours", backlog))
            print(f"{partitions} partitions, {backlog:,} requests: {rounds[-1]}", flush=True)
    return rounds


def describe(columns: Sequence[str], curve: Curve, tokens: bool = False) -> str:
    """The points of a curve as a table: medians with their range."""
    rows = []
    for at in dict.fromkeys(point.at for point in curve):
        points = [point for point in curve if point.at == at]
        row = [f"{at:,}", spread([point.per_s for point in points], 0)]
        if tokens:
            row.append(spread([at * point.per_s for point in points], 0))
        if points[0].cpu_us is not None:
            row.append(spread([point.cpu_us or 0.0 for point in points], 0))
            row.append(f"{statistics.median(point.memory_mib or 0.0 for point in points):.0f}")
        rows.append(row)
    return markdown(columns, rows)


CURVES: dict[str, tuple[Callable[[Sequence[str], int], Curve], tuple[str, ...]]] = {
    "length": (by_length, ("tokens of a document", "documents/s", "tokens/s")),
    "at-once": (by_documents_at_once, ("documents at once", "documents/s")),
    "workers": (by_workers, ("workers", "documents/s")),
    "partitions": (
        by_partitions,
        ("partitions", "requests/s", "CPU µs for a request", "most memory, MiB"),
    ),
    "backlog": (
        by_backlog,
        ("requests that wait", "requests/s", "CPU µs for a request", "most memory, MiB"),
    ),
}


def main() -> int:
    arguments = _arguments()
    texts = [json.loads(line)["text"] for line in arguments.data.read_text().splitlines()]
    curves: dict[str, Curve] = {}
    for name in arguments.curve:
        measure, _ = CURVES[name]
        curves[name] = measure(texts, arguments.rounds)
        print(name, [asdict(point) for point in curves[name]], flush=True)
    tables = [
        describe(CURVES[name][1], curve, tokens=name == "length") for name, curve in curves.items()
    ]
    publish(arguments, "scaling", "\n\n".join(tables), curves)
    if arguments.plot:
        plot(curves, arguments.plot)
    return 0


def plot(curves: dict[str, Curve], file: Path) -> None:
    """Draw every curve, with all its rounds, into one picture."""
    sys.path.append(str(through_kafka.PEER_PACKAGES))
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4 * len(curves), 3.2), layout="constrained")
    for axes, (name, curve) in zip(
        figure.subplots(1, len(curves), squeeze=False)[0], curves.items(), strict=True
    ):
        places = sorted({point.at for point in curve})
        middle = [
            statistics.median(one.per_s for one in curve if one.at == place) for place in places
        ]
        axes.plot(places, middle, color="tab:blue")
        axes.scatter(
            [one.at for one in curve], [one.per_s for one in curve], s=10, color="tab:blue"
        )
        axes.set(xlabel=CURVES[name][1][0], ylabel=CURVES[name][1][1], xscale="log", ylim=(0, None))
        axes.set_xticks(places, [f"{place:,}" for place in places], minor=False)
        axes.minorticks_off()
    figure.savefig(file)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__)
    parser.add_argument(
        "--data", type=Path, default=SHIPPED, metavar="FILE", help="documents, as .jsonl"
    )
    parser.add_argument("--curve", nargs="+", choices=CURVES, default=list(CURVES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--plot", type=Path, metavar="FILE", help="picture, as .svg or .png")
    add_outputs(parser)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
