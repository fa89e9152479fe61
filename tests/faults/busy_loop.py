"""A worker whose event loop is busy once, for longer than a session: `python -m` this, then as
`faust`.

Stands for whatever may hold it up: a collection of garbage, a swapped-out process, a slow decoder.
"""

from __future__ import annotations

import sys
import time
from typing import Any

from faust.cli.faust import cli

from app.records import Job

BUSY_AT = 100
"""How many requests are decoded before."""
SESSION_S = 6.0
BUSY_S = SESSION_S + 2.0


def be_busy_once() -> None:
    """Have the decoding of one request keep the event loop."""
    of = Job.of.__func__  # type: ignore[attr-defined]
    decoded = 0

    def busy(cls: type[Job], *arguments: Any) -> Job:
        nonlocal decoded
        decoded += 1
        if decoded == BUSY_AT:
            time.sleep(BUSY_S)
            print("the event loop was busy", file=sys.stderr, flush=True)
        job: Job = of(cls, *arguments)
        return job

    Job.of = classmethod(busy)  # type: ignore[method-assign,assignment]


if __name__ == "__main__":
    be_busy_once()
    cli(sys.argv[1:])
