"""The table of the engine beside transformers."""

from __future__ import annotations

from benchmarks.engine import Round, describe


def test_ratios_are_of_one_round_and_labels_are_compared_with_float32() -> None:
    lines = describe(
        {
            "ours-bfloat16": [Round(200.0, ["a", "b", "c"]), Round(300.0, ["a", "b", "c"])],
            "sorted-bfloat16": [Round(100.0, ["a", "b", "b"]), Round(200.0, ["a", "b", "b"])],
            "arrival-float32": [Round(50.0, ["a", "b"]), Round(50.0, ["a", "b"])],
        }
    ).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    ours, theirs, exact = lines[2:]
    assert "| 250 (200 to 300) | 1.00 (1.00 to 1.00) | 100.0% |" in ours
    assert "| 150 (100 to 200) | 1.75 (1.50 to 2.00) | 100.0% |" in theirs
    assert "| 50 (50 to 50) | 5.00 (4.00 to 6.00) | 100.0% |" in exact


def test_labels_that_differ_are_told() -> None:
    exact = [f"label {n}" for n in range(10)]
    rounds = {
        "ours-bfloat16": [Round(1.0, [*exact[:9], "another"])],
        "arrival-float32": [Round(1.0, exact)],
    }
    assert "| 90.0% |" in describe(rounds)
