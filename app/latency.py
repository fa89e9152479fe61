"""Latencies as counts in buckets, which add up over workers and time."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping

BOUNDS_MS: tuple[float, ...] = tuple(round(1.2**step, 3) for step in range(84))
"""Upper bounds of the buckets, 1 ms to an hour, each a fifth above the one before."""


def bucket(latency_ms: float) -> str:
    """Name of the bucket that a latency falls into; the last one takes whatever is longer."""
    return str(min(bisect_left(BOUNDS_MS, latency_ms), len(BOUNDS_MS) - 1))


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
