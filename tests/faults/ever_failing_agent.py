"""A worker whose agent raises again and again, for a reason of no record: `python -m` this, then
as `faust`.
"""

from __future__ import annotations

import sys

from faust.cli.faust import cli

from tests.faults.decoding import before_each

EVERY = 300


def fail_again_and_again(number: int) -> None:
    """Raise at one request in so many."""
    if number % EVERY == 0:
        raise RuntimeError(f"failure {number // EVERY} of the agent")


if __name__ == "__main__":
    before_each(fail_again_and_again)
    cli(sys.argv[1:])
