"""What the README has one type in a checkout: `make run`, and `honcho start` with the Procfile."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from app.settings import Settings, load_settings
from tests.workers import environment, eventually, left_behind

ROOT = Path(__file__).resolve().parents[2]
RUN_WITHIN_S = 150.0
READY_WITHIN_S = 90.0
STOP_WITHIN_S = 30.0

pytestmark = pytest.mark.usefixtures("kafka_jars")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings of somebody who set nothing but the folder and a port for the page."""
    return load_settings(_env_file=None, data_dir=tmp_path, web_port=0)


def typed(settings: Settings) -> dict[str, str]:
    """The environment of a shell with this Python's environment activated, outside of any make."""
    ours = {"PYTHON", "TORCH_BACKEND", "ONCE", "DOCS", "ARGS"}
    inherited = {
        name: value
        for name, value in environment(settings).items()
        if name not in ours and not name.startswith(("MAKE", "MFLAGS", "HONCHO"))
    }
    return inherited | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def test_make_run_takes_a_file_with_a_space_in_its_name(settings: Settings, tmp_path: Path) -> None:
    if shutil.which("make") is None:
        pytest.skip("no make here")
    check = [ROOT / ".venv/bin/python", ROOT / "deploy/environment.py", "--check"]
    if not check[0].exists() or subprocess.run(check, env=typed(settings)).returncode:
        pytest.skip("make would set up .venv first")
    documents = tmp_path / "my $few documents.csv"
    documents.write_text("text,label\nThe striker scored twice in the final.,Sports\n")
    ran = subprocess.run(
        ["make", "run", "ONCE=1", f"DOCS={str(documents).replace('$', '$$')}"],
        cwd=ROOT,
        env=typed(settings),
        capture_output=True,
        text=True,
        timeout=RUN_WITHIN_S,
    )
    assert (ran.returncode, ran.stderr) == (0, ""), ran.stdout
    assert "1 of 1 as expected" in ran.stdout
    assert left_behind(tmp_path) == []


def pages(settings: Settings) -> list[str]:
    """Addresses of the pages of the workers that have started."""
    found = []
    for file in (settings.data_dir / "workers").glob("*.json"):
        try:
            found.append(json.loads(file.read_text())["web"])
        except (OSError, ValueError):  # it is being written, or removed
            continue
    return found


def get(url: str) -> Any:
    """JSON of a page; None where it does not answer as it should."""
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return json.load(response)
    except OSError:
        return None


@pytest.mark.parametrize(
    ("options", "workers", "signum"),
    [([], 1, signal.SIGTERM), (["-c", "worker=2"], 2, signal.SIGINT)],
    ids=["one", "two"],
)
def test_honcho_starts_a_broker_and_workers(
    settings: Settings, tmp_path: Path, options: list[str], workers: int, signum: signal.Signals
) -> None:
    log_file = tmp_path / "honcho.log"
    with log_file.open("wb") as log:
        honcho = subprocess.Popen(
            [sys.executable, "-m", "honcho", "start", *options],
            cwd=ROOT,
            env=typed(settings),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def ready() -> bool:
        assert honcho.poll() is None, "honcho ended"
        found = pages(settings)
        return len(found) == workers and all(get(f"{page}/readyz") for page in found)

    try:
        eventually(ready, READY_WITHIN_S, f"{workers} ready")
        first = pages(settings)[0]
        eventually(
            lambda: len(get(f"{first}/api/status")["workers"]) == workers,
            READY_WITHIN_S,
            "the page shows every worker",
        )
        os.killpg(honcho.pid, signum)  # as a terminal does
        assert honcho.wait(STOP_WITHIN_S) == 128 + signum
        eventually(lambda: not left_behind(tmp_path), STOP_WITHIN_S, "nothing is left")
        log_text = log_file.read_text()
        assert "SIGKILL" not in log_text
        assert "Traceback" not in log_text
        assert not pages(settings)
    except BaseException:
        print(log_file.read_text()[-8000:])
        raise
    finally:
        if honcho.poll() is None:
            os.killpg(honcho.pid, signal.SIGTERM)
            honcho.wait(STOP_WITHIN_S)
