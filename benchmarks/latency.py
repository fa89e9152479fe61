"""`python -m benchmarks.latency`: how long an answer takes, by how busy the worker is.

What `bertstream bench` says of a worker with nothing set, and of the engine alone: one document at
a time is the least that an answer can take.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.engine import SHIPPED
from benchmarks.faults.deployment import Deployment
from benchmarks.faults.subjects import OURS
from benchmarks.page import add_outputs, markdown, publish, spread
from tests.workers import environment

SERVED = replace(OURS, settings={"model": "builtin", "device": "cpu"})
SHARES = ("10 %", "50 %", "80 %")
"""Of what the worker answers at most: the loads of `bertstream bench`."""

Figures = dict[str, Any]
"""What `bertstream bench --json` prints."""


def main() -> int:
    arguments = _arguments()
    alone: list[Figures] = []
    served: list[Figures] = []
    with (
        tempfile.TemporaryDirectory(prefix="bertstream-latency-") as scratch,
        Deployment(Path(scratch), SERVED) as site,
    ):
        for turn in range(arguments.rounds):
            site.new_service()
            alone.append(bench(site, arguments.data))
            site.have_workers(1)
            served.append(bench(site, arguments.data, "--through-kafka"))
            print(f"round {turn + 1}: {alone[-1]['latency']} {served[-1]['latency']}", flush=True)
    text = f"Documents of `{arguments.data.name}`.\n\n{describe(alone, served)}"
    publish(arguments, "latency", text, {"alone": alone, "through Kafka": served})
    return 0


def bench(site: Deployment, data: Path, *options: str) -> Figures:
    """What the command says, in the settings of the service."""
    command = [sys.executable, "-P", "-m", "app.cli", "bench", "--json", "--rounds", "1"]
    done = subprocess.run(
        [*command, "--data", str(data.resolve()), *options],
        env=environment(site.settings),
        stdout=subprocess.PIPE,
        check=True,
    )
    figures: Figures = json.loads(done.stdout)
    return figures


def describe(alone: Sequence[Figures], served: Sequence[Figures]) -> str:
    """Medians with their range, as a Markdown table."""
    rows = [_row("one at a time, the engine without Kafka", [one["latency"][0] for one in alone])]
    for place, share in enumerate(SHARES):
        latencies = [one["latency"][place] for one in served]
        rate = statistics.median(latency["rate"] for latency in latencies)
        rows.append(_row(f"through Kafka, {rate:.0f}/s: {share} of the most", latencies))
    return markdown(("from text to label", "p50, ms", "p99, ms"), rows)


def _row(name: str, latencies: Sequence[dict[str, float]]) -> tuple[str, ...]:
    return (name, *(spread([one[key] for one in latencies], 1) for key in ("p50_ms", "p99_ms")))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.latency", description=__doc__)
    parser.add_argument(
        "--data", type=Path, default=SHIPPED, metavar="FILE", help="documents, as .jsonl"
    )
    parser.add_argument("--rounds", type=int, default=3)
    add_outputs(parser)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
