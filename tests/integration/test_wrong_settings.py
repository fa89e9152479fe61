"""Wrong settings, met by the real commands: exit code 2 and one line that says what to change."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from app.settings import PREFIX

FAUST = [sys.executable, "-P", "-m", "faust", "-A", "app", "worker", "-l", "info"]
BERTSTREAM = [sys.executable, "-P", "-m", "app.cli"]
NOWHERE = "192.0.2.1"
"""An address for documentation, which no machine has."""


def run(command: list[str], folder: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run a command with these settings alone, in a folder without a `.env`."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    return subprocess.run(
        command,
        cwd=folder,
        env=inherited | {f"{PREFIX}{name}": value for name, value in settings.items()},
        capture_output=True,
        text=True,
        timeout=90,
    )


@pytest.mark.parametrize("command", [FAUST, [*BERTSTREAM, "worker"]], ids=["faust", "bertstream"])
def test_a_setting_that_is_malformed(command: list[str], tmp_path: Path) -> None:
    ran = run(command, tmp_path, PARTITIONS="0")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert re.fullmatch(r"bertstream: BERTSTREAM_PARTITIONS=0: [^\n]+\n", ran.stderr)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"WEB_HOST": NOWHERE}, rf"cannot listen on {NOWHERE} .*; set BERTSTREAM_WEB_HOST"),
        (
            {"SECURITY_PROTOCOL": "SSL", "SSL_CAFILE": "nowhere.pem", "WEB_PORT": "0"},
            r"BERTSTREAM_SSL_CAFILE=nowhere\.pem: there is no such file",
        ),
    ],
    ids=["host", "certificate"],
)
def test_a_setting_that_does_not_fit_this_machine(
    settings: dict[str, str], said: str, tmp_path: Path
) -> None:
    ran = run(FAUST, tmp_path, BROKER_URL="kafka://127.0.0.1:1", **settings)
    assert ran.returncode == 2
    [line] = [line for line in ran.stderr.splitlines() if "[CRITICAL]" in line]
    assert re.search(said, line)
    assert "Traceback" not in ran.stderr


@pytest.mark.usefixtures("kafka_jars")
def test_a_setting_that_only_the_worker_of_up_finds_wrong(tmp_path: Path) -> None:
    ran = run([*BERTSTREAM, "up", "--once"], tmp_path, WEB_HOST=NOWHERE)
    assert ran.returncode == 2
    [line] = ran.stderr.splitlines()
    assert line.startswith("bertstream: the worker ended: the status page cannot listen on ")
