"""Make `.venv`, the environment that bertstream runs in, and fill it from the lock files.

    environment.py [--dev]    set up; with --dev also what the tests and checks need
    environment.py --check    exit 0 if there is nothing to do

`TORCH_BACKEND` chooses torch's wheel: `auto` (the default), `cpu` or `cuda`; see docs/setup.md.
Needs nothing but the standard library. Exits with 1 and one clear line where it cannot go on.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STATE = VENV / "setup.json"
LOG = VENV / "setup.log"
LOCKS = [ROOT / f"requirements{part}.lock" for part in ("", "-torch", "-dev")]
RUNTIME, TORCH, DEV = LOCKS
GB = 1000**3

FREE_DISK_NEEDED = {"cpu": 3 * GB, "cuda": 9 * GB}
"""What an environment takes together with the downloads that the installer keeps."""
CUDA_SIZE = "2.7 GB to download, 4.6 GB on disk"
TRIAL_SECONDS = 30
"""Longest that we look for the CPU wheel before we do without it."""

say = partial(print, flush=True)

UNREACHABLE = (
    r"Failed to fetch|NewConnectionError|name resolution|dns error|ConnectTimeout|ProxyError"
    r"|Connection refused|timed out|Network is unreachable|from versions: none"
)
CAUSES = {
    r"No space left on device": "the disk is full: free some space and run `make setup` again",
    r"certificate verify failed|invalid peer certificate|UnknownIssuer": (
        "the certificate of the package index is not trusted here: name your proxy's in "
        "SSL_CERT_FILE (uv) or PIP_CERT (pip)"
    ),
    UNREACHABLE: (
        "the package index cannot be reached: check the network and HTTPS_PROXY, then run "
        "`make setup` again"
    ),
    r"DO NOT MATCH THE HASHES|[Hh]ash mismatch": (
        "a downloaded package is not the one in the lock file: look at the index that this "
        "machine uses"
    ),
}
"""What the installer's words mean to somebody who wants to go on."""


class SetupError(Exception):
    """The environment cannot be made; the message says why and what to do."""


def gigabytes(size: float) -> str:
    return f"{size / GB:.1f} GB"


def disk_usage(folder: Path) -> int:
    """Bytes that the files under `folder` take."""
    return sum(file.lstat().st_size for file in folder.rglob("*") if not file.is_dir())


def lock_key() -> str:
    """Changes whenever the environment has to be brought up to date."""
    digest = hashlib.sha256()
    for path in (ROOT / "pyproject.toml", Path(__file__), *LOCKS):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def read_state() -> dict[str, object]:
    """What the last setup left: empty where there was none."""
    try:
        return dict(json.loads(STATE.read_text()))
    except (OSError, ValueError, TypeError):
        return {}


def is_current(state: dict[str, object], backend: str, dev: bool) -> bool:
    return (
        state.get("finished") == lock_key()
        and state.get("root") == str(ROOT)
        and backend in ("auto", state.get("torch"))
        and (bool(state.get("dev")) or not dev)
        and (not os.environ.get("PYTHON") or state.get("python") == platform.python_version())
    )


def check_platform(backend: str) -> None:
    """Refuse the machines that torch has no wheel for, before anything is downloaded."""
    system, machine = platform.system(), platform.machine()
    if (system, machine) == ("Darwin", "arm64"):
        if int(platform.mac_ver()[0].split(".")[0]) < 14:
            raise SetupError("torch needs macOS 14 or later")
        if backend == "cuda":
            raise SetupError("macOS has no CUDA: leave TORCH_BACKEND out")
    elif system != "Linux" or machine not in ("x86_64", "aarch64"):
        raise SetupError(
            f"{system} on {machine} is not supported: "
            "use Linux (x86_64, aarch64) or macOS on Apple silicon"
        )
    elif platform.libc_ver()[0] != "glibc":
        raise SetupError(
            "torch has no wheel for a Linux without glibc, such as Alpine: use another"
        )


def has_nvidia_driver() -> bool:
    traces = (Path("/proc/driver/nvidia/version"), Path("/usr/lib/wsl/lib/nvidia-smi"))
    return shutil.which("nvidia-smi") is not None or any(path.exists() for path in traces)


def check_disk(backend: str) -> None:
    # What is there already need not be written again.
    needed = FREE_DISK_NEEDED[backend] - disk_usage(VENV)
    free = shutil.disk_usage(ROOT).free
    if free < needed:
        raise SetupError(
            f"{gigabytes(free)} free on the disk of {ROOT}, {gigabytes(needed)} needed"
            + (": free some, or try TORCH_BACKEND=cpu" if backend == "cuda" else "")
        )


