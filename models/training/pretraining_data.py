"""What a model is pretrained on: pairs of pieces of text with masked tokens, anew each epoch.

All of it follows from a seed, the epoch and the document, so that a run that goes on after it was
stopped, or on several processes, sees what an undisturbed one would have seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from models.text.masking import Masked, Masking
from models.text.pairs import Pair, SecondPiece, pairs_of
from models.text.tokenized import TokenizedCorpus
from models.text.vocabulary import continues_word

SPECIAL_TOKENS = 3
"""`[CLS]` before the first piece, and `[SEP]` behind each."""
IGNORED = -100
"""Target of a place that is not to be predicted, as torch has it."""
PAIRS, MASKS, ORDER = range(3)
"""What random numbers are for: each has a stream of its own."""


@dataclass(frozen=True, slots=True)
class Example:
    """One pair of an epoch."""

    epoch: int
    document: int
    number: int
    """Of the pair in its document, from 0."""
    pair: Pair


@dataclass(frozen=True, slots=True)
class Batch:
    """Examples as a model takes them, padded to the longest."""

    token_ids: Tensor
    """(batch, length)."""
    type_ids: Tensor
    """(batch, length): 0 in the first piece, 1 in the second."""
    input_mask: Tensor
    """(batch, length): 1 for tokens, 0 for padding."""
    masked_positions: Tensor
    """(batch, masked); 0 where an example has fewer."""
    targets: Tensor
    """(batch, masked) token ids; `IGNORED` where an example has fewer."""
    not_next: Tensor
    """(batch,): 0 where the second piece follows on the first, 1 where it does not."""

    def to(self, device: torch.device) -> Batch:
        """A copy on a device."""
        return Batch(*(getattr(self, name).to(device) for name in Batch.__dataclass_fields__))

    @property
    def tokens(self) -> int:
        """Tokens without padding."""
        return int(self.input_mask.sum())

    @property
    def masked(self) -> int:
        """Tokens to predict."""
        return int((self.targets != IGNORED).sum())


class PretrainingData:
    """The examples of a corpus.

    Args:
        tokenizer: with BERT's special tokens, whose ids the corpus has.
        length: most tokens of an input, special tokens included.
        share: of the tokens that is predicted.

    Raises:
        ValueError: the length has no room for two pieces, or the tokenizer lacks a special token.
    """

    def __init__(
        self,
        corpus: TokenizedCorpus,
        tokenizer: PreTrainedTokenizerFast,
        *,
        length: int,
        seed: int,
        second: SecondPiece = "next",
        share: float = 0.15,
        whole_words: bool = False,
    ) -> None:
        if length < SPECIAL_TOKENS + 2:
            raise ValueError(f"{length} tokens have no room for two pieces of text")
        needed = ("cls_token_id", "sep_token_id", "mask_token_id", "pad_token_id")
        for name in needed:
            if getattr(tokenizer, name) is None:
                raise ValueError(f"the tokenizer has no {name.removesuffix('_id')}")
        self.corpus = corpus
        self.seed = seed
        self._room = length - SPECIAL_TOKENS
        self._second: SecondPiece = second
        self._first_id, self._last_id = tokenizer.cls_token_id, tokenizer.sep_token_id
        self._pad_id = tokenizer.pad_token_id
        special = set(tokenizer.all_special_ids)
        ordinary = [number for number in range(len(tokenizer)) if number not in special]
        self._masking = Masking(
            mask_id=tokenizer.mask_token_id,
            ordinary=np.array(ordinary, np.int64),
            share=share,
            whole_words=whole_words,
        )
        self._begins = ~np.array(continues_word(tokenizer))  # (vocabulary,)

    def examples(self, epoch: int = 0, position: int = 0) -> Iterator[Example]:
        """The examples of an epoch and of those behind it, without end.

        Args:
            position: how many of the first epoch's are passed over.

        Raises:
            ValueError: the corpus has none.
        """
        while True:
            rows = self._rows(epoch)
            if not len(rows):
                raise ValueError("the documents have no two tokens one after the other")
            for row in self._random(ORDER, epoch).permutation(len(rows))[position:]:
                yield _example(epoch, rows[row])
            epoch, position = epoch + 1, 0

    def count(self, epoch: int = 0) -> int:
        """Examples of an epoch."""
        return len(self._rows(epoch))

    def some(self, most: int) -> list[Example]:
        """The first examples of the first epoch; fewer where it has no more."""
        return list(islice(self.examples(), min(most, self.count()))) if self.count() else []

    def batch(self, examples: Sequence[Example]) -> Batch:
        """Examples with their masks, as tensors on the CPU."""
        masked = [self._masked(example) for example in examples]
        length = max(len(one.token_ids) for one in masked)
        most = max(1, *(len(one.positions) for one in masked))
        token_ids = np.full((len(examples), length), self._pad_id, np.int64)
        type_ids = np.zeros_like(token_ids)
        input_mask = np.zeros_like(token_ids)
        positions = np.zeros((len(examples), most), np.int64)
        targets = np.full_like(positions, IGNORED)
        for row, (example, one) in enumerate(zip(examples, masked, strict=True)):
            tokens, predicted = len(one.token_ids), len(one.positions)
            token_ids[row, :tokens] = one.token_ids
            second = example.pair.second
            type_ids[row, tokens - 1 - (second.stop - second.start) : tokens] = 1
            input_mask[row, :tokens] = 1
            positions[row, :predicted] = one.positions
            targets[row, :predicted] = one.targets
        not_next = np.array([not example.pair.follows for example in examples], np.int64)
        arrays = (token_ids, type_ids, input_mask, positions, targets, not_next)
        return Batch(*map(torch.from_numpy, arrays))

    def _rows(self, epoch: int) -> NDArray[np.int64]:
        """The examples of an epoch in the order of their documents, (n, 7); see `_example`."""
        numbers = (
            number
            for document in range(len(self.corpus))
            for place, pair in enumerate(self._pairs(epoch, document))
            for number in (document, place, *_bounds(pair), pair.follows)
        )
        return np.fromiter(numbers, np.int64).reshape(-1, 7)

    def _pairs(self, epoch: int, document: int) -> Iterator[Pair]:
        random = self._random(PAIRS, epoch, document)
        return pairs_of(self.corpus, document, random, room=self._room, second=self._second)

    def _masked(self, example: Example) -> Masked:
        first, second = (
            self.corpus.tokens[piece].astype(np.int64)
            for piece in (example.pair.first, example.pair.second)
        )
        token_ids = np.concatenate(
            [[self._first_id], first, [self._last_id], second, [self._last_id]]
        )
        ends = {0, len(first) + 1, len(token_ids) - 1}
        # A piece that was cut within a word begins with the rest of one.
        numbers = np.cumsum(self._begins[token_ids])
        words = [None if place in ends else int(word) for place, word in enumerate(numbers)]
        random = self._random(MASKS, example.epoch, example.document, example.number)
        return self._masking.mask(token_ids, words, random)

    def _random(self, *names: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, *names])


def _bounds(pair: Pair) -> tuple[int, int, int, int]:
    return pair.first.start, pair.first.stop, pair.second.start, pair.second.stop


def _example(epoch: int, row: NDArray[np.int64]) -> Example:
    document, number, *bounds, follows = row.tolist()
    return Example(
        epoch, document, number, Pair(slice(*bounds[:2]), slice(*bounds[2:]), bool(follows))
    )


def share_of_commonest(targets: NDArray[np.int64], corpus: TokenizedCorpus) -> float:
    """Share of the targets that is right who always guesses the corpus's commonest token."""
    commonest = np.bincount(corpus.tokens).argmax()
    return float((targets == commonest).mean())
