"""A worker whose model does nothing: `python -m` this, then as `faust`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch
from faust.cli.faust import cli
from torch import Tensor

from models.inference.engine import Engine
from models.inference.tasks import Document, EncodedDocument, Prediction, Segment

SEGMENT = Segment((0,), None, 1)


def do_nothing() -> None:
    """Have every document be one token, and every prediction the same."""

    def encode(self: Engine, documents: Sequence[Document]) -> list[EncodedDocument]:
        return [EncodedDocument(document, (SEGMENT,), 1) for document in documents]

    def forward(
        self: Engine, segments: Sequence[Segment], device: torch.device | None = None
    ) -> Tensor:
        return torch.zeros(len(segments), 4)

    def decode(
        self: Engine, encoded: EncodedDocument, rows: Tensor, inference_ms: float
    ) -> Prediction:
        scores = {"World": 0.25, "Sports": 0.25, "Business": 0.25, "Sci/Tech": 0.25}
        return Prediction(
            *(self.name, self.version, "text-classification", "World", 0.25, scores, None, None),
            segments=1,
            tokens=1,
            inference_ms=inference_ms,
        )

    replaced: dict[str, Any] = {"encode": encode, "forward": forward, "decode": decode}
    for name, method in replaced.items():
        setattr(Engine, name, method)


if __name__ == "__main__":
    do_nothing()
    cli(sys.argv[1:])
