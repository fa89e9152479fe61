"""A worker whose device takes a second for each batch: `python -m` this, then as `faust`."""

from __future__ import annotations

import sys
import time
from typing import Any

from faust.cli.faust import cli
from torch import Tensor

from models.inference.engine import Engine

BATCH_S = 1.0


def slow_down() -> None:
    """Have every device batch take longer."""
    forward = Engine.forward

    def slow(self: Engine, *arguments: Any) -> Tensor:
        time.sleep(BATCH_S)
        return forward(self, *arguments)

    Engine.forward = slow  # type: ignore[method-assign,assignment]


if __name__ == "__main__":
    slow_down()
    cli(sys.argv[1:])
