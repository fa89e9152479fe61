"""How well labels are predicted: accuracy, precision, recall, F1, confusion matrix, calibration.

Means as in scikit-learn: what cannot be computed because nothing was predicted or expected is 0.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

N_BINS = 15


@dataclass(frozen=True, slots=True)
class LabelScores:
    """How well one label is predicted."""

    label: str
    precision: float
    recall: float
    f1: float
    documents: int
    """Documents that have this label."""


@dataclass(frozen=True, slots=True)
class Bin:
    """Documents whose predictions were given about the same probability."""

    documents: int
    confidence: float
    """Mean probability of the predicted labels."""
    accuracy: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """Whether the probabilities are what they say (Guo et al. 2017, section 2)."""

    error: float
    """Expected calibration error: mean distance of confidence and accuracy over the bins, by
    documents."""
    bins: tuple[Bin, ...]
    """`N_BINS` of equal width from 0 to 1; those without documents are left out."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Predicted labels held against expected ones."""

    documents: int
    failed: int
    """Documents without a prediction; they count as wrong."""
    accuracy: float
    """Where a document may have several labels, each of them must be right."""
    macro_f1: float
    """Mean of the labels' F1."""
    weighted_f1: float
    """Mean of the labels' F1, weighted by their documents."""
    labels: tuple[LabelScores, ...]
    """Every label that is expected or predicted somewhere, in the given order."""
    confusion: NDArray[np.int64] | None
    """Documents by expected label (rows) and predicted label (columns), in the same order;
    documents without a prediction are not in it. None where a document may have several labels."""
    micro_f1: float | None = None
    """F1 over all labels of all documents together; None where each has one, which makes it the
    accuracy."""
    calibration: Calibration | None = None

    def facts(self) -> dict[str, Any]:
        """All of it as JSON takes it."""
        facts = asdict(self)
        facts["labels"] = list(facts["labels"])
        if self.confusion is not None:
            facts["confusion"] = self.confusion.tolist()
        if self.calibration is not None:
            facts["calibration"]["bins"] = list(facts["calibration"]["bins"])
        return {name: fact for name, fact in facts.items() if fact is not None}


def evaluate(
    expected: Sequence[str],
    predicted: Sequence[str | None],
    order: Sequence[str] = (),
    confidences: Sequence[float] | None = None,
) -> Evaluation:
    """Hold predicted labels against expected ones.

    Args:
        expected: the label of each document.
        predicted: what was predicted for it; None where there is no prediction.
        confidences: probability of each prediction, any number where there is none; None: nothing
            is said of the calibration.
        order: labels in the order in which they are to be shown; others follow, sorted.

    Raises:
        ValueError: there are no documents, or not as many predictions.
    """
    _require_as_many(expected, predicted)
    seen = {*expected, *(label for label in predicted if label is not None)}
    labels = _ordered(seen, order)
    confusion, without = _count(expected, predicted, labels)
    right = np.diagonal(confusion)  # (n_labels,)
    support = confusion.sum(1) + without
    scores = _score(labels, right, confusion.sum(0), support)
    return Evaluation(
        documents=len(expected),
        failed=int(without.sum()),
        accuracy=float(right.sum() / len(expected)),
        macro_f1=_macro_f1(scores),
        weighted_f1=_weighted_f1(scores),
        labels=scores,
        confusion=confusion,
        calibration=None if confidences is None else _calibrate(expected, predicted, confidences),
    )


