"""From text to a checkpoint folder, through the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModel, AutoTokenizer

from models.inference.registry import ModelRegistry
from models.inference.tasks import Document, Prediction
from models.training.run_folder import RunLog
from tests.checkpoints import CORPUS, save_checkpoint

Run = Callable[..., tuple[int, str, str]]
OPTIONS = (
    *("--steps", "4", "--batch-size", "4", "--length", "32", "--vocabulary", "300"),
    *("--checkpoint-every", "2", "--validate-every", "2", "--held-out", "0.2"),
)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """Documents of three sentences."""
    file = tmp_path / "text.txt"
    documents = [" ".join(CORPUS[(start + n) % 5] for n in range(3)) for start in range(40)]
    file.write_text("\n".join(documents) + "\n", encoding="utf-8")
    return file


def test_a_run_leaves_what_transformers_and_the_service_open(
    bertstream: Run, text: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    code, said, _ = bertstream("pretrain", "--data", text, text, "--output", output, *OPTIONS)
    assert code == 0, said
    assert "steps" in said
    record = json.loads((output / "training.json").read_text())
    assert [one["file"] for one in record["asked"]["data"]] == ["text.txt", "text.txt"]
    assert record["documents"] + record["held_out"] == 80
    assert record["validation"]["step"] == 4
    assert 0 < record["commonest"] < 1
    assert (output / "curves.png").stat().st_size > 1000
    assert "masked tokens foreseen" in (output / "README.md").read_text()
    rows = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if row["kind"] == "step"] == [1, 2, 3, 4]
    assert [row["step"] for row in rows if row["kind"] == "validation"] == [2, 4]

    tokenizer = AutoTokenizer.from_pretrained(output)
    hidden = AutoModel.from_pretrained(output)(**tokenizer(CORPUS[0], return_tensors="pt"))
    assert hidden.last_hidden_state.shape[-1] == 256
    engine = ModelRegistry.load({"m": str(output)}, device="cpu", dtype="float32").engine()
    [outcome] = engine.predict([Document(CORPUS[0])])
    assert isinstance(outcome, Prediction)
    assert outcome.embedding is not None


def test_a_run_that_was_stopped_goes_on(
    bertstream: Run, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "run"
    command = ("pretrain", "--data", text, "--output", output, *OPTIONS)
    add, stopped = RunLog.add, False

    def stop(log: RunLog, report: Any) -> None:
        nonlocal stopped
        add(log, report)
        if report.step == 3 and not stopped:
            stopped = True
            raise KeyboardInterrupt

    monkeypatch.setattr(RunLog, "add", stop)
    code, _, said = bertstream(*command)
    assert code == 1
    assert "--resume goes on from the last checkpoint" in said
    assert not (output / "training.json").exists()

    code, _, said = bertstream(*command)
    assert (code, said.count("\n")) == (1, 1)
    assert "holds a run; add --resume" in said

    code, _, said = bertstream(*command, "--resume", "--seed", "7")
    assert code == 1
    assert "holds a run with seed=0, not 7" in said

    code, said, _ = bertstream(*command, "--resume", "--json")
    assert code == 0
    assert json.loads(said)["validation"]["step"] == 4
    rows = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if row["kind"] == "step"] == [1, 2, 3, 4]


def test_a_longer_run_goes_on_from_a_shorter_one(
    bertstream: Run, text: Path, tmp_path: Path
) -> None:
    short, long = tmp_path / "short", tmp_path / "long"
    command = ("pretrain", "--data", text, *OPTIONS)
    assert bertstream(*command, "--output", short, "--positions", "48")[0] == 0
    assert bertstream(*command, "--output", long, "--from", short, "--length", "48")[0] == 0
    code, _, said = bertstream(
        *(*command, "--output", tmp_path / "longer", "--from", short, "--length", "49")
    )
    assert code == 1
    assert f"{short} takes 48 tokens, not 49" in said


def test_a_run_goes_on_from_another_model(bertstream: Run, text: Path, tmp_path: Path) -> None:
    start = save_checkpoint(tmp_path / "start", "bert", max_length=64)
    output = tmp_path / "run"
    command = ("pretrain", "--data", text, "--output", output, *OPTIONS, "--from", start)
    code, said, _ = bertstream(*command, "--json")
    assert code == 0
    config = AutoModel.from_pretrained(output).config
    assert config.hidden_size == 32
    assert json.loads(said)["vocabulary"] == len(AutoTokenizer.from_pretrained(start))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--length", "5", "--batch-size", "1", "--activation", "step"), "activation 'step'"),
        (("--accumulation", "9"), "a batch of 4 is less than its 9 passes"),
        (("--vocabulary", "10"), "has no room for the characters"),
        (("--tokenizer", "nowhere"), "nowhere holds no tokenizer"),
        (("--from", "nowhere"), "nowhere holds no tokenizer"),
        (("--resume",), "holds no run to go on with"),
    ],
)
def test_what_cannot_be_is_said_in_a_line(
    bertstream: Run, text: Path, tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    command = ("pretrain", "--data", text, "--output", tmp_path / "run", *OPTIONS)
    code, out, said = bertstream(*command, *options)
    assert (code, out) == (1, "")
    assert message in said
    assert said.count("\n") == 1, said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.txt", b"", "no words"),
        ("blank.txt", b"\n  \n", "no words"),
        ("latin.txt", "Größe".encode("latin-1"), "line 1: not UTF-8"),
        ("quotes.csv", b'text\n"never closed\n', "line 2"),
        ("data.bin", b"x", "cannot tell its format"),
        ("word.txt", b"a\n", "no two tokens"),
    ],
)
@pytest.mark.parametrize("command", ["tokenizer", "pretrain"])
def test_bad_text_is_said_in_a_line(
    bertstream: Run, tmp_path: Path, command: str, name: str, content: bytes, message: str
) -> None:
    if (command, name) == ("tokenizer", "word.txt"):
        return
    file = tmp_path / name
    file.write_bytes(content)
    code, out, said = bertstream(command, "--data", file, "--output", tmp_path / "run")
    assert (code, out) == (1, "")
    assert message in said
    assert said.count("\n") == 1, said
    assert not (tmp_path / "run").exists()


def test_a_folder_in_use_is_left_alone(bertstream: Run, text: Path, tmp_path: Path) -> None:
    for command in ("tokenizer", "pretrain"):
        code, _, said = bertstream(command, "--data", text, "--output", tmp_path)
        assert code == 1
        assert "exists; choose another folder" in said


@pytest.mark.parametrize("kind", ["wordpiece", "bpe"])
def test_a_tokenizer_of_ones_own(bertstream: Run, text: Path, tmp_path: Path, kind: str) -> None:
    output = tmp_path / "tokenizer"
    code, said, _ = bertstream(
        *("tokenizer", "--data", text, "--output", output, "--kind", kind, "--vocabulary", "400")
    )
    assert code == 0
    tokenizer = AutoTokenizer.from_pretrained(output)
    assert f"{len(tokenizer):,} entries" in said
    run = tmp_path / "run"
    code, _, said = bertstream(
        *("pretrain", "--data", text, "--output", run, "--tokenizer", output, *OPTIONS)
    )
    assert code == 0, said
    assert AutoTokenizer.from_pretrained(run).get_vocab() == tokenizer.get_vocab()
