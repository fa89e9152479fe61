"""Percentiles from counts in buckets."""

from __future__ import annotations

import random

import pytest

from app.latency import BOUNDS_MS, bucket, percentiles
from app.records import add_counts


def test_nothing_counted_has_no_percentiles() -> None:
    assert percentiles({}, (50,)) is None


@pytest.mark.parametrize("percent", [50, 95, 99])
def test_percentiles_are_right_to_a_fifth(percent: int) -> None:
    chance = random.Random(7)
    latencies = sorted(chance.lognormvariate(4, 1) for _ in range(20_000))
    first: dict[str, int] = {}
    second: dict[str, int] = {}
    for number, latency in enumerate(latencies):
        counts = first if number % 2 else second
        counts[bucket(latency)] = counts.get(bucket(latency), 0) + 1
    found = percentiles(add_counts(first, second), (percent,))
    assert found is not None
    exact = latencies[int(len(latencies) * percent / 100)]
    assert found[f"p{percent}"] == pytest.approx(exact, rel=0.2)


def test_anything_longer_falls_into_the_last_bucket() -> None:
    assert bucket(1e12) == str(len(BOUNDS_MS) - 1)
    assert percentiles({bucket(1e12): 1}, (99,)) == {"p99": pytest.approx(BOUNDS_MS[-1], rel=0.2)}
