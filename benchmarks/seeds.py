"""`python -m benchmarks.seeds`: a training under several seeds, and how far its accuracy is luck.

    python -m benchmarks.seeds runs/all -- --data train.jsonl --eval dev.jsonl --validation 0

What stands behind `--` is given to `bertstream train`, with `--seed` 0, 1, 2 and so on. A seed
whose folder is there already is not trained again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from scipy.stats import t

from benchmarks.page import add_outputs, markdown, publish

CONFIDENCE = 0.95


def main(arguments: Sequence[str] | None = None) -> None:
    """Train under each seed, and sum up."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.seeds", description=__doc__)
    parser.add_argument("folder", type=Path, help="where each seed leaves its classifier")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--name", default="seeds", help="of the place in the page")
    parser.add_argument("options", nargs="+", help="of `bertstream train`, with --eval, behind --")
    add_outputs(parser)
    given = parser.parse_args(arguments)
    if "--eval" not in given.options:
        parser.error("give --eval FILE behind --")
    records = [train(given.folder / f"seed-{n}", n, given.options) for n in range(given.seeds)]
    scores = [record["evaluation"]["scores"] for record in records]
    text = markdown(
        ("of seeds", *(str(n) for n in range(given.seeds)), "mean, 95 % interval"),
        [
            (name, *(f"{score[key]:.4f}" for score in scores), interval([s[key] for s in scores]))
            for name, key in (("accuracy", "accuracy"), ("macro F1", "macro_f1"))
        ],
    )
    publish(given, given.name, text, records, kafka=False)


def train(folder: Path, seed: int, options: Sequence[str]) -> dict[str, Any]:
    """Train under one seed, unless it was; returns its record."""
    record, asked = folder / "training.json", folder / "asked.json"
    if not record.exists():
        command = (sys.executable, "-m", "app.cli", "train", "--output", str(folder))
        subprocess.run((*command, "--seed", str(seed), *options), check=True)
        asked.write_text(json.dumps(list(options)), encoding="utf-8")
    elif json.loads(asked.read_text(encoding="utf-8")) != list(options):
        raise SystemExit(f"{folder} was trained with other options; choose another folder")
    facts: dict[str, Any] = json.loads(record.read_text(encoding="utf-8"))
    return facts


def interval(values: Sequence[float]) -> str:
    """The mean, and the interval that holds the mean of all seeds there are (Student's t)."""
    mean = fmean(values)
    if len(values) < 2:
        return f"{mean:.4f}"
    quantile = t.ppf((1 + CONFIDENCE) / 2, len(values) - 1)
    reach = float(quantile) * stdev(values) / len(values) ** 0.5
    return f"{mean:.4f} ({mean - reach:.4f} to {mean + reach:.4f})"


if __name__ == "__main__":
    main()
