"""`python -m benchmarks.soak`: one worker for a long time at a share of what it can do."""

from __future__ import annotations

import argparse
import logging
import re
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from app.settings import MEBIBYTE
from benchmarks.capacity import measure_capacity
from benchmarks.faults.counting import Counts
from benchmarks.faults.deployment import Deployment
from benchmarks.faults.load import Load
from benchmarks.page import write_figures

SAMPLE_S = 5.0
SETTLED_SHARE = 0.1
"""From what share of the time on a worker has all that it needs."""


@dataclass
class Series:
    """What was seen of the worker while the load went on, a sample every `SAMPLE_S`."""

    at_s: list[float] = field(default_factory=list)
    rss_mib: list[float] = field(default_factory=list)
    lag: list[int] = field(default_factory=list)
    """Requests that wait for their answer."""

    def add(self, at_s: float, rss_mib: float, lag: int) -> None:
        self.at_s.append(at_s)
        self.rss_mib.append(rss_mib)
        self.lag.append(lag)

    def settled(self) -> Series:
        """What came after `SETTLED_SHARE` of the time."""
        start = int(len(self.at_s) * SETTLED_SHARE)
        return Series(self.at_s[start:], self.rss_mib[start:], self.lag[start:])


def main() -> int:
    arguments = _arguments()
    with (
        tempfile.TemporaryDirectory(prefix="bertstream-soak-") as scratch,
        Deployment(arguments.folder or Path(scratch)) as site,
    ):
        site.have_workers(1)
        capacity = measure_capacity(site)
        site.new_service()  # what is left of the flood stays with the old one
        [worker] = site.have_workers(1)
        site.rate = capacity * arguments.share
        print(f"capacity {capacity:.0f}/s; {site.rate:.0f}/s for {arguments.minutes} min")
        logged = len(worker.log)
        with site.load() as load:
            series = watch(load, worker.process.pid, arguments.minutes * 60)
            counts = load.drain()
        complaints = re.findall(r"^.*\[(?:WARNING|ERROR|CRITICAL)\].*$", worker.log[logged:], re.M)
    summary = describe(capacity, counts, series.settled(), complaints)
    print(summary, *counts.remarks, *complaints[:20], sep="\n")
    if arguments.write:
        write_figures(arguments.write, "soak", summary)
    wrong = counts.lost + counts.duplicated + counts.wrongly_keyed + counts.failed
    return int(bool(wrong or complaints))


def watch(load: Load, pid: int, seconds: float) -> Series:
    """Sample the worker while the load goes on."""
    series = Series()
    process = psutil.Process(pid)
    began = time.monotonic()
    while (elapsed_s := time.monotonic() - began) < seconds:
        series.add(elapsed_s, process.memory_info().rss / MEBIBYTE, load.ledger.outstanding)
        load.run_for(SAMPLE_S)
    return series


def describe(capacity: float, counts: Counts, series: Series, complaints: list[str]) -> str:
    """The figures as a Markdown table."""
    half = len(series.at_s) // 2
    slope, _ = statistics.linear_regression(series.at_s[half:], series.rss_mib[half:])
    memory = ", ".join(f"{series.rss_mib[place]:.0f}" for place in (0, half, -1))
    rows = {
        "capacity of the worker": f"{capacity:.0f}/s",
        "load": f"{counts.rate:.0f}/s for {counts.duration_s / 60:.1f} min",
        "sent, answered": f"{counts.sent:,}, {counts.answered:,}",
        "lost, duplicated, wrongly keyed, failed": f"{counts.lost}, {counts.duplicated}, "
        f"{counts.wrongly_keyed}, {counts.failed}",
        f"memory of the worker at {SETTLED_SHARE:.0%}, half-way, at the end, MiB": memory,
        "its slope in the second half": f"{slope * 3600:+.1f} MiB an hour",
        "requests waiting: median, most, at the end": f"{statistics.median(series.lag):.0f}, "
        f"{max(series.lag)}, {series.lag[-1]}",
        "longest pause": f"{counts.longest_pause_s:.1f} s",
        "warnings and errors logged": f"{len(complaints)}",
    }
    return "\n".join(["| | |", "| --- | --- |", *(f"| {k} | {v} |" for k, v in rows.items())])


def _arguments() -> argparse.Namespace:
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--share", type=float, default=0.8, help="of the measured capacity")
    parser.add_argument("--folder", type=Path, help="where logs and data are kept afterwards")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="page that holds the figures")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
