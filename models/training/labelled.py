"""Documents that all have a label, or labels, to learn from or to measure on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from models.errors import CorpusError
from models.text.augmentation import Copy
from models.text.corpora import LabelledDocument, file_facts, read_documents

Labels = tuple[str, ...]
"""Of one document."""


@dataclass(frozen=True, slots=True)
class LabelledCorpus:
    """The documents of one file, and their labels in the same order."""

    path: Path
    documents: tuple[LabelledDocument, ...]
    labels: tuple[Labels, ...]
    """Of each document: its one label, or any number of them where it is `multi_label`."""
    file: Mapping[str, Any]
    """Name and hash, as it was when it was read."""
    multi_label: bool = False

    @classmethod
    def read(cls, path: Path) -> LabelledCorpus:
        """Read a file, whose documents have a `label` each, or `labels` each.

        Raises:
            CorpusError: it cannot be read or is empty, or a document has no text or no label, or
                its labels are not given as those of the first.
        """
        documents: list[LabelledDocument] = []
        labels: list[Labels] = []
        for document in read_documents(path):
            if not document.text.strip():
                raise CorpusError(f"{path}, line {document.line}: the text is empty")
            documents.append(document)
            labels.append(_labels(path, document, several=_several(documents[0])))
        if not documents:
            raise CorpusError(f"{path}: no documents")
        several = _several(documents[0])
        return cls(path, tuple(documents), tuple(labels), file_facts(path), several)

    @property
    def classes(self) -> tuple[str, ...]:
        """The labels that occur, sorted."""
        return tuple(sorted(set(chain(*self.labels))))

    def require(self, known: Collection[str]) -> None:
        """Check that every label is one that a classifier knows.

        Raises:
            CorpusError: one is not; names its line.
        """
        for document, label in (
            (document, label)
            for document, labels in zip(self.documents, self.labels, strict=True)
            for label in labels
        ):
            if label not in known:
                raise CorpusError(
                    f"{self.path}, line {document.line}: the classifier has no label {label!r}, "
                    f"only {', '.join(known)}"
                )

    def require_several(self) -> None:
        """Check that there is something to learn.

        Raises:
            CorpusError: one label only, or no label with two documents, or, of labels that exclude
                nothing, none that some documents have and others have not.
        """
        counts = Counter(chain(*self.labels))
        if self.multi_label:
            if not any(count < len(self.documents) for count in counts.values()):
                raise CorpusError(
                    f"{self.path}: all documents have the same labels; there is nothing to tell"
                )
        elif len(counts) < 2:
            raise CorpusError(
                f"{self.path}: all documents have the label {self.classes[0]!r}; "
                "a classifier needs two labels or more"
            )
        if max(counts.values()) < 2:
            raise CorpusError(
                f"{self.path}: no two documents have the same label; give several of each"
            )

    def with_copies(self, copies: Sequence[Copy]) -> LabelledCorpus:
        """The documents with copies behind them, which have all of their originals but the text."""
        documents = (replace(self.documents[copy.origin], text=copy.text) for copy in copies)
        labels = (self.labels[copy.origin] for copy in copies)
        return replace(
            self,
            documents=(*self.documents, *documents),
            labels=(*self.labels, *labels),
        )

    def describe(self) -> dict[str, Any]:
        """Name, hash and sizes, for the record of a training."""
        return {
            **self.file,
            "documents": len(self.documents),
            "labels": dict(sorted(Counter(chain(*self.labels)).items())),
        }


def _several(document: LabelledDocument) -> bool:
    """Whether its labels are given as those of one that may have any number."""
    return document.label is None and document.labels is not None


def _labels(path: Path, document: LabelledDocument, *, several: bool) -> Labels:
    """The labels of a document, which has a single one unless it may have several."""
    where = f"{path}, line {document.line}"
    if document.label is not None and document.labels:
        raise CorpusError(f"{where}: `label` and `labels`; give one of them")
    if several:
        if document.labels is None or document.label is not None:
            raise CorpusError(f"{where}: no `labels`, which the first document has")
        return document.labels
    if document.labels:
        raise CorpusError(f"{where}: `labels`, where the first document has a `label`")
    if document.label is None:
        raise CorpusError(
            f"{where}: no `label`; every document needs one here, in a .jsonl, .csv, .tsv or "
            ".parquet file"
        )
    return (document.label,)
