"""A worker whose agent raises twice, for a reason of no record: `python -m` this, then as `faust`.

Stands for whatever nobody has thought of.
"""

from __future__ import annotations

import sys

from faust.cli.faust import cli

from tests.faults.decoding import before_each

FAILING = (150, 300)
"""The requests whose decoding raises what no request is to blame for."""


def fail_twice(number: int) -> None:
    """Raise at some requests."""
    if number in FAILING:
        raise RuntimeError(f"failure {FAILING.index(number) + 1} of the agent")


if __name__ == "__main__":
    before_each(fail_twice)
    cli(sys.argv[1:])
