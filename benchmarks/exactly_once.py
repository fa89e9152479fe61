"""`python -m benchmarks.exactly_once`: what exactly once costs in throughput and in latency.

Workers of both kinds by turns, so that what else the machine does meets both.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

from benchmarks.capacity import measure_capacity
from benchmarks.faults.deployment import Deployment
from benchmarks.faults.load import Load
from benchmarks.faults.subjects import EXACTLY_ONCE, OURS
from benchmarks.page import add_outputs, markdown, publish, spread, times

RATES = (20.0, 200.0)
"""Requests per second at which latency is measured, far below what a worker can do."""
LATENCY_S = 12.0
SETTLE_S = 3.0
CAPACITY = "answered in a second, of a flood"

Figures = dict[str, float]
"""What was measured, by what it is."""


def main() -> int:
    arguments = _arguments()
    plain: list[Figures] = []
    exact: list[Figures] = []
    with (
        tempfile.TemporaryDirectory(prefix="bertstream-exactly-once-") as scratch,
        Deployment(Path(scratch)) as site,
    ):
        for turn in range(arguments.rounds):
            for subject, figures in ((OURS, plain), (EXACTLY_ONCE, exact)):
                site.subject = subject
                site.new_service()
                figures.append(measure(site))
                print(f"round {turn + 1}, {subject.title}: {figures[-1]}", flush=True)
    rounds = {"at least once": plain, "exactly once": exact}
    publish(arguments, "exactly-once-cost", describe(plain, exact), rounds)
    return 0


def measure(site: Deployment) -> Figures:
    """Latency in ms at each rate, and what one worker answers at most."""
    site.have_workers(1)
    figures: Figures = {}
    for rate in RATES:
        with site.load(rate=rate) as load:
            load.run_for(SETTLE_S + LATENCY_S)
            load.drain()
        middle, late = percentiles(load)
        figures[f"latency at {rate:.0f}/s, p50, ms"] = middle
        figures[f"latency at {rate:.0f}/s, p99, ms"] = late
    figures[CAPACITY] = measure_capacity(site)
    return figures


def percentiles(load: Load) -> tuple[float, float]:
    """p50 and p99, in ms, of what was sent after the first seconds."""
    found = statistics.quantiles(load.ledger.latencies(since_s=SETTLE_S), n=100)
    return found[49] * 1000, found[98] * 1000


def describe(plain: list[Figures], exact: list[Figures]) -> str:
    """Medians with their range, and the ratio round by round, as a Markdown table."""
    rows = []
    for name in plain[0]:
        before, after = [one[name] for one in plain], [one[name] for one in exact]
        digits = 0 if name == CAPACITY else 1
        rows.append((name, spread(before, digits), spread(after, digits), times(after, before)))
    return markdown(("", "at least once", "exactly once", "ratio"), rows)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.exactly_once", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    add_outputs(parser)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
