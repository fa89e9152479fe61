"""Two models on the same documents, held against SciPy and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.neighbors import NearestNeighbors

from models.training.compare import compare_embeddings, compare_predictions


@pytest.mark.parametrize(
    ("first", "second", "alone"),
    [
        ("aaaa", "aaaa", (0, 0)),
        ("aaab", "abbb", (2, 0)),
        ("aabb", "bbaa", (2, 2)),
        ("bbbb", "aaaa", (0, 4)),
    ],
)
def test_counts_who_was_right_alone(first: str, second: str, alone: tuple[int, int]) -> None:
    compared = compare_predictions("aaaa", first, second)
    assert (compared.only_first, compared.only_second) == alone
    assert compared.difference == pytest.approx((alone[0] - alone[1]) / 4)
    assert compared.low <= compared.difference <= compared.high
    expected = binomtest(alone[0], sum(alone)).pvalue if sum(alone) else 1.0
    assert compared.p_value == pytest.approx(expected)


@pytest.mark.parametrize(("only_first", "only_second"), [(3, 17), (40, 40), (700, 900)])
def test_p_is_that_of_the_sign_test(only_first: int, only_second: int) -> None:
    labels = ["a"] * 5000
    first, second = list(labels), list(labels)
    second[:only_first] = [None] * only_first
    first[-only_second:] = ["b"] * only_second
    compared = compare_predictions(labels, first, second)
    assert compared.p_value == pytest.approx(
        binomtest(only_first, only_first + only_second).pvalue, rel=1e-6
    )


def test_the_interval_covers_the_difference_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        right = random.random((300, 2)) < (0.85, 0.8)
        first, second = (["a" if hit else "b" for hit in column] for column in right.T)
        compared = compare_predictions(["a"] * 300, first, second)
        covered += compared.low <= 0.05 <= compared.high
    assert 0.92 <= covered / 400 <= 0.98


def test_rotated_and_scaled_embeddings_are_alike() -> None:
    random = np.random.default_rng(0)
    rows = random.normal(size=(700, 24)).astype(np.float32)
    rotation, _ = np.linalg.qr(random.normal(size=(24, 24)))
    turned = (3 * rows @ rotation).astype(np.float32)
    compared = compare_embeddings(rows, turned, neighbours=5)
    assert compared.cka == pytest.approx(1, abs=1e-6)
    assert compared.shared == pytest.approx(1, abs=0.01)
    assert compared.cosine is not None
    assert abs(compared.cosine) < 0.3
    assert compare_embeddings(rows, 2 * rows).cosine == pytest.approx(1)


def test_unrelated_embeddings_are_not() -> None:
    random = np.random.default_rng(0)
    one, other = (random.normal(size=(700, width)).astype(np.float32) for width in (8, 16))
    compared = compare_embeddings(one, other)
    assert compared.cosine is None
    assert compared.cka < 0.05
    assert compared.shared < 0.05
    # By the kernels themselves: HSIC of the centred Gram matrices.
    centre = np.eye(700) - 1 / 700
    grams = [centre @ (rows @ rows.T).astype(np.float64) @ centre for rows in (one, other)]
    hsic = np.sum(grams[0] * grams[1])
    expected = hsic / np.linalg.norm(grams[0]) / np.linalg.norm(grams[1])
    assert compared.cka == pytest.approx(expected, rel=1e-4)


def test_neighbours_are_those_of_scikit_learn() -> None:
    random = np.random.default_rng(0)
    labels = [str(number % 3) for number in range(600)]
    rows = [random.normal(size=(600, 12)).astype(np.float32) for _ in range(2)]
    rows[1] = rows[0] + rows[1]
    compared = compare_embeddings(*rows, labels, neighbours=7)
    found = [
        NearestNeighbors(n_neighbors=8, metric="cosine").fit(r).kneighbors(r, return_distance=False)
        for r in rows
    ]
    near = [[set(row) - {number} for number, row in enumerate(one.tolist())] for one in found]
    assert compared.shared == pytest.approx(
        np.mean([len(a & b) / 7 for a, b in zip(*near, strict=True)])
    )
    assert compared.same_label == pytest.approx(
        [
            np.mean([labels[n] == labels[i] for i, row in enumerate(one) for n in row])
            for one in near
        ]
    )


def test_too_few_documents_are_said() -> None:
    rows = np.ones((1, 4), np.float32)
    with pytest.raises(ValueError, match="two documents"):
        compare_embeddings(rows, rows)
    two = compare_embeddings(np.eye(2, dtype=np.float32), np.eye(2, dtype=np.float32))
    assert (two.neighbours, two.shared) == (1, 1.0)
