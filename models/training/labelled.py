"""Documents that all have a label, to learn from or to measure on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.errors import CorpusError
from models.text.corpora import LabelledDocument, file_facts, read_documents


@dataclass(frozen=True, slots=True)
class LabelledCorpus:
    """The documents of one file, and their labels in the same order."""

    path: Path
    documents: tuple[LabelledDocument, ...]
    labels: tuple[str, ...]

    @classmethod
    def read(cls, path: Path) -> LabelledCorpus:
        """Read a file.

        Raises:
            CorpusError: it cannot be read or is empty, or a document has no text or no label.
        """
        documents: list[LabelledDocument] = []
        labels: list[str] = []
        for document in read_documents(path):
            if not document.text.strip():
                raise CorpusError(f"{path}, line {document.line}: the text is empty")
            if document.label is None:
                raise CorpusError(
                    f"{path}, line {document.line}: no `label`; every document needs one here, "
                    "in a .jsonl, .csv, .tsv or .parquet file"
                )
            documents.append(document)
            labels.append(document.label)
        if not documents:
            raise CorpusError(f"{path}: no documents")
        return cls(path, tuple(documents), tuple(labels))

    @property
    def classes(self) -> tuple[str, ...]:
        """The labels that occur, sorted."""
        return tuple(sorted(set(self.labels)))

    def require(self, known: Collection[str]) -> None:
        """Check that every label is one that a classifier knows.

        Raises:
            CorpusError: one is not; names its line.
        """
        for document, label in zip(self.documents, self.labels, strict=True):
            if label not in known:
                raise CorpusError(
                    f"{self.path}, line {document.line}: the classifier has no label {label!r}, "
                    f"only {', '.join(known)}"
                )

    def require_several(self) -> None:
        """Check that there is something to learn.

        Raises:
            CorpusError: one label only, or no label with two documents.
        """
        counts = Counter(self.labels)
        if len(counts) < 2:
            raise CorpusError(
                f"{self.path}: all documents have the label {self.labels[0]!r}; "
                "a classifier needs two labels or more"
            )
        if max(counts.values()) < 2:
            raise CorpusError(
                f"{self.path}: no two documents have the same label; give several of each"
            )

    def describe(self) -> dict[str, Any]:
        """Name, hash and sizes, for the record of a training."""
        return {
            **file_facts(self.path),
            "documents": len(self.documents),
            "labels": dict(sorted(Counter(self.labels).items())),
        }
