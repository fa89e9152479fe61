"""Aggregation and activation, against torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from models.inference.decoding import Decoder
from models.inference.tasks import Task

ROWS = np.array([[2.0, -1.0, 0.5], [0.0, 3.0, -2.0], [1.0, 1.0, 1.0]], np.float32)
WEIGHTS = [10, 30, 5]
LABELS = ("World", "Sports", "Business")


def by_label(probabilities: torch.Tensor) -> dict[str, float]:
    return dict(zip(LABELS, probabilities.tolist(), strict=True))


def test_one_segment_is_a_softmax() -> None:
    answer = Decoder(Task.TEXT_CLASSIFICATION, LABELS).decode(ROWS[:1], [10], None)
    assert answer["scores"] == pytest.approx(by_label(torch.tensor(ROWS[0]).softmax(0)))
    assert list(answer["scores"]) == ["World", "Business", "Sports"]
    assert answer["label"] == "World"
    assert answer["score"] == answer["scores"]["World"]


def test_mean_is_that_of_the_log_probabilities_weighted_by_tokens_and_renormalised() -> None:
    answer = Decoder(Task.TEXT_CLASSIFICATION, LABELS, "mean").decode(ROWS, WEIGHTS, None)
    weights = torch.tensor(WEIGHTS, dtype=torch.float32) / sum(WEIGHTS)
    mean = (weights[:, None] * torch.tensor(ROWS).log_softmax(1)).sum(0)
    assert answer["scores"] == pytest.approx(by_label(mean.exp() / mean.exp().sum()), rel=1e-5)


def test_max_is_the_most_confident_segment() -> None:
    answer = Decoder(Task.TEXT_CLASSIFICATION, LABELS, "max").decode(ROWS, WEIGHTS, None)
    assert answer["scores"] == pytest.approx(by_label(torch.tensor(ROWS[1]).softmax(0)), rel=1e-5)


def test_first_is_the_first_segment() -> None:
    answer = Decoder(Task.TEXT_CLASSIFICATION, LABELS, "first").decode(ROWS, WEIGHTS, None)
    assert answer["scores"] == pytest.approx(by_label(torch.tensor(ROWS[0]).softmax(0)), rel=1e-5)


def test_labels_above_the_threshold_highest_first() -> None:
    answer = Decoder(Task.MULTI_LABEL_CLASSIFICATION, LABELS).decode(ROWS[:1], [10], None)
    assert answer["labels"] == ["World", "Business"]
    assert answer["scores"] == pytest.approx(by_label(torch.tensor(ROWS[0]).sigmoid()))
    assert "label" not in answer
    assert "score" not in answer
    strict = Decoder(Task.MULTI_LABEL_CLASSIFICATION, LABELS, threshold=0.99)
    assert strict.decode(ROWS[:1], [10], None)["labels"] == []


def test_mean_of_independent_labels() -> None:
    answer = Decoder(Task.MULTI_LABEL_CLASSIFICATION, LABELS, "mean").decode(ROWS, WEIGHTS, None)
    logits = torch.tensor(ROWS)
    weights = torch.tensor(WEIGHTS, dtype=torch.float32)[:, None] / sum(WEIGHTS)
    yes = (weights * torch.nn.functional.logsigmoid(logits)).sum(0).exp()
    no = (weights * torch.nn.functional.logsigmoid(-logits)).sum(0).exp()
    assert answer["scores"] == pytest.approx(by_label(yes / (yes + no)), rel=1e-5)


def test_max_of_independent_labels_is_taken_label_by_label() -> None:
    answer = Decoder(Task.MULTI_LABEL_CLASSIFICATION, LABELS, "max").decode(ROWS, WEIGHTS, None)
    assert answer["scores"] == pytest.approx(by_label(torch.tensor([2.0, 3.0, 1.0]).sigmoid()))


def test_a_single_logit_is_a_sigmoid() -> None:
    answer = Decoder(Task.TEXT_CLASSIFICATION, ("LABEL_0",)).decode(ROWS[:1, :1], [10], None)
    assert answer["label"] == "LABEL_0"
    assert answer["score"] == pytest.approx(torch.tensor(2.0).sigmoid().item())


def test_regression_is_the_score_alone() -> None:
    decoder = Decoder(Task.REGRESSION, ("LABEL_0",))
    assert decoder.decode(ROWS[:, :1], WEIGHTS, None) == {"score": pytest.approx(25 / 45)}
    several = Decoder(Task.REGRESSION, LABELS).decode(ROWS[:1], [10], None)
    assert several == {"scores": {"World": 2.0, "Business": 0.5, "Sports": -1.0}}


@pytest.mark.parametrize("aggregation", ["mean", "max", "first"])
def test_embeddings_are_always_averaged(aggregation: str) -> None:
    decoder = Decoder(Task.EMBEDDING, aggregation=aggregation, normalizes=True)
    embedding = decoder.decode(ROWS, WEIGHTS, None)["embedding"]
    mean = (torch.tensor(WEIGHTS)[:, None] * torch.tensor(ROWS)).sum(0)
    expected = torch.nn.functional.normalize(mean, dim=0)
    assert embedding == pytest.approx(expected.tolist(), rel=1e-5)


@pytest.mark.parametrize(("top_k", "expected"), [(None, 10), (1, 1), (12, 12), (99, 20)])
def test_top_k(top_k: int | None, expected: int) -> None:
    labels = tuple(f"L{number}" for number in range(20))
    rows = np.random.default_rng(0).normal(size=(1, 20)).astype(np.float32)
    scores = Decoder(Task.TEXT_CLASSIFICATION, labels).decode(rows, [1], top_k)["scores"]
    assert len(scores) == expected
    assert list(scores.values()) == sorted(scores.values(), reverse=True)


@pytest.mark.parametrize("scale", [1e4, -1e4])
def test_large_logits_do_not_overflow(scale: float) -> None:
    rows = np.array([[scale, 0.0, -scale]], np.float32)
    for task in (Task.TEXT_CLASSIFICATION, Task.MULTI_LABEL_CLASSIFICATION):
        with np.errstate(all="raise", under="ignore"):
            scores = Decoder(task, LABELS).decode(rows, [1], None)["scores"]
        assert all(0 <= score <= 1 for score in scores.values())
