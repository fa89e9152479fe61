"""Packing keeps every row and its budgets."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from models.inference.batching import MOST_PADDING, pack


@given(
    lengths=st.lists(st.integers(1, 300)),
    max_rows=st.integers(1, 40),
    max_tokens=st.integers(1, 2000),
    padding_free=st.booleans(),
)
def test_every_row_is_in_one_batch_within_budget(
    lengths: list[int], max_rows: int, max_tokens: int, padding_free: bool
) -> None:
    batches = pack(lengths, max_rows=max_rows, max_tokens=max_tokens, padding_free=padding_free)
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    for batch in batches:
        assert 1 <= len(batch) <= max_rows
        longest = max(lengths[row] for row in batch)
        assert lengths[batch[0]] == longest
        tokens = sum(lengths[row] for row in batch) if padding_free else longest * len(batch)
        assert tokens <= max_tokens or len(batch) == 1
        assert longest * len(batch) <= MOST_PADDING * max_tokens or len(batch) == 1


def test_rows_of_similar_length_go_together() -> None:
    assert pack([5, 90, 6, 100], max_rows=10, max_tokens=200) == [[3, 1], [2, 0]]


def test_without_padding_rows_of_any_length_go_together() -> None:
    assert pack([5, 90, 6, 90], max_rows=10, max_tokens=200, padding_free=True) == [[1, 3, 2, 0]]


def test_a_row_beyond_the_budget_stands_alone() -> None:
    assert pack([500, 10, 10], max_rows=10, max_tokens=100) == [[0], [1, 2]]


def test_rows_of_one_length_keep_their_order() -> None:
    assert pack([7, 7, 7], max_rows=2, max_tokens=100) == [[0, 1], [2]]
