"""`python -m benchmarks.engine`: text to label without Kafka, beside transformers.

Every way in a process of its own, by turns, so that what else the machine does meets all.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmarks.flops import flop_per_document, matmul_peak
from benchmarks.page import add_outputs, markdown, publish, spread, times

DOCUMENTS = 1000
WARM_UP_DOCUMENTS = 64
SHIPPED = Path(__file__).parents[1] / "app" / "data" / "samples.jsonl"

Label = Callable[[Sequence[str]], list[str]]
"""Texts to their labels."""


@dataclass(frozen=True, slots=True)
class Way:
    """A way from text to label."""

    title: str
    dtype: str
    make: Callable[[], Label]


def ours(dtype: str, engine: Literal["auto", "plain"] = "auto") -> Label:
    """The engine as a worker has it."""
    from models.inference.registry import ModelRegistry
    from models.inference.tasks import Document, Prediction

    registry = ModelRegistry.load({"m": "builtin"}, device="cpu", dtype=dtype, engine=engine)
    registry.warm_up()

    def label(texts: Sequence[str]) -> list[str]:
        labels = []
        for outcome in registry.engine().predict([Document(text) for text in texts]):
            assert isinstance(outcome, Prediction), outcome
            labels.append(outcome.label or "")
        return labels

    return label


def by_transformers(dtype: str, *, by_length: bool, batch_size: int = 32) -> Label:
    """A loop over batches, as one writes it by hand; cuts off what is longer than the window."""
    import torch
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging

    from models.inference.checkpoint import BUILTIN_HEAD, builtin_encoder
    from models.nn.classifier import ClassifierHead

    logging.disable_progress_bar()
    folder = builtin_encoder()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    encoder = AutoModel.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
    head = ClassifierHead.load(BUILTIN_HEAD).eval()

    @torch.inference_mode()
    def label(texts: Sequence[str]) -> list[str]:
        ids = tokenizer(list(texts), truncation=True, max_length=256)["input_ids"]
        order = list(range(len(ids)))
        if by_length:
            order.sort(key=lambda row: -len(ids[row]))
        labels = [""] * len(ids)
        for start in range(0, len(ids), batch_size):
            rows = order[start : start + batch_size]
            batch = tokenizer.pad({"input_ids": [ids[row] for row in rows]}, return_tensors="pt")
            hidden = encoder(**batch).last_hidden_state.float()
            mask = batch["attention_mask"].unsqueeze(-1).float()
            logits = head((hidden * mask).sum(1) / mask.sum(1))
            for row, best in zip(rows, logits.argmax(-1).tolist(), strict=True):
                labels[row] = head.labels[best]
        return labels

    return label


def _ways(dtype: str) -> dict[str, Way]:
    return {
        f"ours-{dtype}": Way(f"bertstream, {dtype}", dtype, lambda: ours(dtype)),
        f"plain-{dtype}": Way(
            f"bertstream, {dtype}, `ENGINE=plain`", dtype, lambda: ours(dtype, engine="plain")
        ),
        f"sorted-{dtype}": Way(
            f"transformers, batches of 32 by length, {dtype}",
            dtype,
            lambda: by_transformers(dtype, by_length=True),
        ),
        f"arrival-{dtype}": Way(
            f"transformers, batches of 32 in order, {dtype}",
            dtype,
            lambda: by_transformers(dtype, by_length=False),
        ),
    }


WAYS = _ways("bfloat16") | _ways("float32")
EXACT = "arrival-float32"
"""Whose labels the others are compared with."""
THEIR_ENVIRONMENT = {
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "1024",
    "LRU_CACHE_CAPACITY": "1024",
    "GOMP_SPINCOUNT": "300000",
}
"""What torch has where `models` has not set something else for it."""


def fastest_dtype() -> str:
    """The precision that a worker takes on this machine's CPU."""
    import torch

    from models.inference.device import choose_dtype

    return str(choose_dtype("auto", torch.device("cpu"))).removeprefix("torch.")


