"""Whether a model computes in a lower precision what it does in float32."""

from __future__ import annotations

import math

import torch

from models.inference.engine import Engine
from models.inference.tasks import Document, EncodedDocument

PARAGRAPH = (
    "The council voted on Tuesday to close the old bridge until the spring. Shares of the maker "
    "of turbines fell by a tenth after its warning on profits. A striker scored twice in the last "
    "minutes, and the visitors went home with nothing. Researchers trained a network to tell the "
    "songs of forty birds apart; it was right 19 times out of 20. "
)
TEXTS = tuple((PARAGRAPH * 2)[start : start + 7**power] for start in (0, 71) for power in (1, 2, 3))
"""Texts of a word, a sentence, and a paragraph."""
MOST_DIFFERENCE = 0.1
"""Of what a model gives for the texts, against what it gives in float32: length of the difference
over length of the whole. bfloat16 has a relative error of 0.004 in each number that it stores; ten
times as much is left of it where a model is sound."""
TINY = 1e-9


def difference(engine: Engine, exact: Engine) -> float:
    """Relative difference of what an engine computes from what the same model does in float32.

    Returns:
        Of the device that differs most; infinite where it computes nothing, or what is not finite.
    """
    encoded = exact.encode([Document(text) for text in TEXTS])
    segments = [one.segments[0] for one in encoded if isinstance(one, EncodedDocument)]
    if not segments:
        return 0.0
    expected = exact.forward(segments)
    length = max(float(torch.linalg.vector_norm(expected)), TINY)
    most = 0.0
    for device in engine.devices:
        try:
            off = float(torch.linalg.vector_norm(engine.forward(segments, device).cpu() - expected))
        except RuntimeError:
            return math.inf
        most = max(most, off / length if math.isfinite(off) else math.inf)
    return most
