"""A worker whose event loop is busy once, for longer than a session: `python -m` this, then as
`faust`.

Stands for whatever may hold it up.
"""

from __future__ import annotations

import sys
import time

from faust.cli.faust import cli

from tests.faults.decoding import before_each

BUSY_AT = 100
SESSION_S = 6.0
BUSY_S = SESSION_S + 2.0


def be_busy_once(number: int) -> None:
    """Keep the event loop at one request."""
    if number == BUSY_AT:
        time.sleep(BUSY_S)
        print("the event loop was busy", file=sys.stderr, flush=True)


if __name__ == "__main__":
    before_each(be_busy_once)
    cli(sys.argv[1:])
