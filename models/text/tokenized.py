"""A corpus as token ids on the disk, sentence by sentence: of any size, and in no memory.

Three files of whole numbers, one after the other: `tokens.bin` (uint32 ids of all sentences),
`sentences.bin` (int64 number of tokens up to the end of each sentence) and `documents.bin` (int64
number of sentences up to the end of each document).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

TOKENS, SENTENCES, DOCUMENTS = "tokens.bin", "sentences.bin", "documents.bin"


@dataclass(frozen=True, slots=True)
class TokenizedCorpus:
    """Documents of sentences of tokens, numbered from 0."""

    tokens: NDArray[np.uint32]
    """(n_tokens,)."""
    sentences: NDArray[np.int64]
    """(n_sentences + 1,): where each begins among the tokens, and where the last one ends."""
    documents: NDArray[np.int64]
    """(n_documents + 1,): where each begins among the sentences, and where the last one ends."""

    def __len__(self) -> int:
        """Documents."""
        return len(self.documents) - 1

    @classmethod
    def open(cls, folder: Path) -> TokenizedCorpus:
        """Map the files of a folder into memory; they are read as they are looked at.

        Raises:
            OSError: a file is missing.
        """
        return cls(
            _mapped(folder / TOKENS, np.uint32),
            np.concatenate([[0], np.fromfile(folder / SENTENCES, np.int64)]),
            np.concatenate([[0], np.fromfile(folder / DOCUMENTS, np.int64)]),
        )


class TokenizedWriter:
    """Writes documents as they come; a context, behind whose end the corpus can be opened.

    Args:
        folder: is made where it is missing; what it holds of another corpus is written over.

    Raises:
        OSError: the disk refuses.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        names = (TOKENS, SENTENCES, DOCUMENTS)
        self._tokens, self._sentences, self._ends = ((folder / name).open("wb") for name in names)
        self._n_tokens = self._n_sentences = 0

    def __enter__(self) -> TokenizedWriter:
        return self

    def __exit__(self, *_: object) -> None:
        for file in (self._tokens, self._sentences, self._ends):
            file.close()

    def add(self, document: Sequence[Sequence[int]]) -> None:
        """Write a document of sentences of token ids.

        Sentences without tokens are left out, and so are documents without sentences.
        """
        before = self._n_sentences
        for sentence in document:
            if sentence:
                self._tokens.write(np.asarray(sentence, np.uint32).tobytes())
                self._n_tokens += len(sentence)
                self._n_sentences += 1
                self._sentences.write(np.int64(self._n_tokens).tobytes())
        if self._n_sentences > before:
            self._ends.write(np.int64(self._n_sentences).tobytes())


def write_tokenized(folder: Path, documents: Iterable[Sequence[Sequence[int]]]) -> TokenizedCorpus:
    """Write documents, each of sentences of token ids, and open them; see `TokenizedWriter`."""
    with TokenizedWriter(folder) as writer:
        for document in documents:
            writer.add(document)
    return TokenizedCorpus.open(folder)


def _mapped(file: Path, dtype: Any) -> NDArray[Any]:
    """The numbers of a file; an empty one cannot be mapped."""
    if file.stat().st_size == 0:
        return np.empty(0, dtype)
    return np.memmap(file, dtype, "r")
