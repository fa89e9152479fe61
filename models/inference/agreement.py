"""Whether a model computes in a lower precision what it does in float32."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from models.errors import ModelLoadError
from models.inference.device import is_out_of_memory
from models.inference.engine import Engine
from models.inference.tasks import Document, EncodedDocument, Segment

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
over length of the whole. bfloat16 has a relative error of 0.004 in each number that it stores, and
the built-in classifier one of 0.008."""
TINY = 1e-9


@dataclass(frozen=True, slots=True)
class Reference:
    """What a model gives for the texts in float32."""

    segments: list[Segment]
    rows: Tensor
    """(n_segments, width)."""

    @classmethod
    def of(cls, exact: Engine) -> Reference | None:
        """Have the texts computed; None for a model that can take none of them."""
        encoded = exact.encode([Document(text) for text in TEXTS])
        segments = [one.segments[0] for one in encoded if isinstance(one, EncodedDocument)]
        return cls(segments, exact.forward(segments).cpu()) if segments else None

    def difference(self, engine: Engine) -> float:
        """Relative difference of what an engine of the same model gives.

        Returns:
            Of the device that differs most; infinite where it computes nothing, or what is not
            finite.

        Raises:
            ModelLoadError: the device has no memory for it.
        """
        length = max(float(torch.linalg.vector_norm(self.rows)), TINY)
        most = 0.0
        for device in engine.devices:
            try:
                rows = engine.forward(self.segments, device).cpu()
            except RuntimeError as error:
                if is_out_of_memory(error):
                    raise ModelLoadError(f"it does not fit the device: {error}") from error
                return math.inf
            off = float(torch.linalg.vector_norm(rows - self.rows))
            most = max(most, off / length if math.isfinite(off) else math.inf)
        return most
