"""The command line as a whole: what it lists, how it fails, what it imports."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from app.cli import COMMANDS, main
from app.settings import PREFIX, Settings

Captured = pytest.CaptureFixture[str]

pytestmark = pytest.mark.usefixtures("elsewhere")


def run(*arguments: str) -> int:
    """Run the command line in this process; the exit code."""
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert isinstance(end.value.code, int)
    return end.value.code


def test_help_lists_every_command_and_loads_nothing_heavy() -> None:
    program = (
        "import sys\n"
        "HEAVY = {'torch', 'faust', 'aiokafka', 'pydantic'}\n"
        "from app.cli import main\n"
        "try: main(['--help'])\n"
        "finally: print('loaded', *(HEAVY & set(sys.modules)))\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    *help_, loaded = ran.stdout.splitlines()
    assert loaded == "loaded"
    text = "\n".join(help_)
    assert all(f" {command} " in text for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: Captured) -> None:
    assert run(command, "--help") == 0
    assert f"bertstream {command}" in capsys.readouterr().out


def test_no_command_is_a_call_for_help(capsys: Captured) -> None:
    assert run() == 0
    assert "COMMAND" in capsys.readouterr().out


def test_version(capsys: Captured) -> None:
    assert run("--version") == 0
    assert capsys.readouterr().out.startswith("bertstream ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sned"], "No such command 'sned'. Did you mean 'send'?"),
        (["send", "--nonsense"], "No such option: --nonsense"),
        (["send"], "give a FILE, or - for standard input, or --text TEXT"),
        (["send", "a.txt", "--no-wait", "--output", "b.jsonl"], "--output needs the responses"),
        (["watch", "--count", "0"], "--count"),
        (["worker", "--web-port", "70000"], "--web-port"),
    ],
)
def test_wrong_usage(arguments: list[str], message: str, capsys: Captured) -> None:
    assert run(*arguments) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("bertstream: ")
    assert message in line
    assert "--help" in line


@pytest.mark.parametrize("command", ["settings", "worker", "topics", "models", "watch", "up"])
def test_wrong_settings(command: str, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{PREFIX}PARTITIONS", "0")
    assert run(command) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"bertstream: {PREFIX}PARTITIONS=0: ")


@pytest.mark.parametrize("arguments", [["up", "--docs", "no.txt"], ["predict", "--file", "no.txt"]])
def test_a_missing_file_is_said_before_anything_is_started(
    arguments: list[str], capsys: Captured, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(f"{PREFIX}MODEL", str(tmp_path / "nowhere"))
    assert run(*arguments) == 1
    assert capsys.readouterr().err == "bertstream: no.txt: No such file or directory\n"
    assert not (tmp_path / ".bertstream").exists()


def test_settings_as_json(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{PREFIX}BATCH_SIZE", "32")
    monkeypatch.setenv(f"{PREFIX}WEB_TOKEN", "hush")
    assert run("settings", "--json") == 0
    out = capsys.readouterr().out
    assert "hush" not in out
    rows = {row["variable"]: row for row in json.loads(out)}
    assert rows.keys() == {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
    assert all(row["meaning"] and row["type"] for row in rows.values())
    size = rows[f"{PREFIX}BATCH_SIZE"]
    assert (size["default"], size["current"], size["set"]) == (256, 32, True)
    assert rows[f"{PREFIX}WEB_TOKEN"]["type"] == "secret"
    assert rows[f"{PREFIX}DTYPE"]["type"] == "auto | float32 | bfloat16 | float16"


def test_settings_as_a_table(capsys: Captured) -> None:
    assert run("settings") == 0
    out = capsys.readouterr().out
    assert all(f"{PREFIX}{name.upper()}" in out for name in Settings.model_fields)
