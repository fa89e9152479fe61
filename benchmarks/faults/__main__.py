"""`python -m benchmarks.faults`: every fault under load, and the table of what came of it."""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import orjson

from benchmarks.faults import report
from benchmarks.faults.counting import Counts
from benchmarks.faults.deployment import Deployment
from benchmarks.faults.scenarios import CRASHES, SCENARIOS, Scenario
from benchmarks.faults.subjects import EXACTLY_ONCE, OURS, SUBJECTS, Subject
from benchmarks.page import machine

Rows = list[tuple[Scenario, Counts]]


def main() -> int:
    arguments = _arguments()
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # that the broker is away is known
    results: dict[str, Rows] = {}
    failed = False
    with tempfile.TemporaryDirectory(prefix="bertstream-faults-") as scratch:
        folder = arguments.folder or Path(scratch)
        for subject in arguments.subjects:
            print(f"{subject.title}: {len(arguments.scenarios(subject))} faults", flush=True)
            began = time.monotonic()
            rows, complete = _measure(subject, arguments, folder / subject.name)
            print(f"  {(time.monotonic() - began) / 60:.1f} minutes", flush=True)
            results[subject.name] = rows
            failed |= not complete
            if arguments.write and complete:
                report.write(arguments.write, subject, rows)
    if arguments.json:
        arguments.json.write_bytes(
            orjson.dumps(
                {
                    "machine": machine(),
                    "results": {
                        name: {scenario.name: counts.to_dict() for scenario, counts in rows}
                        for name, rows in results.items()
                    },
                },
                option=orjson.OPT_INDENT_2,
            )
        )
    for name, rows in results.items():
        print(f"\n{SUBJECTS[name].title}, on {machine()}\n\n{report.table(rows)}")
    ours = [(name, row) for name in (OURS.name, EXACTLY_ONCE.name) for row in results.get(name, [])]
    return int(failed or any(_breaks_a_promise(name, *row) for name, row in ours))


def _breaks_a_promise(name: str, scenario: Scenario, counts: Counts) -> bool:
    once = scenario.planned or name == EXACTLY_ONCE.name
    wrong = counts.lost + counts.wrongly_keyed + counts.failed + once * counts.duplicated
    return bool(wrong)


def _measure(subject: Subject, arguments: argparse.Namespace, folder: Path) -> tuple[Rows, bool]:
    """The results of a subject, and whether no scenario broke off."""
    rows: Rows = []
    complete = True
    with ExitStack() as stack:
        site: Deployment | None = None
        for scenario in arguments.scenarios(subject):
            began = time.monotonic()
            print(f"  {scenario.name}: ", end="", flush=True)
            try:
                if site is None:
                    place = folder / f"from-{scenario.name}"
                    place.mkdir(parents=True)
                    site = stack.enter_context(Deployment(place, subject, rate=arguments.rate))
                counts = scenario.run(site)
                if counts.lost or counts.wrongly_keyed:
                    site.new_service()  # the next fault is not to be blamed for it
            except Exception as error:  # whatever it is, the other scenarios can be run
                print(f"broke off: {error!r}", flush=True)
                complete = False
                stack.close()
                site = None
                continue
            rows.append((scenario, counts))
            print(
                f"sent {counts.sent}, lost {counts.lost}, duplicated {counts.duplicated}, "
                f"wrongly keyed {counts.wrongly_keyed}, failed {counts.failed}, longest pause "
                f"{counts.longest_pause_s:.1f} s, of a partition "
                f"{counts.longest_partition_pause_s:.1f} s ({time.monotonic() - began:.0f} s)",
                *counts.remarks,
                sep="\n    ",
                flush=True,
            )
    return rows, complete


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults", description=__doc__)
    parser.add_argument("--only", nargs="*", choices=SCENARIOS, help="these faults alone")
    parser.add_argument("--subject", nargs="*", choices=SUBJECTS, help="these subjects alone")
    parser.add_argument("--compare", action="store_true", help="the peers as well")
    parser.add_argument("--rate", type=float, default=300.0, help="requests per second")
    parser.add_argument("--folder", type=Path, help="where logs and data are kept afterwards")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures as JSON")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="page that holds the tables")
    arguments = parser.parse_args()
    ours = (OURS.name, EXACTLY_ONCE.name)
    names = arguments.subject or (SUBJECTS if arguments.compare else ours)
    arguments.subjects = [SUBJECTS[name] for name in names]
    if arguments.only and arguments.write:
        parser.error("--write is for a whole table, --only for a part of one")

    def scenarios(subject: Subject) -> list[Scenario]:
        # Exactly once differs where something crashes.
        names = arguments.only or (CRASHES if subject is EXACTLY_ONCE else SCENARIOS)
        return [
            SCENARIOS[name]
            for name in names
            if subject.failing is not None or name != "agent-raises"
        ]

    arguments.scenarios = scenarios
    return arguments


if __name__ == "__main__":
    sys.exit(main())
