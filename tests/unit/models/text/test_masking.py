"""What the model sees, and what it is to predict."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.text.masking import Masking

MASK, SPECIAL = 4, (0, 1, 2, 3, 4)
ORDINARY = np.arange(5, 1000)


def masking(**options: Any) -> Masking:
    return Masking(mask_id=MASK, ordinary=ORDINARY, **options)


def sentence(length: int, piece: int = 1) -> tuple[list[int], list[int | None]]:
    """Different tokens between two special ones, and the words that they are pieces of."""
    token_ids = [2, *range(5, length + 3), 3]
    return token_ids, [None, *(place // piece for place in range(length - 2)), None]


def test_targets_are_what_stood_there_before() -> None:
    token_ids, words = sentence(400)
    masked = masking(most=400).mask(token_ids, words, np.random.default_rng(0))
    assert masked.targets.tolist() == [token_ids[place] for place in masked.positions]
    assert MASK not in masked.targets
    assert MASK in masked.token_ids


@given(st.integers(0, 10_000), st.integers(1, 60), st.booleans())
def test_whatever_is_drawn(seed: int, length: int, whole_words: bool) -> None:
    token_ids, words = sentence(length + 2, piece=2)
    before = list(token_ids)
    random = np.random.default_rng(seed)
    masked = masking(whole_words=whole_words).mask(token_ids, words, random)
    assert token_ids == before
    assert masked.token_ids.shape == (length + 2,)
    positions = masked.positions.tolist()
    assert positions == sorted(set(positions))
    assert not {0, length + 1} & set(positions), "special tokens stay"
    others = np.setdiff1d(np.arange(length + 2), masked.positions)
    assert masked.token_ids[others].tolist() == [token_ids[place] for place in others]
    assert set(masked.token_ids[masked.positions]) <= {MASK, *ORDINARY.tolist()}
    if whole_words:
        chosen = {words[place] for place in positions}
        pieces = [place for place, word in enumerate(words) if word in chosen]
        assert positions == pieces
    else:
        assert len(positions) == min(length, max(1, round(0.15 * (length + 2))))


def test_shares_are_those_of_the_paper() -> None:
    token_ids, words = sentence(900)
    random = np.random.default_rng(0)
    hidden = exchanged = kept = 0
    for _ in range(100):
        masked = masking(most=900).mask(token_ids, words, random)
        assert len(masked.positions) == 135
        seen = masked.token_ids[masked.positions]
        hidden += int((seen == MASK).sum())
        kept += int((seen == masked.targets).sum())
        exchanged += int(((seen != MASK) & (seen != masked.targets)).sum())
    shares = np.array([hidden, exchanged, kept]) / 13_500
    assert shares == pytest.approx([0.8, 0.1, 0.1], abs=0.015)


def test_every_token_is_chosen_in_its_turn() -> None:
    token_ids, words = sentence(30)
    random = np.random.default_rng(0)
    counts = np.zeros(30)
    for _ in range(2000):
        counts[masking().mask(token_ids, words, random).positions] += 1
    assert counts[[0, -1]].tolist() == [0, 0]
    assert counts[1:-1].min() > 0.7 * counts[1:-1].max()


def test_the_same_random_state_gives_the_same() -> None:
    token_ids, words = sentence(50)
    first, again, other = (
        masking().mask(token_ids, words, np.random.default_rng([7, epoch])) for epoch in (1, 1, 2)
    )
    assert first.token_ids.tolist() == again.token_ids.tolist()
    assert first.positions.tolist() != other.positions.tolist()


def test_an_input_of_special_tokens_has_nothing_to_predict() -> None:
    masked = masking().mask([2, 3], [None, None], np.random.default_rng(0))
    assert len(masked.positions) == len(masked.targets) == 0
    assert masked.token_ids.tolist() == [2, 3]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"share": 0.0}, "share of tokens to predict"),
        ({"most": 0}, "one token or more"),
        ({"hidden": 0.9, "exchanged": 0.2}, "no shares"),
        ({"ordinary": np.array([], np.int64)}, "special tokens alone"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Masking(**{"mask_id": MASK, "ordinary": ORDINARY, **options})
