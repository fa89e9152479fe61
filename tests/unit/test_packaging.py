"""The wheel holds everything and works outside the checkout; the lock files fit the project."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("app", "agents", "models")
RUNTIME, TORCH, DEV = (
    ROOT / name
    for name in ("requirements.lock", "requirements-torch.lock", "requirements-dev.lock")
)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the wheel, built from a copy of the checkout, was unpacked into."""
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    for package in PACKAGES:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / package, source / package, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"
    done = subprocess.run(
        [sys.executable, "-c", build, str(folder)], cwd=source, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    wheel.unlink()
    return folder


def test_wheel_holds_every_file_of_the_packages_and_nothing_else(installed: Path) -> None:
    expected = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    (metadata,) = installed.glob("bertstream-*.dist-info")
    found = {
        path.relative_to(installed).as_posix()
        for path in installed.rglob("*")
        if path.is_file() and metadata not in path.parents
    }
    assert found == expected
    assert (metadata / "licenses" / "LICENSE").is_file()
    assert "bertstream = app.cli:main" in (metadata / "entry_points.txt").read_text()


def test_wheel_works_outside_the_checkout(installed: Path, tmp_path: Path) -> None:
    script = f"""
import sys
sys.path.insert(0, {str(installed)!r})
import app.cli
assert app.__file__.startswith({str(installed)!r}), app.__file__
app.cli.main(["predict", "--json", "The striker scored twice in the last minutes of the final."])
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert '"label":"Sports"' in done.stdout.replace(" ", "")


def pins(*paths: Path) -> dict[str, list[Requirement]]:
    """Pinned requirements by name; a name may be pinned once for each range of Pythons."""
    found: dict[str, list[Requirement]] = {}
    for path in paths:
        for line in re.findall(r"^[a-z0-9].*", path.read_text(), re.MULTILINE):
            pin = Requirement(line.rstrip(" \\"))
            found.setdefault(pin.name, []).append(pin)
    return found


def direct_requirements(*extras: str) -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = list(project["dependencies"])
    for extra in extras:
        lines += project["optional-dependencies"][extra]
    return [Requirement(line) for line in lines if not line.startswith("bertstream[")]


@pytest.mark.parametrize(
    ("extras", "paths"),
    [
        (("broker", "procfile"), (RUNTIME, TORCH)),
        (("broker", "procfile", "dev"), (RUNTIME, TORCH, DEV)),
    ],
)
def test_locked_versions_are_those_that_the_project_asks_for(
    extras: tuple[str, ...], paths: tuple[Path, ...]
) -> None:
    locked = pins(*paths)
    for requirement in direct_requirements(*extras):
        assert requirement.name in locked, f"run `make lock`: {requirement} is not locked"
        for pin in locked[requirement.name]:
            (specifier,) = pin.specifier
            assert specifier.version in requirement.specifier, f"run `make lock`: {pin}"


def test_lock_files_hold_hashes_and_no_addresses() -> None:
    for path in (RUNTIME, TORCH, DEV):
        text = path.read_text()
        assert "://" not in text
        for block in re.split(r"\n(?=[a-z0-9])", text)[1:]:
            assert re.match(r"[a-z0-9-]+==\S+.*\\\n +--hash=sha256:", block), block


def test_only_the_torch_lock_needs_cuda() -> None:
    cuda = {name for name in pins(RUNTIME, DEV) if re.match("torch$|triton|nvidia-|cuda-", name)}
    assert not cuda


def test_lock_files_leave_nothing_out() -> None:
    """Setup resolves nothing, so whatever a package asks for on this machine must be locked."""
    locked, missing = pins(RUNTIME, TORCH, DEV), []
    waiting, seen = [("bertstream", frozenset({"dev"}))], set()
    while waiting:
        name, extras = package = waiting.pop()
        if package in seen:
            continue
        seen.add(package)
        for line in requires(name) or ():
            needed = Requirement(line)
            if needed.marker and not any(
                needed.marker.evaluate({"extra": extra}) for extra in extras | {""}
            ):
                continue
            needed_name = canonicalize_name(needed.name)
            if needed_name not in {"bertstream", *locked}:
                missing.append(f"{needed_name}, which {name} needs")
            else:
                waiting.append((needed_name, frozenset(needed.extras)))
    assert not missing, "run `make lock`"
