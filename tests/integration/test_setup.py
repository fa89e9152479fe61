"""Setup on a copy of the checkout: what it makes, and what it says where it cannot go on."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import runpy
import shutil
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from uv import find_uv_bin

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


def wheel(folder: Path, name: str, version: str, scripts: dict[str, str] | None = None) -> str:
    """A wheel of one empty module, or of scripts; its line in a lock file."""
    folder.mkdir(parents=True, exist_ok=True)
    about = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": "",
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        **{f"{name}-{version}.data/scripts/{one}": text for one, text in (scripts or {}).items()},
    }
    files[f"{about}/RECORD"] = "".join(f"{path},,\n" for path in [*files, f"{about}/RECORD"])
    made = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(made, "w") as archive:
        for path, text in files.items():
            entry = zipfile.ZipInfo(path)
            entry.external_attr = (stat.S_IFREG | 0o755) << 16
            archive.writestr(entry, text)
    digest = hashlib.sha256(made.read_bytes()).hexdigest()
    return f"{name}=={version} \\\n    --hash=sha256:{digest}\n"


@pytest.fixture(params=["pip", "uv"])
def small_checkout(checkout: Path, request: pytest.FixtureRequest) -> Path:
    """A checkout that locks packages of a few bytes, with uv on the PATH or without.

    The folder `index` beside it stands for the package index, `cpu-index` for PyTorch's own.
    """
    if request.param == "uv":
        (checkout.parent / "bin" / "uv").symlink_to(find_uv_bin())
    else:
        pytest.importorskip("ensurepip")
    index = checkout.parent / "index"
    real_uv = f'#!/bin/sh\nexec "{find_uv_bin()}" "$@"\n'
    locks = {
        "": wheel(index / "small", "small", "1.0"),
        "-torch": wheel(index / "torch", "torch", "9.9"),
        "-dev": wheel(index / "uv", "uv", "0.7.0", {"uv": real_uv}),
    }
    for part, lines in locks.items():
        (checkout / f"requirements{part}.lock").write_text(lines)
    for folder in index.iterdir():
        [made] = folder.iterdir()
        (folder / "index.html").write_text(f'<a href="{made.name}">{made.name}</a>')
    wheel(checkout.parent / "cpu-index", "torch", "9.9+cpu")
    wheel(checkout, "bertstream", "0.1.0")
    (checkout / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    )
    (checkout / "backend.py").write_text(
        "import shutil\n\n"
        "def build_editable(folder, settings=None, metadata=None):\n"
        "    return shutil.copy('bertstream-0.1.0-py3-none-any.whl', folder).rpartition('/')[2]\n"
    )
    return checkout


def set_up_small(
    checkout: Path, *arguments: str, cpu_wheel: bool = False, **environ: str
) -> subprocess.CompletedProcess[str]:
    """Set up without a network: from the index, and from PyTorch's own if it can be reached."""
    index = (checkout.parent / "index").as_uri()
    offline = {"PIP_INDEX_URL": index, "UV_DEFAULT_INDEX": index, "UV_OFFLINE": "1"}
    if cpu_wheel:
        offline["UV_FIND_LINKS"] = str(checkout.parent / "cpu-index")
    return set_up(checkout, *arguments, PYTHON=sys.executable, **offline, **environ)


with_uv = pytest.mark.parametrize("small_checkout", ["uv"], indirect=True)
"""For what does not depend on the installer; uv takes a tenth of pip's time."""


def installed(checkout: Path) -> set[str]:
    """Names and versions of what `.venv` holds, as its own Python finds them."""
    report = (
        "from importlib.metadata import distributions as all\n"
        "for one in all(): print(one.name + '==' + one.version)"
    )
    command = [checkout / ".venv" / "bin" / "python", "-c", report]
    return set(subprocess.run(command, capture_output=True, text=True).stdout.split())


def test_an_environment_is_made_once_by_uv_where_it_is_there(small_checkout: Path) -> None:
    installer = "uv" if (small_checkout.parent / "bin" / "uv").exists() else "pip"
    done = set_up_small(small_checkout, TORCH_BACKEND="cuda")
    assert (done.returncode, done.stderr) == (0, "")
    first, *_, last = done.stdout.splitlines()
    version = platform.python_version()
    assert first == f"Setting up .venv with Python {version} and {installer}, once."
    assert last.startswith("Set up in ")
    assert installed(small_checkout) >= {"small==1.0", "torch==9.9", "bertstream==0.1.0"}
    assert "uv==0.7.0" not in installed(small_checkout)

    log = (small_checkout / ".venv" / "setup.log").read_bytes()
    again = set_up_small(small_checkout, TORCH_BACKEND="cuda")
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")
    assert (small_checkout / ".venv" / "setup.log").read_bytes() == log

    tools = set_up_small(small_checkout, "--dev", TORCH_BACKEND="cuda")
    assert tools.returncode == 0
    assert "uv==0.7.0" in installed(small_checkout)


@with_uv
def test_what_is_not_the_locked_package_is_refused(small_checkout: Path) -> None:
    wheel(small_checkout.parent / "index" / "small", "small", "1.0", {"surprise": "#!/bin/sh\n"})
    done = set_up_small(small_checkout, TORCH_BACKEND="cuda")
    assert done.returncode == 1
    assert "is not the one in the lock file" in done.stderr
    assert not {"small==1.0", "torch==9.9"} & installed(small_checkout)


def test_torch_is_the_small_wheel_where_no_gpu_is_and_it_can_be_had(small_checkout: Path) -> None:
    done = set_up_small(small_checkout, cpu_wheel=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "CUDA" not in done.stdout
    assert "torch==9.9+cpu" in installed(small_checkout)

    # The other one comes in its place where it is asked for.
    done = set_up_small(small_checkout, TORCH_BACKEND="cuda")
    assert done.returncode == 0
    assert {one for one in installed(small_checkout) if "torch" in one} == {"torch==9.9"}


@with_uv
def test_torch_is_the_default_wheel_where_the_small_one_cannot_be_had(
    small_checkout: Path,
) -> None:
    done = set_up_small(small_checkout)
    assert (done.returncode, done.stderr) == (0, "")
    assert "torch's small CPU wheel cannot be reached from here" in done.stdout
    assert "2.7 GB to download" in done.stdout
    assert "torch==9.9" in installed(small_checkout)

    done = set_up_small(small_checkout, TORCH_BACKEND="cpu")
    assert done.returncode == 1
    assert done.stderr.startswith("setup: torch's CPU wheel cannot be reached from here")
    assert "TORCH_BACKEND=cuda" in done.stderr


@with_uv
def test_torch_is_the_wheel_with_cuda_where_a_driver_is(small_checkout: Path) -> None:
    script(small_checkout.parent / "bin" / "nvidia-smi", "exit 0")
    done = set_up_small(small_checkout)
    assert (done.returncode, done.stderr) == (0, "")
    assert "torch with CUDA: 2.7 GB to download, 4.6 GB on disk" in done.stdout
    assert "torch==9.9" in installed(small_checkout)

    # Who asks for the small one gets it.
    done = set_up_small(small_checkout, cpu_wheel=True, TORCH_BACKEND="cpu")
    assert done.returncode == 0
    assert {one for one in installed(small_checkout) if "torch" in one} == {"torch==9.9+cpu"}
