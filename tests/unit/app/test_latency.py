"""Percentiles from counts in buckets."""

from __future__ import annotations

import random

import pytest
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from app.latency import BOUNDS_MS, LatencyHistogram, buckets, percentiles
from app.records import add_counts


def test_nothing_counted_has_no_percentiles() -> None:
    assert percentiles({}, (50,)) is None


@pytest.mark.parametrize("percent", [50, 95, 99])
def test_percentiles_are_right_to_a_fifth(percent: int) -> None:
    chance = random.Random(7)
    latencies = sorted(chance.lognormvariate(4, 1) for _ in range(20_000))
    first, second = buckets(latencies[::2]), buckets(latencies[1::2])
    found = percentiles(add_counts(first, second), (percent,))
    assert found is not None
    exact = latencies[int(len(latencies) * percent / 100)]
    assert found[f"p{percent}"] == pytest.approx(exact, rel=0.2)


def test_anything_longer_falls_into_the_last_bucket() -> None:
    assert buckets([1e12]) == {str(len(BOUNDS_MS) - 1): 1}
    assert percentiles(buckets([1e12]), (99,)) == {"p99": pytest.approx(BOUNDS_MS[-1], rel=0.2)}


def test_the_histogram_says_what_that_of_prometheus_says() -> None:
    bounds = (0.005, 0.1, 1.0)
    registries = CollectorRegistry(), CollectorRegistry()
    ours = LatencyHistogram("waited_seconds", "How long.", bounds, registries[0])
    theirs = Histogram(
        "waited_seconds", "How long.", ["model"], buckets=bounds, registry=registries[1]
    )
    for model, latencies in {"a": [0.001, 0.1, 0.5, 7.0], "b": [1.0], "c": [0.005, 0.25]}.items():
        ours.observe(model, latencies[:1])
        ours.observe(model, latencies[1:])
        for latency in latencies:
            theirs.labels(model).observe(latency)
    said = [
        [line for line in generate_latest(one).decode().splitlines() if "_created" not in line]
        for one in registries
    ]
    assert said[0] == said[1]
