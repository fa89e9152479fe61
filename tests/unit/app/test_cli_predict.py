"""`bertstream predict` and `bertstream models`, with the model that comes with bertstream."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from app.cli import main
from app.settings import PREFIX, Settings

Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings at their defaults, and a broker that is not there."""
    monkeypatch.chdir(tmp_path)
    for name in Settings.model_fields:
        monkeypatch.delenv(f"{PREFIX}{name.upper()}", raising=False)
    monkeypatch.setenv(f"{PREFIX}BROKER_URL", "kafka://127.0.0.1:1")


def run(capsys: Captured, *arguments: str) -> str:
    """What the command prints; it must succeed and say nothing on stderr."""
    with pytest.raises(SystemExit) as end:
        main(arguments)
    captured = capsys.readouterr()
    assert (end.value.code, captured.err) == (0, "")
    return captured.out


def run_json(capsys: Captured, *arguments: str) -> list[Any]:
    return [json.loads(line) for line in run(capsys, *arguments, "--json").splitlines()]


def test_texts_and_files(capsys: Captured, tmp_path: Path) -> None:
    (tmp_path / "some.csv").write_text("text,id\nThe home side won the cup.,goal\n ,blank\n")
    first, goal, blank = run_json(capsys, "predict", "Shares fell.", "--file", "some.csv")
    assert (first["status"], first["model"], goal["id"]) == ("ok", "agnews", "goal")
    assert (goal["label"], goal["scores"]["Sports"]) == ("Sports", goal["score"])
    scores = list(goal["scores"].values())
    assert scores == sorted(scores, reverse=True)
    assert (blank["id"], blank["status"], blank["error"]["code"]) == (
        "blank",
        "error",
        "empty_text",
    )


def test_standard_input(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.write(writing, b'{"text": "The home side won the cup."}\n\n')
    os.close(writing)
    with os.fdopen(reading) as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        [predicted] = run_json(capsys, "predict", "--top-k", "1")
    assert list(predicted["scores"]) == ["Sports"]


def test_for_people(capsys: Captured, tmp_path: Path) -> None:
    (tmp_path / "some.csv").write_text("text,label\nThe home side won the cup.,World\n")
    [line] = run(capsys, "predict", "--file", "some.csv").splitlines()
    assert line.startswith("≠ Sports ")
    assert line.endswith("(expected World) The home side won the cup.")


def test_models(capsys: Captured) -> None:
    [[model]] = run_json(capsys, "models")
    assert (model["name"], model["default"], len(model["labels"])) == ("agnews", True, 4)
    [predicted] = run_json(capsys, "predict", "Shares fell.")
    assert predicted["model_version"] == model["version"]
    assert model["version"] in run(capsys, "models")


def test_another_model(capsys: Captured) -> None:
    with pytest.raises(SystemExit) as end:
        main(["predict", "--model", "/nowhere", "text"])
    assert end.value.code == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("bertstream: model default: /nowhere")
