"""Latencies as counts in buckets, which add up over workers and time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from prometheus_client import CollectorRegistry
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector

BOUNDS_MS: tuple[float, ...] = tuple(round(1.2**step, 3) for step in range(84))
"""Upper bounds of the buckets, 1 ms to an hour, each a fifth above the one before."""


def buckets(latencies_ms: Sequence[float]) -> dict[str, int]:
    """Latencies by the name of their bucket; the last one takes whatever is longer."""
    counts = _count(BOUNDS_MS[:-1], latencies_ms)
    return {str(index): counts[index] for index in range(len(counts)) if counts[index]}


def _count(bounds: Sequence[float], values: Sequence[float]) -> list[int]:
    """How many values lie in each bucket, upper bounds included, and behind the last bound."""
    places = np.searchsorted(bounds, values)
    counts: list[int] = np.bincount(places, minlength=len(bounds) + 1).tolist()
    return counts


class LatencyHistogram(Collector):
    """A histogram of Prometheus that takes many values at once; its own takes one at a time.

    Args:
        name: of the metric, in seconds.
        bounds_s: upper bounds of its buckets, ascending.
    """

    def __init__(
        self, name: str, meaning: str, bounds_s: Sequence[float], registry: CollectorRegistry
    ) -> None:
        self._name = name
        self._meaning = meaning
        self._bounds_s = bounds_s
        self._counts: dict[str, list[int]] = {}
        self._sums_s: dict[str, float] = {}
        registry.register(self)

    def observe(self, model: str, latencies_s: Sequence[float]) -> None:
        """Count latencies of a model."""
        counts = self._counts.setdefault(model, [0] * (len(self._bounds_s) + 1))
        for place, count in enumerate(_count(self._bounds_s, latencies_s)):
            counts[place] += count
        self._sums_s[model] = self._sums_s.get(model, 0.0) + sum(latencies_s)

    def collect(self) -> Iterable[HistogramMetricFamily]:
        """The histogram of each model, as its buckets are asked for."""
        family = HistogramMetricFamily(self._name, self._meaning, labels=["model"])
        names = [*(str(float(bound)) for bound in self._bounds_s), "+Inf"]
        for model, counts in self._counts.items():
            upto = np.cumsum(counts).tolist()
            family.add_metric([model], list(zip(names, upto, strict=True)), self._sums_s[model])
        yield family


def percentiles(counts: Mapping[str, int], wanted: Iterable[int]) -> dict[str, float] | None:
    """Latencies in milliseconds below which `wanted` percent of the counts lie.

    Within a bucket they are taken to be spread evenly, so that a percentile is right to a fifth.
    None where nothing was counted.
    """
    total = sum(counts.values())
    if not total:
        return None
    filled = sorted((int(name), n) for name, n in counts.items() if n)
    return {f"p{percent}": _percentile(filled, total * percent / 100) for percent in wanted}


def _percentile(filled: list[tuple[int, int]], rank: float) -> float:
    below = 0
    for index, n in filled:
        if below + n >= rank:
            lower = BOUNDS_MS[index - 1] if index else 0.0
            return round(lower + (BOUNDS_MS[index] - lower) * (rank - below) / n, 3)
        below += n
    return BOUNDS_MS[filled[-1][0]]
