"""Where figures go: the page, JSON, a table by what grows."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import scaling
from benchmarks.flops import flop_per_document, matmul_peak
from benchmarks.page import add_outputs, publish
from benchmarks.scaling import Point


def test_figures_go_into_the_page_and_all_rounds_into_json(tmp_path: Path) -> None:
    page, file = tmp_path / "page.md", tmp_path / "rounds.json"
    page.write_text("before\n<!-- measured: speed -->\nold\n<!-- end: speed -->\nafter\n")
    parser = argparse.ArgumentParser()
    add_outputs(parser)
    arguments = parser.parse_args(["--write", str(page), "--json", str(file)])
    publish(arguments, "speed", "| 7 |", {"ours": [Point(1, 7.0)]}, kafka=False)
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("| 7 |\n<!-- end: speed -->\nafter\n")
    assert "old" not in text
    found = json.loads(file.read_text())
    assert found["name"] == "speed"
    assert found["machine"]
    assert found["rounds"]["ours"] == [{"at": 1, "per_s": 7.0, "cpu_us": None, "memory_mib": None}]


def test_points_of_a_curve_are_put_together_over_the_rounds() -> None:
    curve = [Point(10, 100.0), Point(1000, 300.0), Point(10, 120.0), Point(1000, 200.0)]
    assert scaling.describe(("a", "b", "c"), curve, tokens=True).splitlines()[2:] == [
        "| 10 | 110 (100 to 120) | 1100 (1000 to 1200) |",
        "| 1,000 | 250 (200 to 300) | 250000 (200000 to 300000) |",
    ]
    with_cost = [Point(1, 5.0, 30.0, 700.0), Point(1, 7.0, 40.0, 900.0)]
    [row] = scaling.describe(("a", "b", "c", "d"), with_cost).splitlines()[2:]
    assert row == "| 1 | 6 (5 to 7) | 35 (30 to 40) | 800 |"


def test_operations_are_those_of_the_products() -> None:
    config = SimpleNamespace(hidden_size=2, intermediate_size=8, num_hidden_layers=3)
    # A token: 4 products of 2 by 2 and 2 of 2 by 8; attention: 2 products of length², width 2.
    assert flop_per_document(config, [5]) == 3 * (5 * 2 * (4 * 4 + 2 * 16) + 4 * 2 * 25)
    both = flop_per_document(config, [5, 3])
    assert both == pytest.approx(
        (flop_per_document(config, [5]) + flop_per_document(config, [3])) / 2
    )
    assert matmul_peak("float32", size=64, seconds=0.01) > 1e6
