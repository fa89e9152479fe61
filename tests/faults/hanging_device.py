"""A worker whose device hangs while a file is there: `python -m` this, then as `faust`."""

from __future__ import annotations

import faulthandler
import sys
import threading
from pathlib import Path
from typing import Any

from faust.cli.faust import cli
from torch import Tensor

from app.settings import load_settings
from models.inference.engine import Engine

FILE = "hang"
"""Of the worker's `DATA_DIR`."""


def hang_while_there(file: Path) -> None:
    """Have every device batch that begins while the file is there never end."""
    forward = Engine.forward

    def hanging(self: Engine, *arguments: Any) -> Tensor:
        if file.exists():
            threading.Event().wait()
        return forward(self, *arguments)

    Engine.forward = hanging  # type: ignore[method-assign]


if __name__ == "__main__":
    # A crash of the interpreter while threads hang says in the log where each of them was.
    faulthandler.enable()
    hang_while_there(load_settings().data_dir / FILE)
    cli(sys.argv[1:])
