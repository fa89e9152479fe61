"""What a frozen encoder gives for documents, computed once and kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.errors import CorpusError, InferenceError
from models.inference.batching import pack
from models.inference.engine import Engine
from models.inference.tasks import Document, EncodedDocument
from models.training.labelled import LabelledCorpus

CHUNK_DOCUMENTS = 256
MAX_ROWS = 64
MAX_TOKENS = 8192
"""Of a device batch, padding included."""


@dataclass(frozen=True, slots=True)
class Features:
    """Pooled outputs of documents, segment by segment; the documents are numbered from 0."""

    rows: Tensor
    """(n_segments, d_model) in float32 on the CPU."""
    owners: Tensor
    """(n_segments,) number of the document that each segment belongs to, ascending."""
    shares: Tensor
    """(n_segments,) share of the segment in its document, by tokens; a document's sum is 1."""

    def __len__(self) -> int:
        """Documents."""
        return int(self.owners[-1]) + 1

    def select(self, documents: Tensor) -> Features:
        """Keep the documents of these numbers (n,), ascending; they are numbered anew."""
        place = torch.full((len(self),), -1)
        place[documents] = torch.arange(len(documents))
        owners = place[self.owners]
        kept = owners >= 0
        return Features(self.rows[kept], owners[kept], self.shares[kept])

    def aggregate(self, log_probs: Tensor) -> Tensor:
        """Segments (n_segments, n_labels) to documents (n_documents, n_labels), as in serving.

        The mean of the log-probabilities by share, renormalised.
        """
        total = log_probs.new_zeros(len(self), log_probs.shape[1])
        total.index_add_(0, self.owners, log_probs * self.shares.unsqueeze(1))
        return total.log_softmax(-1)


def encode_corpus(
    engine: Engine, corpus: LabelledCorpus, advance: Callable[[int], None] = lambda _: None
) -> Features:
    """Compute the features of documents with an engine that has no head.

    Args:
        advance: called with the number of documents that have been encoded since.

    Raises:
        CorpusError: the encoder cannot take a document; names its line.
    """
    rows: list[Tensor] = []
    owners: list[int] = []
    shares: list[float] = []
    for start in range(0, len(corpus.documents), CHUNK_DOCUMENTS):
        encoded = _encode(engine, corpus, start, start + CHUNK_DOCUMENTS)
        for owner, document in enumerate(encoded, start):
            whole = sum(segment.weight for segment in document.segments)
            owners += [owner] * len(document.segments)
            shares += [segment.weight / whole if whole else 1.0 for segment in document.segments]
        rows.append(_forward(engine, encoded))
        advance(len(encoded))
    return Features(torch.cat(rows), torch.tensor(owners), torch.tensor(shares))


def _encode(engine: Engine, corpus: LabelledCorpus, start: int, stop: int) -> list[EncodedDocument]:
    documents = corpus.documents[start:stop]
    encoded = []
    outcomes = engine.encode([Document(d.text, d.text_pair) for d in documents])
    for document, outcome in zip(documents, outcomes, strict=True):
        if isinstance(outcome, InferenceError):
            raise CorpusError(f"{corpus.path}, line {document.line}: {outcome}")
        encoded.append(outcome)
    return encoded


def _forward(engine: Engine, documents: Sequence[EncodedDocument]) -> Tensor:
    """The rows of all segments, in their order."""
    segments = [segment for document in documents for segment in document.segments]
    batches = pack([len(s) for s in segments], max_rows=MAX_ROWS, max_tokens=MAX_TOKENS)
    rows = torch.cat([engine.forward([segments[i] for i in batch]).cpu() for batch in batches])
    order = torch.tensor([i for batch in batches for i in batch])
    return rows[order.argsort()]
