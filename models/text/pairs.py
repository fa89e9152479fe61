"""Pairs of pieces of text, of which a model is to tell whether the second follows on the first.

Devlin et al. 2019, appendix A.2: sentences of a document are gathered until an input is full, and
parted into two pieces; for one half of the pairs, the second piece is of another document.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np

from models.text.tokenized import TokenizedCorpus

SecondPiece = Literal["next", "order"]
"""`next`: of another document in one half of the pairs, as BERT; `order`: the first and the second
piece change places in one half of the pairs, as ALBERT (Lan et al. 2020, section 3.1)."""

SHORT = 0.1
"""Share of the inputs that are made shorter, since those to come will not all be long."""


class Pair(NamedTuple):
    """Two pieces of a corpus, as places among its tokens."""

    first: slice
    second: slice
    follows: bool


def pairs_of(
    corpus: TokenizedCorpus,
    document: int,
    random: np.random.Generator,
    *,
    room: int,
    second: SecondPiece = "next",
) -> Iterator[Pair]:
    """Part a document into pairs; what is drawn follows from `random` alone.

    Args:
        document: its number.
        room: most tokens of both pieces together, 2 or more.
    """
    here, end = int(corpus.documents[document]), int(corpus.documents[document + 1])
    while here < end:
        target = int(random.integers(2, room + 1)) if random.random() < SHORT else room
        full = _filled(corpus, here, end, target)
        middle = here + 1 if full - here < 2 else int(random.integers(here + 1, full))
        if second == "next" and (full - here < 2 or random.random() < 0.5) and len(corpus) > 1:
            first = _tokens(corpus, here, middle)
            other = _elsewhere(corpus, document, random, target - (first.stop - first.start))
            yield Pair(*_cut(first, other, room, random), follows=False)
            here = middle  # what the other document has taken the place of comes next
            continue
        first, rest = _tokens(corpus, here, middle), _tokens(corpus, middle, full)
        here = full
        if rest.start == rest.stop:
            # A single sentence: its halves.
            half = (first.start + first.stop) // 2
            first, rest = slice(first.start, half), slice(half, first.stop)
            if first.start == first.stop:
                continue
        first, rest = _cut(first, rest, room, random)
        if second == "order" and random.random() < 0.5:
            yield Pair(rest, first, follows=False)
        else:
            yield Pair(first, rest, follows=True)


def _filled(corpus: TokenizedCorpus, here: int, end: int, target: int) -> int:
    """The sentence before which so many tokens are reached, from a sentence on."""
    reached = np.searchsorted(corpus.sentences, corpus.sentences[here] + target)
    return min(max(int(reached), here + 1), end)


def _tokens(corpus: TokenizedCorpus, start: int, stop: int) -> slice:
    """The tokens of these sentences."""
    return slice(int(corpus.sentences[start]), int(corpus.sentences[stop]))


def _elsewhere(
    corpus: TokenizedCorpus, document: int, random: np.random.Generator, target: int
) -> slice:
    """Sentences of another document, from a random one on, of so many tokens or more."""
    other = int(random.integers(len(corpus) - 1))
    other += other >= document
    start, end = int(corpus.documents[other]), int(corpus.documents[other + 1])
    start = int(random.integers(start, end))
    return _tokens(corpus, start, _filled(corpus, start, end, max(1, target)))


def _cut(
    first: slice, second: slice, room: int, random: np.random.Generator
) -> tuple[slice, slice]:
    """Take tokens off the ends of the longer piece, at random, until both have room."""
    pieces = [[first.start, first.stop], [second.start, second.stop]]
    while (excess := sum(stop - start for start, stop in pieces) - room) > 0:
        lengths = [stop - start for start, stop in pieces]
        longer = int(lengths[1] > lengths[0])
        ahead = abs(lengths[0] - lengths[1])
        # All at once until they are as long as each other, and then what is left from both.
        cut = min(excess, ahead) if ahead else (excess + 1) // 2
        front = int(random.binomial(cut, 0.5))
        pieces[longer][0] += front
        pieces[longer][1] -= cut - front
    return slice(*pieces[0]), slice(*pieces[1])
