"""From the device's numbers to an answer: segments are aggregated, then activated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from models.inference.tasks import Aggregation, Task

Floats = NDArray[np.float32]

MAX_SCORES = 10
"""Labels in `scores` where the request names no `top_k`."""


class Answer(TypedDict, total=False):
    """The fields of a prediction that depend on the task; absent ones are null."""

    label: str
    score: float
    scores: dict[str, float]
    labels: list[str]
    embedding: list[float]


@dataclass(frozen=True, slots=True)
class Decoder:
    """Decodes what one model gives.

    Several segments become one answer before the activation: `mean` is their mean weighted by
    tokens; of logits this is the mean of the log-probabilities, renormalised. `max` is the most
    confident segment, or the highest logit of each label where labels are independent. `first` is
    the first segment. Embeddings are always averaged.
    """

    task: Task
    labels: tuple[str, ...] = ()
    aggregation: Aggregation = "mean"
    threshold: float = 0.5
    """Probability from which a label of a multi-label model counts."""
    normalizes: bool = False
    """Whether embeddings have length 1."""

    def decode(self, rows: Floats, weights: list[int], top_k: int | None) -> Answer:
        """Decode the rows (n_segments, n_outputs) of one document.

        Args:
            weights: tokens of each segment.
        """
        outputs = rows[0] if len(rows) == 1 else self._aggregate(rows, weights)
        if self.task is Task.EMBEDDING:
            return {"embedding": outputs.tolist()}
        if self.task is Task.REGRESSION and len(outputs) == 1:
            return {"score": float(outputs[0])}
        scores = self._activate(outputs)
        order = np.argsort(-scores, kind="stable")
        ranked = {self.labels[i]: float(scores[i]) for i in order[: top_k or MAX_SCORES]}
        if self.task is Task.REGRESSION:
            return {"scores": ranked}
        if self.task is Task.MULTI_LABEL_CLASSIFICATION:
            above = [self.labels[i] for i in order if scores[i] > self.threshold]
            return {"scores": ranked, "labels": above}
        best = order[0]
        return {"label": self.labels[best], "score": float(scores[best]), "scores": ranked}

    def _aggregate(self, rows: Floats, weights: list[int]) -> Floats:
        if self.task is Task.EMBEDDING:
            mean = _mean(rows, weights)
            if self.normalizes:
                mean /= max(float(np.linalg.norm(mean)), 1e-12)
            return mean
        if self.aggregation == "mean":
            return _mean(rows, weights)
        if self.aggregation == "first":
            rows = rows[:1]
        elif self._is_softmax:
            most_confident = _softmax(rows).max(-1).argmax()
            rows = rows[[most_confident]]
        highest: Floats = rows.max(0)
        return highest

    def _activate(self, outputs: Floats) -> Floats:
        """The activation of transformers' text-classification pipeline."""
        if self.task is Task.REGRESSION:
            return outputs
        return _softmax(outputs) if self._is_softmax else _sigmoid(outputs)

    @property
    def _is_softmax(self) -> bool:
        return self.task is Task.TEXT_CLASSIFICATION and len(self.labels) > 1


def _mean(rows: Floats, weights: list[int]) -> Floats:
    """Mean of rows (n, width), weighted; the weights are positive."""
    shares = np.asarray(weights, np.float32)
    mean: Floats = (shares / shares.sum()) @ rows
    return mean


def _softmax(logits: Floats) -> Floats:
    exponentials = np.exp(logits - logits.max(-1, keepdims=True))
    probabilities: Floats = exponentials / exponentials.sum(-1, keepdims=True)
    return probabilities


def _sigmoid(logits: Floats) -> Floats:
    # exp(-|x|) cannot overflow.
    small = np.exp(-np.abs(logits))
    probabilities: Floats = np.where(logits >= 0, 1, small) / (1 + small)
    return probabilities
