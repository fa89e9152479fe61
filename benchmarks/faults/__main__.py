"""`python -m benchmarks.faults`: every fault under load, and the table of what came of it."""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
from pathlib import Path

import orjson

from benchmarks.faults.counting import Counts
from benchmarks.faults.deployment import Deployment
from benchmarks.faults.scenarios import SCENARIOS, Scenario
from benchmarks.faults.subjects import OURS, SUBJECTS, Subject


def main() -> int:
    arguments = _arguments()
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # that the broker is away is known
    results: list[tuple[Subject, Scenario, Counts]] = []
    with tempfile.TemporaryDirectory(prefix="bertstream-faults-") as scratch:
        folder = arguments.folder or Path(scratch)
        for subject in arguments.subjects:
            for scenario in arguments.scenarios:
                place = folder / f"{subject.name}-{scenario.name}"
                place.mkdir(parents=True)
                began = time.monotonic()
                with Deployment(place, subject, rate=arguments.rate) as site:
                    counts = scenario.run(site)
                results.append((subject, scenario, counts))
                took_s = time.monotonic() - began
                facts = orjson.dumps(counts.to_dict()).decode()
                print(
                    f"{subject.name} {scenario.name} ({took_s:.0f} s in all)\n{facts}", flush=True
                )
    return int(any(counts.lost for _, _, counts in results))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults", description=__doc__)
    parser.add_argument("--only", nargs="*", choices=SCENARIOS, default=list(SCENARIOS))
    parser.add_argument("--subject", nargs="*", choices=SUBJECTS, default=[OURS.name])
    parser.add_argument("--rate", type=float, default=300.0, help="requests per second")
    parser.add_argument("--folder", type=Path, help="where logs and data are kept afterwards")
    arguments = parser.parse_args()
    arguments.scenarios = [SCENARIOS[name] for name in arguments.only]
    arguments.subjects = [SUBJECTS[name] for name in arguments.subject]
    return arguments


if __name__ == "__main__":
    sys.exit(main())
