"""Where the documents of a command come from: files, standard input, texts as given."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from app.errors import BertstreamError
from models.text.corpora import LabelledDocument, parse_documents, read_documents

STDIN = Path("-")
SAMPLES = Path(__file__).parents[1] / "data" / "samples.jsonl"
"""Short news-like documents that come with bertstream, with the labels that a reader expects."""
CHUNK_BYTES = 64 * 1024
STDIN_AHEAD = 256
"""Documents that are read from standard input before they are asked for."""


def read_files(paths: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """The documents of the files, `-` being standard input, as `text`, `label`, `id`, `text_pair`.

    Raises:
        CorpusError: while reading; a file cannot be read.
        BertstreamError: while reading; a file has no documents.
    """
    for path in paths:
        empty = True
        for document in _read(path):
            empty = False
            yield _fields(document)
        if empty:
            raise BertstreamError(f"{'standard input' if path == STDIN else path}: no documents")


async def stream(paths: Sequence[Path]) -> AsyncIterator[Mapping[str, Any]]:
    """`read_files` for an event loop, which does not stand still while standard input is silent."""
    if STDIN not in paths:
        for n, document in enumerate(read_files(paths), start=1):
            yield document
            if n % 64 == 0:
                await asyncio.sleep(0)
        return
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[dict[str, Any] | BaseException | None] = asyncio.Queue(STDIN_AHEAD)

    def put(item: dict[str, Any] | BaseException | None) -> None:
        asyncio.run_coroutine_threadsafe(queue.put(item), loop).result()

    def read() -> None:
        try:
            for document in read_files(paths):
                put(document)
            put(None)
        except Exception as error:
            put(error)

    # A daemon: nobody can interrupt it while it waits for a line that may never come.
    threading.Thread(target=read, name="stdin", daemon=True).start()
    while (item := await queue.get()) is not None:
        if isinstance(item, BaseException):
            raise item
        yield item


def _read(path: Path) -> Iterable[LabelledDocument]:
    if path != STDIN:
        return read_documents(path)
    lines = _stdin_lines()
    first = next(lines, b"")
    ending = ".jsonl" if first.lstrip(b"\xef\xbb\xbf \t").startswith(b"{") else ".txt"
    return parse_documents(chain([first], lines), ending, Path("standard input"))


def _stdin_lines() -> Iterator[bytes]:
    """Lines as they come; read below Python's buffer, whose lock a daemon thread must not hold."""
    rest = b""
    while chunk := os.read(sys.stdin.fileno(), CHUNK_BYTES):
        *lines, rest = (rest + chunk).split(b"\n")
        yield from (line + b"\n" for line in lines)
    if rest:
        yield rest


def _fields(document: LabelledDocument) -> dict[str, Any]:
    fields = {name: getattr(document, name) for name in ("text", "text_pair", "id", "label")}
    return {name: value for name, value in fields.items() if value is not None}
