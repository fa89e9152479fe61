"""transformers without its bars and remarks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import transformers
from safetensors import SafetensorError

from models.errors import one_line


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Let transformers say nothing but errors in the block, in the whole process."""
    logging = transformers.utils.logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def save_quietly(model: Any, folder: Path | str) -> None:
    """Write a transformers model into a folder.

    Raises:
        OSError: the disk refuses, which safetensors has an error of its own for.
    """
    try:
        with quiet_transformers():
            model.save_pretrained(folder)
    except SafetensorError as error:
        raise OSError(one_line(error)) from error
