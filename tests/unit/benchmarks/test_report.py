"""The tables that the fault harness writes into a page."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from benchmarks import page
from benchmarks.faults import report
from benchmarks.faults.counting import Counts
from benchmarks.faults.scenarios import SCENARIOS
from benchmarks.faults.subjects import SUBJECTS

COUNTS = Counts(
    sent=12_000,
    unconfirmed=0,
    answered=11_999,
    lost=1,
    duplicated=2,
    wrongly_keyed=3,
    failed=0,
    longest_pause_s=4.04,
    longest_partition_pause_s=5.05,
    duration_s=40.4,
    rate=299.7,
)
PAGE = Path(__file__).parents[3] / "docs" / "reliability.md"


def test_a_table_has_a_row_for_each_result() -> None:
    lines = report.table([(SCENARIOS["broker-killed"], COUNTS)]).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert lines[2].endswith("| 300 | 40 | 12,000 | 11,999 | 1 | 2 | 3 | 4.0 | 5.0 |")


def test_results_take_the_place_of_earlier_ones_and_of_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "page.md"
    file.write_text("before\n<!-- measured: a -->\nold\n<!-- end: a -->\nbetween\n")
    page.write_figures(file, "a", "new")
    figures = f"Measured on {page.machine()}.\n\nnew"
    expected = f"before\n<!-- measured: a -->\n{figures}\n<!-- end: a -->\nbetween\n"
    assert file.read_text() == expected
    with pytest.raises(ValueError, match="measured: b"):
        page.write_figures(file, "b", "new")
    assert file.read_text() == expected


def test_the_page_has_a_place_for_every_subject(tmp_path: Path) -> None:
    copy = tmp_path / "reliability.md"
    copy.write_text(PAGE.read_text(encoding="utf-8"), encoding="utf-8")
    for subject in SUBJECTS.values():
        report.write(copy, subject, [(SCENARIOS["broker-killed"], COUNTS)])
    page.write_figures(copy, "soak", "new")
    assert copy.read_text(encoding="utf-8").count("11,999") == len(SUBJECTS)


def test_the_machine_is_described_without_its_name() -> None:
    assert platform.node() not in page.machine()
