"""Labelled documents as the segments that a model sees of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.errors import CorpusError, InferenceError
from models.inference.batching import pack
from models.inference.engine import Engine
from models.inference.tasks import Document, EncodedDocument, Segment
from models.training.labelled import LabelledCorpus

CHUNK_DOCUMENTS = 256
MAX_ROWS = 64
MAX_TOKENS = 8192
"""Of a device batch, padding included."""


@dataclass(frozen=True, slots=True)
class Parts:
    """Which document each segment is of; the documents are numbered from 0."""

    owners: Tensor
    """(n_segments,) number of the document that each segment belongs to, ascending."""
    shares: Tensor
    """(n_segments,) share of the segment in its document, by tokens; a document's sum is 1."""

    def __len__(self) -> int:
        """Documents."""
        return int(self.owners[-1]) + 1 if len(self.owners) else 0

    def select(self, documents: Tensor) -> tuple[Parts, Tensor]:
        """Keep the documents of these numbers (n,), ascending; they are numbered anew.

        Returns:
            Their parts, and the numbers of their segments.
        """
        place = torch.full((len(self),), -1)
        place[documents] = torch.arange(len(documents))
        owners = place[self.owners]
        kept = (owners >= 0).nonzero().squeeze(1)
        return Parts(owners[kept], self.shares[kept]), kept

    def average(self, logits: Tensor) -> Tensor:
        """Segments (n_segments, n_labels) to documents (n_documents, n_labels), as in serving.

        The mean by share: of logits, that of the log-probabilities but for a constant.
        """
        mean = logits.new_zeros(len(self), logits.shape[1])
        return mean.index_add_(0, self.owners, logits * self.shares.unsqueeze(1))

    @classmethod
    def whole(cls, n_documents: int) -> Parts:
        """Documents of one part each."""
        return cls(torch.arange(n_documents), torch.ones(n_documents))


@dataclass(frozen=True, slots=True)
class SegmentedCorpus:
    """Documents as token ids."""

    segments: tuple[Segment, ...]
    parts: Parts

    def select(self, documents: Tensor) -> SegmentedCorpus:
        """Keep the documents of these numbers (n,), ascending; they are numbered anew."""
        parts, kept = self.parts.select(documents)
        return SegmentedCorpus(tuple(self.segments[number] for number in kept.tolist()), parts)

    def documents(self) -> list[tuple[Segment, ...]]:
        """The segments of each document."""
        documents: list[list[Segment]] = [[] for _ in range(len(self.parts))]
        for segment, owner in zip(self.segments, self.parts.owners.tolist(), strict=True):
            documents[owner].append(segment)
        return [tuple(segments) for segments in documents]


def segment_corpus(engine: Engine, corpus: LabelledCorpus) -> SegmentedCorpus:
    """Tokenize documents, and split those that are longer than the model's window.

    Raises:
        CorpusError: the model cannot take a document; names its line.
    """
    segments: list[Segment] = []
    owners: list[int] = []
    shares: list[float] = []
    for start in range(0, len(corpus.documents), CHUNK_DOCUMENTS):
        encoded = _encode(engine, corpus, start, start + CHUNK_DOCUMENTS)
        for owner, document in enumerate(encoded, start):
            whole = sum(segment.weight for segment in document.segments)
            segments += document.segments
            owners += [owner] * len(document.segments)
            shares += [segment.weight / whole if whole else 1.0 for segment in document.segments]
    return SegmentedCorpus(tuple(segments), Parts(torch.tensor(owners), torch.tensor(shares)))


def forward_all(
    forward: Callable[[list[Segment]], Tensor],
    segments: Sequence[Segment],
    advance: Callable[[int], None] = lambda _: None,
) -> Tensor:
    """Compute segments in batches of similar length.

    Args:
        forward: takes the segments of a batch; gives their rows (n, width).
        advance: called with the number of segments that have been computed since.

    Returns:
        All rows (n_segments, width) on the CPU, in the order of the segments.
    """
    batches = pack([len(s) for s in segments], max_rows=MAX_ROWS, max_tokens=MAX_TOKENS)
    rows = []
    for batch in batches:
        rows.append(forward([segments[number] for number in batch]).cpu())
        advance(len(batch))
    order = torch.tensor([number for batch in batches for number in batch])
    return torch.cat(rows)[order.argsort()]


def _encode(engine: Engine, corpus: LabelledCorpus, start: int, stop: int) -> list[EncodedDocument]:
    documents = corpus.documents[start:stop]
    encoded = []
    outcomes = engine.encode([Document(d.text, d.text_pair) for d in documents])
    for document, outcome in zip(documents, outcomes, strict=True):
        if isinstance(outcome, InferenceError):
            raise CorpusError(f"{corpus.path}, line {document.line}: {outcome}")
        encoded.append(outcome)
    return encoded
