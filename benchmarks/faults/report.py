"""The results as a table in a page, between two markers of the subject that they are of."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterable
from pathlib import Path

from app.kafka_jars import KAFKA_VERSION
from benchmarks.faults.counting import Counts
from benchmarks.faults.scenarios import Scenario
from benchmarks.faults.subjects import Subject

COLUMNS = (
    "fault",
    "load, /s",
    "duration, s",
    "sent",
    "answered",
    "lost",
    "duplicated",
    "wrongly keyed",
    "longest pause, s",
    "of a partition, s",
)


def machine() -> str:
    """This machine, without its name."""
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{os.cpu_count()} cores ({_processor()}), {memory_gib:.0f} GiB of memory, "
        f"{platform.system()}, Python {platform.python_version()}, Kafka {KAFKA_VERSION} on the "
        "same machine"
    )


def table(rows: Iterable[tuple[Scenario, Counts]]) -> str:
    """The results as a Markdown table."""
    lines = [f"| {' | '.join(COLUMNS)} |", f"| --- |{' ---: |' * (len(COLUMNS) - 1)}"]
    for scenario, counts in rows:
        numbers = (
            f"{counts.rate:.0f}",
            f"{counts.duration_s:.0f}",
            *(f"{counts.sent:,}", f"{counts.answered:,}", f"{counts.lost:,}"),
            *(f"{counts.duplicated:,}", f"{counts.wrongly_keyed:,}"),
            *(f"{counts.longest_pause_s:.1f}", f"{counts.longest_partition_pause_s:.1f}"),
        )
        lines.append(f"| {scenario.title} | {' | '.join(numbers)} |")
    return "\n".join(lines)


def write(page: Path, subject: Subject, rows: Iterable[tuple[Scenario, Counts]]) -> None:
    """Put the results of a subject into the page."""
    replace(page, subject.name, f"Measured on {machine()}.\n\n{table(rows)}")


def replace(page: Path, name: str, content: str) -> None:
    """Put `content` between the two markers of that name.

    Raises:
        ValueError: the page has no such place.
    """
    begin, end = f"<!-- measured: {name} -->", f"<!-- end: {name} -->"
    text = page.read_text(encoding="utf-8")
    place = re.compile(rf"{re.escape(begin)}.*{re.escape(end)}", re.DOTALL)
    if not place.search(text):
        raise ValueError(f"{page} has no line {begin} with {end} after it")
    block = f"{begin}\n{content}\n{end}"
    page.write_text(place.sub(lambda _: block, text), encoding="utf-8")


def _processor() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.*)$", Path("/proc/cpuinfo").read_text(), re.M)
    except OSError:
        found = None
    return found.group(1).strip() if found else platform.machine()
