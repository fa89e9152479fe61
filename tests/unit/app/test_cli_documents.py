"""Where a command's documents come from."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from app.cli.documents import SAMPLES, STDIN, read_files, stream
from app.errors import BertstreamError

Pipe = Callable[[bytes], None]


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Standard input is a pipe; this is the end to write to, which the test closes."""
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        yield writing


def test_files_in_their_order(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n\ntwo\n")
    (tmp_path / "b.jsonl").write_text('{"text": "three", "label": "World", "id": 3, "x": 1}\n')
    assert list(read_files([tmp_path / "a.txt", tmp_path / "b.jsonl"])) == [
        {"text": "one"},
        {"text": "two"},
        {"text": "three", "label": "World", "id": "3"},
    ]


def test_a_file_without_documents(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n \n")
    with pytest.raises(BertstreamError, match=r"a\.txt: no documents"):
        list(read_files([tmp_path / "a.txt"]))


@pytest.mark.parametrize(
    ("written", "documents"),
    [
        (b"one\ntwo", [{"text": "one"}, {"text": "two"}]),
        (b'\xef\xbb\xbf{"text": "one"}\n{"text": "two"}\n', [{"text": "one"}, {"text": "two"}]),
        (b"caf\xc3\xa9 \xf0\x9f\x8f\x86\r\n", [{"text": "café 🏆"}]),
        (b"x" * 200_000 + b"\n", [{"text": "x" * 200_000}]),
    ],
)
def test_standard_input(pipe: int, written: bytes, documents: list[dict[str, Any]]) -> None:
    def write() -> None:
        with os.fdopen(pipe, "wb") as writer:
            writer.write(written)

    writing = threading.Thread(target=write)
    writing.start()
    assert list(read_files([STDIN])) == documents
    writing.join()


def test_empty_standard_input(pipe: int) -> None:
    os.close(pipe)
    with pytest.raises(BertstreamError, match="standard input: no documents"):
        list(read_files([STDIN]))


def test_what_is_wrong_with_standard_input_is_said(pipe: int) -> None:
    os.write(pipe, b'{"text": "one"}\n{"no": 1}\n')
    os.close(pipe)
    with pytest.raises(BertstreamError, match="standard input, line 2: no field `text`"):
        list(read_files([STDIN]))


def test_the_event_loop_runs_while_standard_input_is_silent(pipe: int) -> None:
    async def main() -> list[str]:
        documents = stream([STDIN])
        os.write(pipe, b"one\n")
        first = await asyncio.wait_for(anext(documents), 10)
        waiting = asyncio.ensure_future(anext(documents))
        await asyncio.sleep(0)
        assert not waiting.done()
        os.write(pipe, b"two\n")
        os.close(pipe)
        second = await asyncio.wait_for(waiting, 10)
        assert [rest async for rest in documents] == []
        return [first["text"], second["text"]]

    assert asyncio.run(main()) == ["one", "two"]


def test_an_error_of_standard_input_reaches_the_event_loop(pipe: int) -> None:
    os.close(pipe)

    async def main() -> None:
        async for _ in stream([STDIN]):
            pass

    with pytest.raises(BertstreamError, match="no documents"):
        asyncio.run(main())


def test_the_samples_are_there() -> None:
    samples = list(read_files([SAMPLES]))
    assert len(samples) == 60
    assert all({"text", "label", "id"} <= sample.keys() for sample in samples)
