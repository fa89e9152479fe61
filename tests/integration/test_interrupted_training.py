"""Training that is stopped, or that the disk refuses: one line, and nothing half-written."""

from __future__ import annotations

import json
import os
import pty
import resource
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.checkpoints import save_checkpoint

WITHIN_S = 300.0
LARGEST_FILE = 20_000
"""Bytes that a process may write into one file, in the place of a disk that is full."""
ROWS = [
    {"text": f"{topic} {number}: a line of some words", "label": topic}
    for number in range(20)
    for topic in ("sport", "trade")
]
PRETRAIN = ("--vocabulary", "60", "--length", "16", "--batch-size", "4")


@pytest.fixture
def arguments(tmp_path: Path) -> dict[str, list[str]]:
    """Trainings that would go on for a while, by their command."""
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    encoder = str(save_checkpoint(tmp_path / "encoder"))
    return {
        "train": ["--data", "data.jsonl", "--output", "out", "--encoder", encoder],
        "pretrain": ["--data", "data.jsonl", "--output", "out", *PRETRAIN],
        "export": ["--model", encoder, "--output", "out"],
    }


def limit_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (LARGEST_FILE, LARGEST_FILE))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of files are Linux's")
@pytest.mark.parametrize("command", ["train", "export"])
def test_a_disk_that_refuses(tmp_path: Path, arguments: dict[str, list[str]], command: str) -> None:
    before = sorted(tmp_path.rglob("*"))
    more = ["--epochs", "1"] if command == "train" else []
    ran = subprocess.run(
        [sys.executable, "-P", "-m", "app.cli", command, *arguments[command], *more],
        cwd=tmp_path,
        preexec_fn=limit_files,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=False,
    )
    assert (ran.returncode, ran.stdout) == (1, "")
    [line] = ran.stderr.splitlines()
    assert "out cannot be written: " in line
    assert "File too large" in line
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("command", "endless", "begun", "said"),
    [
        ("train", ["--epochs", "100000"], b"fine-tuning", "stopped; nothing is left of out"),
        ("pretrain", ["--steps", "1000000"], b"loss", "the same command with --resume goes on"),
    ],
)
def test_stopped_by_hand(
    tmp_path: Path,
    arguments: dict[str, list[str]],
    command: str,
    endless: list[str],
    begun: bytes,
    said: str,
) -> None:
    terminal, end = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "app.cli", command, *arguments[command], *endless],
        cwd=tmp_path,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        stderr=end,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "200"},
    )
    os.close(end)
    with process:
        shown = read_until(terminal, begun)
        assert begun in shown
        process.send_signal(signal.SIGINT)
        shown += read_until(terminal, None)
        assert process.wait(WITHIN_S) == 1
    os.close(terminal)
    assert said in shown.decode().splitlines()[-1]
    if command == "train":
        assert sorted(path.name for path in tmp_path.iterdir()) == ["data.jsonl", "encoder"]


def read_until(terminal: int, awaited: bytes | None) -> bytes:
    """What a terminal shows until it shows this, or until there is nothing more to come."""
    shown = b""
    deadline = time.monotonic() + WITHIN_S
    while awaited is None or awaited not in shown:
        assert select.select([terminal], [], [], max(0, deadline - time.monotonic()))[0], shown
        try:
            shown += os.read(terminal, 4096)
        except OSError:  # the other end is closed
            break
    return shown
