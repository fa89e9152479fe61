"""What goes into a model and what comes out of it."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Literal

import msgspec

Aggregation = Literal["mean", "max", "first"]
"""How the segments of a long document become one prediction."""


class Task(StrEnum):
    """What a prediction answers; the values are those of the wire."""

    TEXT_CLASSIFICATION = "text-classification"
    """One of several labels, or the probability of a single one."""
    MULTI_LABEL_CLASSIFICATION = "multi-label-classification"
    """Any number of labels."""
    REGRESSION = "regression"
    """A number."""
    EMBEDDING = "embedding"
    """A vector."""
    SENTENCE_PAIR = "sentence-pair"
    """What a classifier or regressor says of two texts."""


class Document(msgspec.Struct, frozen=True):
    """A text to predict, or a pair of texts."""

    text: str
    text_pair: str | None = None
    top_k: int | None = None
    """Most labels in `scores`; None: all, at most 10."""
    model: str | None = None
    """Name in the registry; None: the default model."""
    deadline: float | None = None
    """Unix time in seconds; judged when a device batch is formed."""


class Segment(msgspec.Struct, frozen=True):
    """A stretch of a document that fits the model's window, special tokens included."""

    token_ids: Sequence[int]
    type_ids: Sequence[int] | None
    """Token type of each token; None: all zero."""
    weight: int
    """Tokens of the document itself, without special tokens, prompt and second text."""

    def __len__(self) -> int:
        """Tokens that the device computes."""
        return len(self.token_ids)


class EncodedDocument(msgspec.Struct, frozen=True):
    """A document as the device takes it."""

    document: Document
    segments: tuple[Segment, ...]
    """At least one; neighbours overlap."""
    tokens: int
    """Tokens of the document without special tokens, each counted once."""


class Prediction(msgspec.Struct, frozen=True):
    """What a model says of a document; which fields are set depends on the task."""

    model: str
    """Name in the registry."""
    model_version: str
    """First 12 hex digits of SHA-256 over weights, configuration and tokenizer."""
    task: str
    label: str | None
    """The most probable label."""
    score: float | None
    """Probability of `label`, or the number that a regressor gives."""
    scores: dict[str, float] | None
    """Probability by label, highest first."""
    labels: list[str] | None
    """Labels above the checkpoint's threshold, highest first (multi-label only)."""
    embedding: list[float] | None
    segments: int
    """Segments that were predicted."""
    tokens: int
    inference_ms: float
    """Time of the device batch that held the last segment, encoding excluded."""
