"""A small corpus of our own, and its features."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState

from models.training.frozen import Features
from models.training.segments import Parts

SPORT = [
    "The goalkeeper saved two penalties and the home side won the cup final.",
    "She ran the marathon in a new national record and took the gold medal.",
    "The coach dropped his captain before the decisive match of the season.",
    "A late goal sent the visitors to the top of the league.",
    "The tennis champion lost in straight sets in the first round.",
    "Rain stopped the cricket test after the second innings.",
]
TRADE = [
    "Shares of the retailer fell after it warned of lower profits this quarter.",
    "The central bank raised its interest rate by half a point.",
    "Oil prices climbed as producers agreed to cut their output.",
    "The airline will cut three thousand jobs to reduce its costs.",
    "Investors sold the currency after the trade deficit widened.",
    "The carmaker agreed to buy its smaller rival for two billion.",
]

WriteCorpus = Callable[[str, Mapping[str, Sequence[str]]], Path]


@pytest.fixture(autouse=True)
def fresh_accelerator() -> Iterator[None]:
    """Let go of the processes and the precision that accelerate keeps for a whole process."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def topics() -> dict[str, list[str]]:
    """Documents by label, easily told apart."""
    return {"sport": SPORT, "trade": TRADE}


@pytest.fixture
def write_corpus(tmp_path: Path) -> WriteCorpus:
    """Write documents by label into a .jsonl file."""

    def write(name: str, topics: Mapping[str, Sequence[str]]) -> Path:
        lines = [
            json.dumps({"text": text, "label": label})
            for label, texts in topics.items()
            for text in texts
        ]
        path = tmp_path / name
        path.write_text("\n".join(lines), encoding="utf-8")
        return path

    return write


@pytest.fixture
def blobs() -> tuple[Features, list[str]]:
    """Features of 240 documents around three centres, every tenth in two segments, and labels."""
    random = torch.Generator().manual_seed(0)
    centres = 3 * torch.randn(3, 16, generator=random)
    labels, rows, owners, shares = [], [], [], []
    for document in range(240):
        labels.append("abc"[document % 3])
        parts = [0.75, 0.25] if document % 10 == 0 else [1.0]
        for share in parts:
            rows.append(centres[document % 3] + torch.randn(16, generator=random))
            owners.append(document)
            shares.append(share)
    # Encoders give components of very different sizes.
    scale = torch.logspace(-3, 1, 16)
    features = Features(
        torch.stack(rows) * scale + 5, Parts(torch.tensor(owners), torch.tensor(shares))
    )
    return features, labels