def evaluate_sets(
    expected: Sequence[Collection[str]],
    predicted: Sequence[Collection[str] | None],
    order: Sequence[str] = (),
) -> Evaluation:
    """Hold predicted labels against expected ones, any number of each document.

    Args:
        expected: the labels of each document.
        predicted: those that were predicted for it; None where there is no prediction.
        order: labels in the order in which they are to be shown; others follow, sorted.

    Raises:
        ValueError: there are no documents, or not as many predictions.
    """
    _require_as_many(expected, predicted)
    labels = _ordered(set(chain(*expected, *(own for own in predicted if own))), order)
    number = {label: i for i, label in enumerate(labels)}
    right, chosen, support = np.zeros((3, len(labels)), np.int64)
    for own, prediction in zip(expected, predicted, strict=True):
        for counts, found in (
            (support, own),
            (chosen, prediction or ()),
            (right, set(own) & set(prediction or ())),
        ):
            counts[[number[label] for label in found]] += 1
    scores = _score(labels, right, chosen, support)
    exact = sum(
        prediction is not None and set(own) == set(prediction)
        for own, prediction in zip(expected, predicted, strict=True)
    )
    every = 2 * right.sum(keepdims=True), chosen.sum(keepdims=True) + support.sum(keepdims=True)
    return Evaluation(
        documents=len(expected),
        failed=sum(prediction is None for prediction in predicted),
        accuracy=exact / len(expected),
        macro_f1=_macro_f1(scores),
        weighted_f1=_weighted_f1(scores),
        labels=scores,
        confusion=None,
        micro_f1=float(_ratio(*every)[0]),
    )


def _require_as_many(expected: Sequence[Any], predicted: Sequence[Any]) -> None:
    if len(expected) != len(predicted):
        raise ValueError(f"{len(expected)} documents, {len(predicted)} predictions")
    if not expected:
        raise ValueError("no documents")


def _ordered(seen: Collection[str], order: Sequence[str]) -> list[str]:
    known = [label for label in order if label in seen]
    return known + sorted(set(seen).difference(known))


def _score(
    labels: Sequence[str],
    right: NDArray[np.int64],
    predicted: NDArray[np.int64],
    support: NDArray[np.int64],
) -> tuple[LabelScores, ...]:
    """Scores of labels by the documents for which each is right, predicted, and expected."""
    precision = _ratio(right, predicted)
    recall = _ratio(right, support)
    f1 = _ratio(2 * right, predicted + support)
    return tuple(
        LabelScores(label, float(precision[i]), float(recall[i]), float(f1[i]), int(support[i]))
        for i, label in enumerate(labels)
    )


def _macro_f1(scores: Sequence[LabelScores]) -> float:
    return sum(label.f1 for label in scores) / max(len(scores), 1)


def _weighted_f1(scores: Sequence[LabelScores]) -> float:
    total = sum(label.documents for label in scores)
    return sum(label.f1 * label.documents for label in scores) / max(total, 1)


def _calibrate(
    expected: Sequence[str], predicted: Sequence[str | None], confidences: Sequence[float]
) -> Calibration:
    rows = [
        (confidence, label == prediction)
        for label, prediction, confidence in zip(expected, predicted, confidences, strict=True)
        if prediction is not None
    ]
    table = np.array(rows, np.float64).reshape(-1, 2)  # (n, 2): confidence, whether it was right
    numbers = np.minimum((table[:, 0] * N_BINS).astype(np.int64), N_BINS - 1)
    bins = []
    for number in np.unique(numbers):
        own = table[numbers == number]
        confidence, accuracy = own.mean(0).tolist()
        bins.append(Bin(len(own), confidence, accuracy))
    distances = (one.documents * abs(one.confidence - one.accuracy) for one in bins)
    return Calibration(sum(distances) / max(len(table), 1), tuple(bins))


def _count(
    expected: Sequence[str], predicted: Sequence[str | None], labels: Sequence[str]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The confusion matrix, and by label the documents without a prediction."""
    number = {label: i for i, label in enumerate(labels)}
    confusion = np.zeros((len(labels), len(labels)), np.int64)
    without = np.zeros(len(labels), np.int64)
    for label, prediction in zip(expected, predicted, strict=True):
        if prediction is None:
            without[number[label]] += 1
        else:
            confusion[number[label], number[prediction]] += 1
    return confusion, without


def _ratio(part: NDArray[np.int64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    ratio: NDArray[np.float64] = np.divide(
        part, whole, out=np.zeros(len(part)), where=whole > 0, dtype=np.float64
    )
    return ratio
