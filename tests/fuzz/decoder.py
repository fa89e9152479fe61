"""Fuzz the decoder, guided by the coverage of its code, and keep what breaks it.

    python -m tests.fuzz.decoder [SECONDS]

Needs atheris, which has wheels for Linux on x86_64 alone; elsewhere mutations are tried unguided.
What breaks is written beside this file as `crash-...`: mended, it belongs into the corpus.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import tempfile
import time
from pathlib import Path

from tests.fuzz.mutations import CORPUS, Mutations

MAX_BYTES = 4_096


def guided(seconds: int) -> None:
    """Run atheris, which ends the process."""
    atheris = importlib.import_module("atheris")
    with atheris.instrument_imports(include=["app.records", "app.errors"]):
        from tests.fuzz.check import check

    def one(data: bytes) -> None:
        key, value = (None, data) if data[:1] != b"\x01" else (data[1:9], data[9:])
        check(value, key)

    with tempfile.TemporaryDirectory() as found:
        options = [
            *(f"-max_total_time={seconds}", f"-max_len={MAX_BYTES}", "-timeout=10", "-seed=1"),
            f"-artifact_prefix={Path(__file__).parent}/",
        ]
        atheris.Setup([sys.argv[0], *options, found, str(CORPUS)], one)
        atheris.Fuzz()


def unguided(seconds: int) -> None:
    """Try mutations as long as asked for."""
    from tests.fuzz.check import check

    seed = time.time_ns()
    mutations, until, tried = Mutations(seed), time.monotonic() + seconds, 0
    while time.monotonic() < until:
        record = mutations.record()
        tried += 1
        try:
            check(record.value, record.key)
        except Exception:
            crash = Path(__file__).parent / f"crash-{seed}-{tried}"
            crash.write_bytes(record.value or b"")
            print(f"seed {seed}, record {tried}: {crash}")
            raise
    print(f"{tried:,} records, seed {seed}: nothing broke")


def main() -> None:
    seconds = int(sys.argv[1]) if len(sys.argv) > 1 else 120
    if importlib.util.find_spec("atheris") is None:
        print("no atheris here: mutations, not guided by coverage")
        unguided(seconds)
    else:
        guided(seconds)


if __name__ == "__main__":
    main()
