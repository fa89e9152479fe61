"""`bertstream export`, as a user sees it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from app.settings import PREFIX
from tests.checkpoints import save_checkpoint

Run = Callable[..., tuple[int, str, str]]

pytestmark = pytest.mark.usefixtures("elsewhere")


def test_the_built_in_model_is_exported_by_default(bertstream: Run) -> None:
    code, out, err = bertstream("export", "--output", "exports/topics", "--json")
    assert (code, err) == (0, "")
    record = json.loads(out)
    folder = Path("exports/topics")
    assert json.loads((folder / "export.json").read_text()) == record
    assert sorted(path.name for path in folder.iterdir()) == [
        "export.json",
        "model.onnx",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert [path.name for path in folder.parent.iterdir()] == ["topics"]
    assert (record["source"], record["window"], record["opset"]) == ("builtin", 256, 20)
    assert record["labels"] == ["Business", "Sci/Tech", "Sports", "World"]
    assert record["check"]["longest"] == 256
    assert record["check"]["difference"] < 1e-5


def test_the_settings_and_options_count(bertstream: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint(Path("encoder"), "distilbert", max_length=16, num_hidden_layers=1)
    monkeypatch.setenv(f"{PREFIX}SEGMENT_OVERLAP", "4")
    monkeypatch.setenv(f"{PREFIX}MODEL", "first=encoder,second=builtin")
    code, out, err = bertstream("export", "--output", "exported", "--opset", "18")
    assert (code, err) == (0, "")
    [line] = out.splitlines()
    assert line.startswith("exported: embedding, ")
    assert "opset 18; 27 inputs of up to 16 tokens differ from torch by " in line
    record = json.loads(Path("exported/export.json").read_text())
    assert (record["source"], record["long_documents"]["overlap"]) == ("encoder", 4)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--model", "./nowhere"], 1, "no such folder"),
        (["--model", "convbert"], 1, "convbert: convbert models are not exported: padding"),
        (["--output", "convbert"], 1, "convbert exists; choose another folder"),
        (["--opset", "17"], 2, "Invalid value for '--opset'"),
        (["--model", ""], 2, "BERTSTREAM_MODEL="),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    bertstream: Run, arguments: list[str], code: int, said: str
) -> None:
    save_checkpoint(Path("convbert"), "convbert", num_labels=2)
    before = sorted(Path().iterdir())
    exit_code, out, err = bertstream("export", "--output", "exported", *arguments)
    assert (exit_code, out) == (code, "")
    [line] = err.splitlines()
    assert said in line
    assert sorted(Path().iterdir()) == before


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_named(package: str) -> None:
    program = (
        f"import sys; sys.modules[{package!r}] = None\n"
        "from app.cli import main; main(['export', '--output', 'exported'])"
    )
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(root)!r})\n{program}"],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"bertstream: {package} is not installed: pip install 'bertstream[onnx]'\n"
    )
