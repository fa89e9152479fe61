"""A worker whose device has no memory for a certain text: `python -m` this, then as `faust`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch
from faust.cli.faust import cli
from torch import Tensor

from models.inference.engine import Engine
from models.inference.tasks import Document, Segment

TEXT = "There is no room for this sentence."


def run_out_of_memory() -> None:
    """Have every device batch that holds the text fail for want of memory."""
    forward = Engine.forward

    def exhausted(self: Engine, segments: Sequence[Segment], *arguments: Any) -> Tensor:
        [encoded] = self.encode([Document(TEXT)])
        if encoded.segments[0] in segments:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        return forward(self, segments, *arguments)

    Engine.forward = exhausted  # type: ignore[method-assign]


if __name__ == "__main__":
    run_out_of_memory()
    cli(sys.argv[1:])