def run(what: str, command: list[str], quiet: bool = False) -> None:
    """Run one step with its output in the log; on a terminal, show that time passes."""
    shown = sys.stdout.isatty() and not quiet
    started = time.monotonic()
    with LOG.open("a") as log:
        print("$", *command, file=log, flush=True)
        size_before = LOG.stat().st_size
        process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            while process.poll() is None:
                if shown:
                    print(f"\r  {what}: {time.monotonic() - started:.0f} s", end="", flush=True)
                try:
                    process.wait(timeout=1)
                except subprocess.TimeoutExpired:
                    continue
        except BaseException:
            process.terminate()
            process.wait()
            raise
    if shown:
        print("\r\033[K", end="")
    if process.returncode:
        output = LOG.read_bytes()[size_before:].decode(errors="replace").rstrip()
        cause = next((line for pattern, line in CAUSES.items() if re.search(pattern, output)), None)
        tail = "\n".join(f"  | {line[:150]}" for line in output.splitlines()[-10:])
        raise SetupError(f"{cause or f'this step failed: {what}'}\n{tail}\n  the whole log: {LOG}")
    if not quiet:
        say(f"  {what}: {time.monotonic() - started:.0f} s")


def find_uv() -> str | None:
    """The uv on the PATH, unless it is too old to know torch's wheels (before 0.7)."""
    uv = shutil.which("uv")
    if uv is None:
        return None
    report = subprocess.run([uv, "--version"], capture_output=True, text=True).stdout
    version = re.search(r"(\d+)\.(\d+)", report)
    return uv if version and (int(version[1]), int(version[2])) >= (0, 7) else None


class Environment:
    """`.venv`, and the installer that fills it: uv where it is on the PATH, else pip."""

    def __init__(self) -> None:
        self.uv = find_uv()

    def create(self) -> None:
        """Make `.venv`, or keep the one that is there and still good."""
        state = read_state()
        if self.version() is None or state.get("root", str(ROOT)) != str(ROOT):
            reason = "was moved or its Python is gone" if VENV.exists() else None
        elif "finished" in state and not state["finished"]:
            reason = "was left unfinished"
        elif os.environ.get("PYTHON") and self.version() != platform.python_version():
            reason = "has another Python"
        elif not self.uv and not self._runs("-m", "pip", "--version"):
            reason = "has no pip"
        else:
            self._begin()
            return
        if reason:
            say(f".venv {reason}: making it anew.")
            shutil.rmtree(VENV)
        VENV.mkdir()
        self._begin()
        # The Python beneath, should ours be that of an environment itself.
        command = [getattr(sys, "_base_executable", sys.executable), "-m", "venv", str(VENV)]
        run("a new .venv", [*command, "--without-pip"] if self.uv else command, quiet=True)

    def choose_torch(self, backend: str) -> str:
        """Which of torch's wheels to take, `cpu` or `cuda`; says so where it matters."""
        if platform.system() == "Darwin":
            return "cpu"
        if backend == "auto":
            installed = self._installed_torch()
            if installed and installed == self._locked_torch():
                return "cuda"
            if has_nvidia_driver():
                backend = "cuda"
        if backend == "cuda":
            say(f"  torch with CUDA: {CUDA_SIZE}; {self._free()} free")
            return "cuda"
        if self._installed_torch() == f"{self._locked_torch()}+cpu":
            return "cpu"
        if self._install_cpu_torch(trial=True):
            return "cpu"
        if backend == "cpu":
            raise SetupError(
                "torch's CPU wheel cannot be reached from here: open the way to PyTorch's own "
                f"package index, or take the default wheel ({CUDA_SIZE}): TORCH_BACKEND=cuda"
            )
        say(
            "  torch's small CPU wheel cannot be reached from here; the default one brings CUDA: "
            f"{CUDA_SIZE}; {self._free()} free"
        )
        return "cuda"

    def install(self, torch: str, dev: bool) -> None:
        """Bring every package to its locked version, and the checkout in as an editable one."""
        self._pip("packages", "--require-hashes", "-r", str(RUNTIME))
        default = platform.system() == "Darwin" or torch == "cuda"
        wanted = self._locked_torch() + ("" if default else "+cpu")
        installed = self._installed_torch()
        if installed and installed != wanted:
            self._uninstall_torch()
        if default:
            self._pip(f"torch {wanted}", "--require-hashes", "-r", str(TORCH))
        elif installed != wanted:
            self._install_cpu_torch(trial=False)
        if dev:
            self._pip("tools for tests and checks", "--require-hashes", "-r", str(DEV))
        self._pip("bertstream", "--no-build-isolation", "--editable", ".")

    def finish(self, torch: str, dev: bool) -> None:
        self._save(finished=lock_key(), torch=torch, dev=dev, python=self.version())

    def fail(self) -> None:
        """An installer that gave up left whole packages: the next setup goes on from there."""
        if VENV.exists():
            self._save()

    def _begin(self) -> None:
        # Whoever finds this state knows that a setup was killed, perhaps within a package.
        self._save(finished="")
        LOG.write_text("")

    def _save(self, **state: object) -> None:
        STATE.write_text(json.dumps({"root": str(ROOT), **state}))

    def version(self) -> str | None:
        """Version of `.venv`'s Python; None where it does not run or is not one of ours."""
        report = "import sys; print('%d.%d.%d' % sys.version_info[:3])"
        try:
            done = subprocess.run([PYTHON, "-c", report], capture_output=True, text=True)
        except OSError:
            return None
        version = done.stdout.strip()
        return version if re.match(r"3\.1[123]\.", version) else None

    def _runs(self, *arguments: str) -> bool:
        return subprocess.run([PYTHON, *arguments], capture_output=True).returncode == 0

    def _free(self) -> str:
        return gigabytes(shutil.disk_usage(ROOT).free)

    def _locked_torch(self) -> str:
        match = re.search(r"^torch==([\w.]+)", TORCH.read_text(), re.MULTILINE)
        assert match, f"{TORCH} pins no torch"
        return match[1]

    def _installed_torch(self) -> str | None:
        found = next(VENV.glob("lib/python*/site-packages/torch-*.dist-info"), None)
        return found.name.removeprefix("torch-").removesuffix(".dist-info") if found else None

    def _pip(self, what: str, *arguments: str) -> None:
        # The lock files are complete, so nothing is resolved: --no-deps.
        if self.uv:
            command = [self.uv, "pip", "install", "--python", str(PYTHON), "--no-deps"]
        else:
            command = [str(PYTHON), "-m", "pip", "install", "--no-deps", "--no-compile"]
            command += ["--progress-bar=off", "--no-warn-script-location"]
        run(what, [*command, *arguments])

    def _uninstall_torch(self) -> None:
        if self.uv:
            command = [self.uv, "pip", "uninstall", "--python", str(PYTHON)]
        else:
            command = [str(PYTHON), "-m", "pip", "uninstall", "--yes"]
        run("torch's other wheel, removed", [*command, "-r", str(TORCH)], quiet=True)

    def _install_cpu_torch(self, trial: bool) -> bool:
        """Install torch's CPU wheel, or only try whether it can be had: then answer at once.

        It lies in an index of PyTorch's own, which uv knows by name; without uv on the PATH, the
        uv of our lock file is fetched for this one step.
        """
        version = self._locked_torch()
        with tempfile.TemporaryDirectory() as folder:
            uv = self.uv or self._fetch_uv(Path(folder))
            command = [uv, "pip", "install", "--python", str(PYTHON), "--no-deps"]
            command += ["--torch-backend", "cpu", f"torch=={version}"]
            if not trial:
                run(f"torch {version}+cpu", command)
                return True
            with LOG.open("a") as log:
                print("$", *command, "--dry-run", file=log, flush=True)
                try:
                    done = subprocess.run(
                        [*command, "--dry-run", "--reinstall-package", "torch"],
                        env=os.environ | {"UV_HTTP_RETRIES": "0", "UV_HTTP_CONNECT_TIMEOUT": "5"},
                        stdout=log,
                        stderr=subprocess.STDOUT,
                        timeout=TRIAL_SECONDS,
                    )
                except subprocess.TimeoutExpired:
                    return False
            return done.returncode == 0

    def _fetch_uv(self, folder: Path) -> str:
        pin = re.search(r"^uv==[^\n]*\n(?:    --hash[^\n]*\n?)+", DEV.read_text(), re.MULTILINE)
        assert pin, f"{DEV} pins no uv"
        requirement = folder / "uv.txt"
        requirement.write_text(pin[0].rstrip().rstrip("\\"))
        command = [str(PYTHON), "-m", "pip", "install", "--quiet", "--no-deps", "--require-hashes"]
        command += ["--target", str(folder / "uv"), "-r", str(requirement)]
        run("uv, to look for torch's CPU wheel", command, quiet=True)
        return str(folder / "uv" / "bin" / "uv")


