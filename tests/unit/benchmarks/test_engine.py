"""The tables of `make bench`."""

from __future__ import annotations

from benchmarks import engine, through_kafka


def test_ratios_are_of_one_round_and_labels_are_compared_with_float32() -> None:
    lines = engine.describe(
        {
            "ours-bfloat16": [
                engine.Round(200.0, ["a", "b"], 0.5),
                engine.Round(300.0, ["a", "b"], 0.5),
            ],
            "sorted-bfloat16": [
                engine.Round(100.0, ["a", "a"], 0.5),
                engine.Round(200.0, ["a", "a"], 0.5),
            ],
            "arrival-float32": [
                engine.Round(50.0, ["a", "b"], 0.5),
                engine.Round(50.0, ["a", "b"], 0.5),
            ],
        }
    ).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    ours, theirs, exact = lines[2:]
    assert "| 250 (200 to 300) | 1.00 (1.00 to 1.00) | 100.0% | 50% |" in ours
    assert "| 150 (100 to 200) | 1.75 (1.50 to 2.00) | 50.0% | 50% |" in theirs
    assert "| 50 (50 to 50) | 5.00 (4.00 to 6.00) | 100.0% | 50% |" in exact


def test_the_engine_alone_has_no_figures_of_kafka() -> None:
    lines = through_kafka.describe(
        {
            "ours": [
                through_kafka.Round(90.0, (10.0, 0.5), 900.0),
                through_kafka.Round(80.0, (11.0, 0.7), 910.0),
            ],
            "ours-bfloat16": [through_kafka.Round(100.0), through_kafka.Round(100.0)],
        }
    ).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    ours, alone = lines[2:]
    assert ours.endswith("| 10.5 (10.0 to 11.0) | 0.6 (0.5 to 0.7) | 905 |")
    assert "| 0.85 (0.80 to 0.90) |" in alone
