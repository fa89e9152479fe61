"""Setup on a copy of the checkout: what it says where it cannot go on, and when it does nothing."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """As much of a checkout as setup looks at, with an empty folder `bin` beside it."""
    copy = tmp_path / "checkout"
    shutil.copytree(ROOT / "deploy", copy / "deploy")
    for path in (ROOT / "pyproject.toml", *ROOT.glob("requirements*.lock")):
        shutil.copy(path, copy)
    (tmp_path / "bin").mkdir()
    return copy


def set_up(checkout: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run setup with nothing on the PATH but what a shell script needs, and our own `bin`."""
    binaries = checkout.parent / "bin"
    for tool in ("sh", "dirname"):
        found = shutil.which(tool)
        assert found
        (binaries / tool).unlink(missing_ok=True)
        (binaries / tool).symlink_to(found)
    return subprocess.run(
        [checkout / "deploy" / "setup.sh", *arguments],
        env={"PATH": str(binaries), "HOME": str(checkout.parent), **environ},
        capture_output=True,
        text=True,
        timeout=120,
    )


def script(path: Path, *lines: str) -> None:
    path.write_text("\n".join(("#!/bin/sh", *lines)) + "\n")
    path.chmod(0o755)


def test_no_python_is_said(checkout: Path) -> None:
    done = set_up(checkout)
    assert done.returncode == 1
    assert done.stderr.startswith("setup: no Python 3.11, 3.12 or 3.13 found")


def test_a_python_that_does_not_run_is_passed_over(checkout: Path) -> None:
    script(
        checkout.parent / "bin" / "python3.13", "echo 'pyenv: python3.13: not found' >&2; exit 127"
    )
    done = set_up(checkout)
    assert done.returncode == 1
    assert done.stderr.startswith("setup: no Python")
    assert len(done.stderr.splitlines()) == 1


def test_a_python_without_venv_is_said_with_the_package_to_install(checkout: Path) -> None:
    script(
        checkout.parent / "bin" / "python3",
        'case "$*" in *ensurepip*) exit 1;; esac',
        f'exec "{sys.executable}" "$@"',
    )
    done = set_up(checkout)
    version = "{}.{}".format(*sys.version_info)
    assert done.returncode == 1
    assert "comes without its venv module" in done.stderr
    assert f"apt-get install python{version}-venv" in done.stderr


def test_the_wrong_python_is_refused_by_name(checkout: Path) -> None:
    done = set_up(checkout, PYTHON="/nowhere/python3")
    assert done.returncode == 1
    assert done.stderr.startswith("setup: PYTHON=/nowhere/python3 is no Python 3.11")


def test_an_unknown_backend_is_refused_before_anything_is_made(checkout: Path) -> None:
    done = set_up(checkout, PYTHON=sys.executable, TORCH_BACKEND="tpu")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "setup: TORCH_BACKEND=tpu: write auto, cpu or cuda\n"
    assert not (checkout / ".venv").exists()


def test_an_index_that_cannot_be_reached_is_said_with_the_end_of_the_log(checkout: Path) -> None:
    pytest.importorskip("ensurepip")
    done = set_up(
        checkout,
        PYTHON=sys.executable,
        PIP_INDEX_URL="http://127.0.0.1:9/",
        PIP_RETRIES="0",
        NO_PROXY="*",
    )
    assert done.returncode == 1
    first, *rest = done.stderr.splitlines()
    assert first.startswith("setup: the package index cannot be reached")
    assert any(line.startswith("  | ") for line in rest)
    assert "setup.log" in rest[-1]


def test_an_environment_that_is_up_to_date_is_left_alone(checkout: Path) -> None:
    def needs_work(*arguments: str, **environ: str) -> bool:
        command = [sys.executable, str(checkout / "deploy" / "environment.py"), "--check"]
        unset = dict.fromkeys(("PYTHON", "TORCH_BACKEND"), "")
        environment = os.environ | unset | environ
        return subprocess.run([*command, *arguments], env=environment).returncode == 1

    assert needs_work()
    lock_key = runpy.run_path(str(checkout / "deploy" / "environment.py"))["lock_key"]
    state = {"root": str(checkout), "finished": lock_key(), "torch": "cuda", "dev": False}
    (checkout / ".venv").mkdir()
    state_file = checkout / ".venv" / "setup.json"

    state_file.write_text(json.dumps(state))
    assert not needs_work()
    assert not needs_work(TORCH_BACKEND="cuda")
    assert needs_work(TORCH_BACKEND="cpu")
    assert needs_work("--dev")

    state_file.write_text(json.dumps(state | {"finished": ""}))
    assert needs_work(), "it was left unfinished"
    state_file.write_text(json.dumps(state | {"root": "/elsewhere"}))
    assert needs_work(), "the checkout was moved"
    state_file.write_text(json.dumps(state))
    with (checkout / "requirements.lock").open("a") as lock:
        lock.write("# changed\n")
    assert needs_work(), "another version is locked"
