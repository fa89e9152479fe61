"""Tokens to predict: chosen anew each time, and mostly hidden from the model.

Devlin et al. 2019, section 3.1 and appendix A.1: 15 % of the tokens are predicted; of these 80 %
are replaced by `[MASK]`, 10 % by a random token, and 10 % stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Masked:
    """One input as the model sees it, and what it is to predict."""

    token_ids: NDArray[np.int64]
    """(length,)."""
    positions: NDArray[np.int64]
    """(masked,), ascending."""
    targets: NDArray[np.int64]
    """(masked,) token ids that stood there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Masking:
    """How tokens are chosen and replaced.

    Raises:
        ValueError: a share is not one, or there is nothing to draw from.
    """

    mask_id: int
    """Token id of `[MASK]`."""
    ordinary: NDArray[np.int64]
    """Token ids that may stand in for another: all but the special ones."""
    share: float = 0.15
    """Of the tokens of an input, special ones included, that is predicted; at least one is."""
    most: int = 80
    """Most tokens of an input that are predicted."""
    hidden: float = 0.8
    """Share of those that becomes `[MASK]`."""
    exchanged: float = 0.1
    """Share of those that becomes a random token."""
    whole_words: bool = False
    """Whether all pieces of a word are chosen, or none."""

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(
                f"the share of tokens to predict is above 0 and at most 1, not {self.share}"
            )
        if self.most < 1:
            raise ValueError(f"one token or more is predicted, not {self.most}")
        if min(self.hidden, self.exchanged) < 0 or self.hidden + self.exchanged > 1:
            raise ValueError(
                f"{self.hidden} of the tokens hidden and {self.exchanged} exchanged are no shares"
            )
        if not len(self.ordinary):
            raise ValueError("the vocabulary has special tokens alone")

    def mask(
        self,
        token_ids: Sequence[int] | NDArray[np.int64],
        words: Sequence[int | None],
        random: np.random.Generator,
    ) -> Masked:
        """Choose tokens of an input and replace them.

        Args:
            token_ids: (length,).
            words: the word that each token is a piece of; None for special tokens, which are never
                chosen. Neighbouring words have different numbers.
            random: what is chosen follows from it alone.
        """
        token_ids = np.array(token_ids, np.int64)  # a copy
        positions = self._choose(words, len(token_ids), random)
        targets = token_ids[positions]
        lots = random.random(len(positions))
        strangers = random.choice(self.ordinary, len(positions))
        seen = np.where(lots < self.hidden + self.exchanged, strangers, targets)
        token_ids[positions] = np.where(lots < self.hidden, self.mask_id, seen)
        return Masked(token_ids, positions, targets)

    def _choose(
        self, words: Sequence[int | None], length: int, random: np.random.Generator
    ) -> NDArray[np.int64]:
        """Positions to predict, ascending."""
        count = min(self.most, max(1, round(self.share * length)))
        groups = list(_words(words) if self.whole_words else _tokens(words))
        chosen: list[int] = []
        for number in random.permutation(len(groups)):
            group = groups[number]
            if len(chosen) + len(group) <= count:
                chosen += group
            if len(chosen) == count:
                break
        return np.sort(np.array(chosen, np.int64))


def _tokens(words: Sequence[int | None]) -> Iterable[list[int]]:
    return ([place] for place, word in enumerate(words) if word is not None)


def _words(words: Sequence[int | None]) -> Iterable[list[int]]:
    for word, places in groupby(range(len(words)), key=words.__getitem__):
        if word is not None:
            yield list(places)
