"""`python -m benchmarks.augmentation`: what altered copies are worth to a small labelled set.

From a file of documents some of each label are drawn to learn from, and others to measure on; for
each draw a classifier is trained without copies, and with those of each kind.

    python -m benchmarks.augmentation --data train.jsonl --of-each 20 100 -- --frozen-encoder
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from benchmarks.page import add_outputs, markdown, publish
from benchmarks.seeds import interval
from models.training.labelled import LabelledCorpus

NOTHING = ("--synonym-rate", "0", "--deletion-rate", "0", "--swap-rate", "0")
KINDS: dict[str, tuple[str, ...]] = {
    "no copies": (),
    "deletion and swap, 10 % of the words each": ("--copies", "4"),
    "`[MASK]`, 15 %": ("--copies", "4", *NOTHING, "--mask-rate", "0.15"),
    "a letter of 10 % of the words": ("--copies", "4", *NOTHING, "--noise-rate", "0.1"),
}


@dataclass(frozen=True, slots=True)
class Round:
    """One training."""

    of_each: int
    """Documents of each label that were learned from, copies apart."""
    draw: int
    kind: str
    accuracy: float


def main(arguments: Sequence[str] | None = None) -> None:
    """Train on every draw in every way, and sum up."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.augmentation", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, metavar="FILE")
    parser.add_argument("--of-each", type=int, nargs="+", default=[20, 100], metavar="N")
    parser.add_argument("--measured", type=int, default=1000, help="documents to measure on")
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("options", nargs="*", help="of `bertstream train`, behind --")
    add_outputs(parser)
    given = parser.parse_args(arguments)
    corpus = LabelledCorpus.read(given.data)
    rounds = []
    for of_each in given.of_each:
        for draw in range(given.draws):
            with tempfile.TemporaryDirectory() as folder:
                files = draw_files(corpus, of_each, given.measured, draw, Path(folder))
                for number, kind in enumerate(given.kinds):
                    accuracy = train(*files, Path(folder, str(number)), draw, kind, given.options)
                    rounds.append(Round(of_each, draw, kind, accuracy))
                    print(rounds[-1], file=sys.stderr, flush=True)
    publish(given, "augmentation", summary(rounds), rounds, kafka=False)


def draw_files(
    corpus: LabelledCorpus, of_each: int, measured: int, draw: int, folder: Path
) -> tuple[Path, Path]:
    """Write documents to learn from, and others to measure on."""
    rows = list(zip(corpus.documents, corpus.labels, strict=True))
    random.Random(draw).shuffle(rows)
    drawn: dict[tuple[str, ...], list[str]] = defaultdict(list)
    others: list[str] = []
    for document, labels in rows:
        line = json.dumps({"text": document.text, "label": labels[0]})
        (drawn[labels] if len(drawn[labels]) < of_each else others).append(line)
    files = folder / "learned.jsonl", folder / "measured.jsonl"
    for file, lines in zip(files, (chain(*drawn.values()), others[:measured]), strict=True):
        file.write_text("\n".join(lines), encoding="utf-8")
    return files


def train(
    learned: Path, measured: Path, folder: Path, seed: int, kind: str, options: Sequence[str]
) -> float:
    """Train once; returns the accuracy."""
    command = [sys.executable, "-m", "app.cli", "train", "--data", str(learned)]
    command += ["--eval", str(measured), "--output", str(folder), "--seed", str(seed), "--json"]
    done = subprocess.run(
        [*command, *KINDS[kind], *options], check=True, stdout=subprocess.PIPE, text=True
    )
    record: dict[str, Any] = json.loads(done.stdout)
    return float(record["evaluation"]["scores"]["accuracy"])


def summary(rounds: Sequence[Round]) -> str:
    """Mean accuracies, and differences from no copies, draw by draw."""
    rows = []
    for of_each in sorted({one.of_each for one in rounds}):
        by_kind: dict[str, list[float]] = defaultdict(list)
        for one in rounds:
            if one.of_each == of_each:
                by_kind[one.kind].append(one.accuracy)
        first = next(iter(by_kind))
        for kind, values in by_kind.items():
            gains = [value - base for value, base in zip(values, by_kind[first], strict=True)]
            rows.append(
                (
                    f"{of_each} of each label: {kind}",
                    interval(values),
                    "" if kind == first else interval(gains),
                )
            )
    return markdown(("learned from", "accuracy", f"more than {next(iter(KINDS))}"), rows)


if __name__ == "__main__":
    main()
