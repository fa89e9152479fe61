"""The results as a table in a page, between two markers of the subject that they are of."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from benchmarks.faults.counting import Counts
from benchmarks.faults.scenarios import Scenario
from benchmarks.faults.subjects import Subject
from benchmarks.page import markdown, write_figures

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


def table(rows: Iterable[tuple[Scenario, Counts]]) -> str:
    """The results as a Markdown table."""
    return markdown(
        COLUMNS,
        [
            (
                scenario.title,
                f"{counts.rate:.0f}",
                f"{counts.duration_s:.0f}",
                *(f"{counts.sent:,}", f"{counts.answered:,}", f"{counts.lost:,}"),
                *(f"{counts.duplicated:,}", f"{counts.wrongly_keyed:,}"),
                *(f"{counts.longest_pause_s:.1f}", f"{counts.longest_partition_pause_s:.1f}"),
            )
            for scenario, counts in rows
        ],
    )


def write(page: Path, subject: Subject, rows: Iterable[tuple[Scenario, Counts]]) -> None:
    """Put the results of a subject into the page."""
    write_figures(page, subject.name, table(rows))
