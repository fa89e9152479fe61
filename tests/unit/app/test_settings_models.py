"""How `MODEL` names checkpoints."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import models
from app.cli import main
from app.errors import SettingsError
from app.registry import load_registry
from app.settings import load_settings, parse_models
from models.inference.cpu_layers import can_fuse


@pytest.fixture(autouse=True)
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working directory with the folders of some runs."""
    for folder in ("runs/lr=3e-5", "runs/lr=3e-5,bs=32", "runs/plain", "builtin"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("spec", "found"),
    [
        ("builtin", {"agnews": "builtin"}),
        ("org/name@v1", {"default": "org/name@v1"}),
        ("a=org/name, b = runs/plain", {"a": "org/name", "b": "runs/plain"}),
        ("builtin,b=runs/plain", {"agnews": "builtin", "b": "runs/plain"}),
        ("runs/lr=3e-5", {"default": "runs/lr=3e-5"}),
        ("runs/lr=3e-5,bs=32", {"default": "runs/lr=3e-5,bs=32"}),
        ("a=runs/lr=3e-5", {"a": "runs/lr=3e-5"}),
        ("a=runs/lr=3e-5,bs=32", {"a": "runs/lr=3e-5,bs=32"}),
        ("a=runs/lr=3e-5,b=runs/plain", {"a": "runs/lr=3e-5", "b": "runs/plain"}),
        ("a" * 5000, {"default": "a" * 5000}),
    ],
)
def test_checkpoints_by_name(spec: str, found: dict[str, str]) -> None:
    assert parse_models(spec) == found
    assert list(load_settings(_env_file=None, model=spec).models) == list(found)


@pytest.mark.parametrize("spec", ["a=", "=runs/plain", "a=x,", "a=x,a=y", "x,y"])
def test_what_names_no_checkpoint(spec: str) -> None:
    with pytest.raises(SettingsError, match="BERTSTREAM_MODEL="):
        load_settings(_env_file=None, model=spec)


def test_commands_take_a_folder_with_any_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = "runs/lr=3e-5,bs=32"
    shutil.copytree(Path(models.__file__).parent / "builtin" / "agnews", folder, dirs_exist_ok=True)
    (tmp_path / "data.jsonl").write_text('{"text": "The striker scored.", "label": "Sports"}\n')

    def run(*arguments: str) -> Any:
        with pytest.raises(SystemExit) as end:
            main([*arguments, "--json"])
        out, err = capsys.readouterr()
        assert end.value.code == 0, err
        return json.loads(out)

    assert run("predict", "--model", folder, "The striker scored.")["label"] == "Sports"
    assert run("evaluate", "--model", folder, "--data", "data.jsonl")["accuracy"] == 1.0
    monkeypatch.setenv("BERTSTREAM_MODEL", folder)
    assert run("evaluate", "--data", "data.jsonl")["accuracy"] == 1.0
    [served] = run("models")
    assert (served["name"], Path(served["path"])) == ("default", Path(folder))


@pytest.mark.parametrize("engine", ["auto", "plain"])
def test_the_engine_is_the_one_of_the_settings(
    engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BERTSTREAM_ENGINE", engine)
    settings = load_settings(_env_file=None, device="cpu", dtype="bfloat16")
    [model] = load_registry(settings, lambda _: None).describe()
    assert (
        model["engine"]
        == ({"auto": "fused" if can_fuse() else "padding-free", "plain": "plain"}[engine])
    )
