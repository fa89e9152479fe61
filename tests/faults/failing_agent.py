"""A worker whose agent raises twice, for a reason of no record: `python -m` this, then as `faust`.

Stands for whatever nobody has thought of.
"""

from __future__ import annotations

import sys
from typing import Any

from faust.cli.faust import cli

from app.records import Job

EVERY = 150
FAILURES = 2


def fail_now_and_then() -> None:
    """Have the decoding of some requests raise what no request is to blame for."""
    of = Job.of.__func__  # type: ignore[attr-defined]
    decoded = failures = 0

    def failing(cls: type[Job], *arguments: Any) -> Job:
        nonlocal decoded, failures
        decoded += 1
        if decoded % EVERY == 0 and failures < FAILURES:
            failures += 1
            raise RuntimeError(f"failure {failures} of the agent")
        job: Job = of(cls, *arguments)
        return job

    Job.of = classmethod(failing)  # type: ignore[method-assign,assignment]


if __name__ == "__main__":
    fail_now_and_then()
    cli(sys.argv[1:])
