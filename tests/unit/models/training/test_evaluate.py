"""Metrics equal those of scikit-learn."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.metrics import (
    accuracy_score,
    confusion_matrix,
    f1_score,
    precision_recall_fscore_support,
)

from models.training.evaluate import evaluate


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("n_labels", [2, 4, 20])
def test_equals_scikit_learn(seed: int, n_labels: int) -> None:
    random = np.random.default_rng(seed)
    names = [f"label {i}" for i in range(n_labels)]
    expected = [names[i] for i in random.integers(0, n_labels, 60)]
    # Some labels are never predicted, others never expected.
    predicted = [
        label if random.random() < 0.6 else names[random.integers(n_labels // 2)]
        for label in expected
    ]
    result = evaluate(expected, predicted)
    labels = [label.label for label in result.labels]
    assert labels == sorted({*expected, *predicted})
    assert result.documents == 60
    assert result.failed == 0
    assert result.accuracy == pytest.approx(accuracy_score(expected, predicted))
    for average, score in (("macro", result.macro_f1), ("weighted", result.weighted_f1)):
        assert score == pytest.approx(f1_score(expected, predicted, average=average))
    theirs = precision_recall_fscore_support(expected, predicted, labels=labels, zero_division=0)
    ours = [[s.precision, s.recall, s.f1, s.documents] for s in result.labels]
    np.testing.assert_allclose(np.transpose(ours), np.stack(theirs))
    np.testing.assert_array_equal(
        result.confusion, confusion_matrix(expected, predicted, labels=labels)
    )


def test_documents_without_prediction_are_wrong() -> None:
    result = evaluate(["a", "a", "b"], ["a", None, "b"])
    assert result.failed == 1
    assert result.accuracy == pytest.approx(2 / 3)
    assert result.labels[0].recall == 0.5
    assert result.labels[0].precision == 1.0
    # As if the missing prediction were of a label that does not count.
    theirs = f1_score(["a", "a", "b"], ["a", "-", "b"], labels=["a", "b"], average="macro")
    assert result.macro_f1 == pytest.approx(theirs)
    assert result.confusion.sum() == 2


def test_labels_keep_the_given_order() -> None:
    result = evaluate(["x", "b", "a"], ["x", "b", "b"], order=["c", "b", "x"])
    assert [label.label for label in result.labels] == ["b", "x", "a"]


def test_one_label_only() -> None:
    result = evaluate(["a", "a"], ["a", "a"])
    assert result.accuracy == result.macro_f1 == result.weighted_f1 == 1.0


def test_facts_are_json() -> None:
    facts = evaluate(["a", "b"], ["a", None]).facts()
    assert json.loads(json.dumps(facts)) == facts
    assert facts["labels"][0] == {
        "label": "a",
        "precision": 1.0,
        "recall": 1.0,
        "f1": 1.0,
        "documents": 1,
    }


def test_calibration_is_by_bins_of_confidence() -> None:
    """Two bins: 0.55 twice, right once; 0.95 and 1.0, both right. No prediction: no confidence."""
    result = evaluate(
        ["a", "a", "a", "a", "a"],
        ["a", "b", "a", "a", None],
        confidences=[0.55, 0.55, 0.95, 1.0, 0],
    )
    assert result.calibration is not None
    assert [(one.documents, one.accuracy) for one in result.calibration.bins] == [(2, 0.5), (2, 1)]
    assert result.calibration.error == pytest.approx((2 * 0.05 + 2 * 0.025) / 4)
    facts = json.loads(json.dumps(result.facts()))
    assert facts["calibration"]["bins"][0] == {
        "documents": 2,
        "confidence": pytest.approx(0.55),
        "accuracy": 0.5,
    }
    assert "calibration" not in evaluate(["a"], ["a"]).facts()


def test_what_is_calibrated_has_a_small_error() -> None:
    random = np.random.default_rng(0)
    confidences = random.uniform(0.5, 1, 20_000)
    right = random.random(20_000) < confidences
    predicted = ["a" if hit else "b" for hit in right]
    for shift, least, most in ((0.0, 0.0, 0.02), (-0.2, 0.18, 0.22)):
        calibration = evaluate(
            ["a"] * 20_000, predicted, confidences=(confidences + shift).tolist()
        ).calibration
        assert calibration is not None
        assert least <= calibration.error <= most


def test_nothing_to_evaluate_is_an_error() -> None:
    with pytest.raises(ValueError, match="no documents"):
        evaluate([], [])
    with pytest.raises(ValueError, match="2 documents, 1 predictions"):
        evaluate(["a", "b"], ["a"])
