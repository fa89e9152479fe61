"""Folders that are written as a whole, or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from models.errors import BertstreamError


def check_output(folder: Path) -> None:
    """Refuse a folder that is in use, before any work is done.

    Raises:
        BertstreamError: it holds something, or cannot be made.
    """
    try:
        if folder.is_dir() and not any(folder.iterdir()):
            return
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BertstreamError(f"{folder} cannot be made: {error.strerror}") from None
    if os.path.lexists(folder):
        raise BertstreamError(f"{folder} exists; choose another folder, or remove it")
    if not os.access(folder.parent, os.W_OK | os.X_OK):
        raise BertstreamError(f"{folder} cannot be made: {folder.parent} is not writable")


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Give a folder beside it to write into, which gets its name where nothing goes wrong.

    Raises:
        BertstreamError: the disk refuses, or the folder came to be in use meanwhile.
    """
    partial = folder.parent / f".{folder.name}.{os.getpid()}.partial"
    try:
        partial.mkdir()
        yield partial
        partial.rename(folder)
    except OSError as error:
        raise BertstreamError(f"{folder} cannot be written: {error.strerror or error}") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