@dataclass(frozen=True, slots=True)
class Round:
    """What one process has done."""

    documents_per_s: float
    labels: list[str]
    utilisation: float
    """Share of what the machine can multiply in this precision, padding not counted."""


def main() -> int:
    arguments = _arguments()
    texts = [json.loads(line)["text"] for line in arguments.data.read_text().splitlines()]
    if arguments.measure:
        print(json.dumps(_measure(WAYS[arguments.measure], texts)))
        return 0
    dtype = fastest_dtype()
    names = arguments.way or dict.fromkeys([*_ways(dtype), "ours-float32", EXACT])
    rounds: dict[str, list[Round]] = {name: [] for name in names}
    for turn in range(arguments.rounds):
        for name, done in rounds.items():
            done.append(in_a_process(name, arguments.data))
            print(f"round {turn + 1}, {name}: {done[-1].documents_per_s:.0f}/s", flush=True)
    about = f"{DOCUMENTS:,} documents of `{arguments.data.name}` ({len(texts):,} documents)."
    figures = f"{about}\n\n{describe(rounds)}"
    publish(arguments, f"engine-{dtype}", figures, rounds, kafka=False)
    return 0


def _measure(way: Way, texts: list[str]) -> dict[str, object]:
    label = way.make()
    texts = (texts * (1 + DOCUMENTS // len(texts)))[:DOCUMENTS]
    label(texts[:WARM_UP_DOCUMENTS])
    began = time.perf_counter()
    labels = label(texts)
    documents_per_s = len(texts) / (time.perf_counter() - began)
    utilisation = documents_per_s * _flop_per_document(texts) / matmul_peak(way.dtype)
    return {
        "documents_per_s": documents_per_s,
        "labels": labels,
        "utilisation": utilisation,
    }


def _flop_per_document(texts: Sequence[str]) -> float:
    from transformers import AutoConfig, AutoTokenizer

    from models.inference.checkpoint import builtin_encoder

    folder = builtin_encoder()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    lengths = [len(ids) for ids in tokenizer(list(texts))["input_ids"]]
    return flop_per_document(AutoConfig.from_pretrained(folder), lengths)


def in_a_process(name: str, data: Path) -> Round:
    command = [sys.executable, "-m", "benchmarks.engine", "--measure", name, "--data", str(data)]
    environment = os.environ if name.startswith("ours") else os.environ | THEIR_ENVIRONMENT
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    return Round(**json.loads(done.stdout.splitlines()[-1]))


def describe(rounds: dict[str, list[Round]]) -> str:
    """Medians with their range, ratios to ours round by round, and agreement with float32."""
    first = next(iter(rounds))
    exact = rounds[EXACT][0].labels if EXACT in rounds else None
    speeds = {name: [one.documents_per_s for one in done] for name, done in rounds.items()}
    return markdown(
        (
            "text to label, no Kafka",
            "documents/s",
            f"{WAYS[first].title}: times as fast",
            f"labels as {WAYS[EXACT].title}",
            "share of the matmul peak",
        ),
        [
            (
                WAYS[name].title,
                spread(speeds[name], 0),
                times(speeds[first], speeds[name]),
                "" if exact is None else f"{_agreement(done[0].labels, exact):.1%}",
                f"{statistics.median(one.utilisation for one in done):.0%}",
            )
            for name, done in rounds.items()
        ],
    )


def _agreement(labels: Sequence[str], exact: Sequence[str]) -> float:
    return sum(map(str.__eq__, labels, exact)) / len(exact)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engine", description=__doc__)
    parser.add_argument(
        "--data", type=Path, default=SHIPPED, metavar="FILE", help="documents, as .jsonl"
    )
    parser.add_argument("--way", nargs="+", choices=WAYS, help="these alone")
    parser.add_argument("--rounds", type=int, default=5)
    add_outputs(parser)
    parser.add_argument("--measure", choices=WAYS, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
