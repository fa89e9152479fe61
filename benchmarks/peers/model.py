"""The model of the peers, chosen by the variable `PEER_MODEL`.

Where faults are counted it is a trivial one, since what is measured is how they treat records;
where speed is, the built-in classifier as transformers computes it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from itertools import count
from typing import Any

from benchmarks.engine import Label, by_transformers

BATCH_S = 0.005
"""What a batch takes the trivial model, of any size; the device of a real one would take longer."""
MOST_RECORDS = int(os.environ.get("PEER_RECORDS", "64"))
"""Most requests that are predicted at once."""


def trivial(texts: Sequence[str]) -> list[str]:
    """One label a text."""
    time.sleep(BATCH_S)
    return ["Sports" if "match" in text.lower() else "World" for text in texts]


def null(texts: Sequence[str]) -> list[str]:
    """One label a text, for nothing."""
    return ["World"] * len(texts)


_batches = count(1)


def failing(texts: Sequence[str]) -> list[str]:
    """Raises twice, for a reason of no text."""
    if next(_batches) in {10, 20}:
        raise RuntimeError("a failure of nobody who was asked")
    return trivial(texts)


label: Label
match os.environ.get("PEER_MODEL", "trivial"):
    case "trivial":
        label = trivial
    case "failing":
        label = failing
    case "null":
        label = null
    case "float32":
        label = by_transformers("float32", by_length=False)
    case "bfloat16-by-length" | "float32-by-length" as named:
        label = by_transformers(named.removesuffix("-by-length"), by_length=True)
    case other:
        raise ValueError(f"PEER_MODEL={other}")


def predict(texts: Sequence[str]) -> list[dict[str, Any]]:
    """One label a text."""
    return [{"label": one} for one in label(texts)] if texts else []
