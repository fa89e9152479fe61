"""Documents to two tokenized corpora: one to learn from, and one that is held out."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from models.text.sentences import split_sentences
from models.text.tokenized import TokenizedCorpus, TokenizedWriter

CHUNK = 512
"""Documents that are tokenized together, in parallel."""
NAMES = ("training", "held-out")
"""Folders of the two corpora."""


def prepare(
    folder: Path,
    texts: Iterable[str],
    tokenizer: PreTrainedTokenizerFast,
    *,
    held_out: float = 0.05,
    language: str = "en",
    seed: int = 0,
    advance: Callable[[int], None] = lambda _: None,
) -> tuple[TokenizedCorpus, TokenizedCorpus]:
    """Split texts into sentences of tokens, and the documents into two corpora, as they are read.

    Args:
        folder: for the corpora.
        held_out: share of the documents, drawn at random, that is not to be learned from.
        language: of the texts; see `split_sentences`.
        advance: is called with the number of documents that were read since.

    Returns:
        What is to be learned from, and what is held out.

    Raises:
        OSError: the disk refuses.
        CorpusError: whatever reading the texts raises.
    """
    lots = random.Random(seed)
    known, other = (TokenizedWriter(folder / name) for name in NAMES)
    with known as learned, other as withheld:
        for chunk in _chunks(texts):
            for document in _tokenized(chunk, tokenizer, language):
                (withheld if lots.random() < held_out else learned).add(document)
            advance(len(chunk))
    return open_prepared(folder)


def open_prepared(folder: Path) -> tuple[TokenizedCorpus, TokenizedCorpus]:
    """Open what `prepare` has left in a folder.

    Raises:
        OSError: a file is missing.
    """
    known, other = (TokenizedCorpus.open(folder / name) for name in NAMES)
    return known, other


def _chunks(texts: Iterable[str]) -> Iterator[list[str]]:
    texts = iter(texts)
    while chunk := list(islice(texts, CHUNK)):
        yield chunk


def _tokenized(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerFast, language: str
) -> Iterator[list[list[int]]]:
    """The token ids of each sentence of each text."""
    sentences = [split_sentences(text, language) for text in texts]
    encodings = iter(
        tokenizer.backend_tokenizer.encode_batch(
            list(chain.from_iterable(sentences)), add_special_tokens=False
        )
    )
    for document in sentences:
        yield [next(encodings).ids for _ in document]
