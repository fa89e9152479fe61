"""Write the lock files from `pyproject.toml`: `make lock`.

Every file holds exact versions with hashes, for Python 3.11 to 3.13 on Linux and macOS at once, and
no address: the index is whatever the machine is set up for.

    requirements.lock        what `make run` needs besides torch
    requirements-torch.lock  torch's default wheel and, on Linux, the CUDA libraries beneath it
    requirements-dev.lock    what the tests and checks of a checkout need besides these
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HEADER = "# {title}. Written by `make lock`: do not edit.\n\n"
TITLES = {
    "requirements.lock": "What `make run` needs besides torch",
    "requirements-torch.lock": "torch's default wheel and, on Linux, the CUDA libraries beneath it",
    "requirements-dev.lock": "What the tests and checks of a checkout need besides",
}
CUDA = re.compile(r"(torch|triton|cuda-.+|nvidia-.+)==")
"""Pins that the small CPU wheel of torch does without; only torch asks for them."""


def compile_pins(extras: list[str], constraints: list[str]) -> list[str]:
    """Resolve the project with these extras into pins, each with its markers and hashes."""
    with tempfile.TemporaryDirectory() as folder:
        constraint_file = Path(folder, "constraints.txt")
        constraint_file.write_text("\n".join(constraints))
        command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--universal"]
        command += ["--generate-hashes", "--no-header", "--no-annotate", "--no-emit-index-url"]
        # Nobody should need a compiler: a package without a wheel fails here, not at a user's.
        command += ["--no-build", "--constraint", str(constraint_file), "pyproject.toml"]
        # setuptools builds the editable install, so it comes from the lock as well.
        setuptools = Path(folder, "setuptools.in")
        setuptools.write_text("setuptools>=77\n")
        command += [str(setuptools), *(f"--extra={extra}" for extra in extras)]
        done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    pins = re.split(r"\n(?=[a-z0-9])", done.stdout.strip())
    return [pin for pin in pins if "sys_platform == 'win32'" not in pin]


def main() -> None:
    everything = compile_pins(["dev"], constraints=[])
    needed = compile_pins(["broker", "procfile", "training"], constraints=everything)
    files = {
        "requirements.lock": [pin for pin in needed if not CUDA.match(pin)],
        "requirements-torch.lock": [pin for pin in needed if CUDA.match(pin)],
        "requirements-dev.lock": [pin for pin in everything if pin not in needed],
    }
    for name, pins in files.items():
        header = HEADER.format(title=TITLES[name])
        (ROOT / name).write_text(header + "\n".join(pins) + "\n")
        print(f"{name}: {len(pins)} packages")


if __name__ == "__main__":
    main()