def set_up(backend: str, dev: bool) -> None:
    started = time.monotonic()
    check_platform(backend)
    environment = Environment()
    try:
        environment.create()
        installer = "uv" if environment.uv else "pip"
        say(f"Setting up .venv with Python {environment.version()} and {installer}, once.")
        torch = environment.choose_torch(backend)
        check_disk(torch)
        environment.install(torch, dev)
    except SetupError:
        environment.fail()
        raise
    environment.finish(torch, dev)
    seconds = time.monotonic() - started
    say(f"Set up in {seconds:.0f} s: {gigabytes(disk_usage(VENV))}; log in .venv/{LOG.name}.")


def main(arguments: list[str]) -> int:
    dev = "--dev" in arguments
    backend = os.environ.get("TORCH_BACKEND") or "auto"
    if "--check" in arguments:
        return 0 if is_current(read_state(), backend, dev) else 1
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if backend not in ("auto", "cpu", "cuda"):
            raise SetupError(f"TORCH_BACKEND={backend}: write auto, cpu or cuda")
        # One setup at a time: the lock lies on the checkout itself and ends with this process.
        fcntl.flock(os.open(ROOT, os.O_RDONLY), fcntl.LOCK_EX)
        if not is_current(read_state(), backend, dev):
            set_up(backend, dev)
    except (SetupError, OSError) as error:
        print(f"setup: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nsetup: interrupted; the next start begins anew", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
