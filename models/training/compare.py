"""Two models on the same documents: which predicts better, and whether their embeddings agree."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

QUANTILE = 1.959963984540054
"""Of the normal distribution, for 95 %."""
CHUNK = 512
"""Documents whose similarities to all others are in memory at once."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """How often each of two models was right where the other was not."""

    documents: int
    only_first: int
    only_second: int
    difference: float
    """Accuracy of the first less that of the second."""
    low: float
    high: float
    """95 % interval of the difference, by the normal approximation for pairs."""
    p_value: float
    """Of McNemar's exact test: how often two models that are equally good would be as far apart as
    these, or further."""


def compare_predictions(
    expected: Sequence[object], first: Sequence[object], second: Sequence[object]
) -> Comparison:
    """Hold the predictions of two models against each other.

    Args:
        expected: the label, or the set of labels, of each document.
        first: what one model predicted for it, likewise; None where there is no prediction, which
            is wrong.
        second: likewise.
    """
    rows = list(zip(expected, first, second, strict=True))
    only_first = sum(label == one != other for label, one, other in rows)
    only_second = sum(label == other != one for label, one, other in rows)
    n, discordant = len(rows), only_first + only_second
    difference = (only_first - only_second) / n
    deviation = math.sqrt(max(discordant - (only_first - only_second) ** 2 / n, 0)) / n
    return Comparison(
        documents=n,
        only_first=only_first,
        only_second=only_second,
        difference=difference,
        low=difference - QUANTILE * deviation,
        high=difference + QUANTILE * deviation,
        p_value=_sign_test(min(only_first, only_second), discordant),
    )


def _sign_test(least: int, n: int) -> float:
    """How likely n tosses of a coin show so few of one side, or fewer, either side."""
    tail = sum(
        math.exp(math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) - n * math.log(2))
        for k in range(least + 1)
    )
    return min(1.0, 2 * tail)


@dataclass(frozen=True, slots=True)
class EmbeddingComparison:
    """How far two models see the same likeness between documents."""

    documents: int
    cka: float
    """Linear centred kernel alignment (Kornblith et al. 2019, section 3), from 0 to 1: the same for
    embeddings that are rotated or scaled, whatever their widths."""
    cosine: float | None
    """Mean cosine of a document's two embeddings; None where they are of different widths."""
    neighbours: int
    """How many of the nearest documents were looked at."""
    shared: float
    """Share of these that both models have."""
    same_label: tuple[float, float] | None
    """Share of these that have the document's label, by model; None where labels are missing."""


def compare_embeddings(
    first: NDArray[np.float32],
    second: NDArray[np.float32],
    labels: Sequence[str] | None = None,
    neighbours: int = 10,
) -> EmbeddingComparison:
    """Compare the embeddings of the same documents, (n, width) each.

    Args:
        labels: of the documents (n,).
        neighbours: that are looked at; fewer where there are not as many other documents.

    Raises:
        ValueError: there are fewer than two documents.
    """
    if len(first) < 2:
        raise ValueError("two documents or more are needed to compare embeddings")
    neighbours = min(neighbours, len(first) - 1)
    one, other = _unit(first), _unit(second)
    near, near_other = _nearest(one, neighbours), _nearest(other, neighbours)
    both = [
        len(np.intersect1d(a, b, assume_unique=True)) for a, b in zip(near, near_other, strict=True)
    ]
    same_label = None
    if labels is not None:
        names = np.array(labels)
        by_first, by_second = (
            float((names[found] == names[:, None]).mean()) for found in (near, near_other)
        )
        same_label = by_first, by_second
    return EmbeddingComparison(
        documents=len(first),
        cka=_cka(first, second),
        cosine=float((one * other).sum(1).mean()) if one.shape == other.shape else None,
        neighbours=neighbours,
        shared=float(np.mean(both) / neighbours),
        same_label=same_label,
    )


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    scaled: NDArray[np.float32] = rows / np.maximum(lengths, np.finfo(np.float32).tiny)
    return scaled


def _nearest(rows: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """The nearest other rows of each row of length 1, (n, count), in no order."""
    found = []
    for start in range(0, len(rows), CHUNK):
        similarities = rows[start : start + CHUNK] @ rows.T  # (chunk, n)
        own = np.arange(len(similarities))
        similarities[own, start + own] = -np.inf
        found.append(np.argpartition(similarities, -count, axis=1)[:, -count:])
    return np.concatenate(found)


def _cka(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    x, y = (rows.astype(np.float64) - rows.mean(0, dtype=np.float64) for rows in (first, second))
    whole = np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)
    return float(np.linalg.norm(x.T @ y) ** 2 / whole) if whole else 0.0
