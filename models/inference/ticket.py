"""A document on its way through the pool, and those whom the pool deals with on that way."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from models.errors import InferenceError, InferenceFailed, OutOfMemory
from models.inference.device import is_out_of_memory
from models.inference.tasks import Document, EncodedDocument, Prediction, Segment

LARGE_BYTES = 16 * 1024
"""UTF-8 bytes of text from which a document counts as large: dozens of segments."""

Outcome = Prediction | Exception
"""What becomes of a document."""
Answer = tuple["Ticket", Outcome]


class Engine(Protocol):
    """A model, as the pool uses it; its methods run in different threads at once.

    `models.inference.engine.Engine` is one.
    """

    name: str
    padding_free: bool
    """Whether a device batch costs its tokens alone, and no padding."""

    def encode(self, documents: Sequence[Document]) -> Sequence[EncodedDocument | InferenceError]:
        """One for each document, in order."""

    def forward(self, segments: Sequence[Segment], device: torch.device) -> Tensor:
        """Outputs (n_segments, width) on the device, which may still be computing them."""

    def decode(self, encoded: EncodedDocument, rows: Tensor, inference_ms: float) -> Prediction:
        """What the outputs (n_segments, width) of one document's segments mean."""


class Sink(Protocol):
    """Whoever waits for outcomes; called on the event loop."""

    def resolve(self, place: Place, outcome: Outcome) -> None:
        """Take the outcome of a place, if it is still waited for."""

    def fail(self, error: Exception) -> None:
        """Take note that no outcome will come any more."""

    def drop(self, unwanted: Callable[[Any], bool]) -> list[Place]:
        """Wait no more for items that are not wanted; returns their places."""


@dataclass(eq=False, slots=True)
class Place:
    """A place in the pool, taken before the document enters, left when its outcome is taken."""

    sink: Sink
    item: Any
    """What the sink knows the document by."""
    text_bytes: int
    """UTF-8 bytes of its texts."""


@dataclass(eq=False, slots=True)
class Refused(Place):
    """The place of something that cannot be predicted."""

    error: Exception


@dataclass(eq=False, slots=True)
class Ticket(Place):
    """The place of a document on its way through the pool."""

    document: Document
    engine: Engine
    encoded: EncodedDocument | None = None
    rows: list[Row] = field(default_factory=list)
    missing: int = 0
    """Rows whose output is still to come."""
    waiting_since: float = 0.0
    """Monotonic time at which it was encoded."""
    over: bool = False
    """Answered or given up: what of it still waits is not computed."""

    @property
    def large(self) -> bool:
        """Whether the document has dozens of segments."""
        return self.text_bytes >= LARGE_BYTES

    @property
    def late(self) -> bool:
        """Whether its deadline has passed."""
        deadline = self.document.deadline
        return deadline is not None and deadline <= time.time()

    @property
    def waits(self) -> bool:
        """Whether some of it is still in the buffer."""
        return any(row.waits for row in self.rows)


@dataclass(eq=False, slots=True)
class Row:
    """A segment of a document: one row of a device batch."""

    ticket: Ticket
    segment: Segment
    waits: bool = True
    """Whether it is still in the buffer."""
    output: Tensor | None = None
    """What the device gave: logits or an embedding, of shape (1, width)."""

    def completes(self, output: Tensor) -> bool:
        """Keep the output; tell whether it was the last that its document lacked, and is wanted."""
        ticket = self.ticket
        # A copy where it has to wait: a view would keep the outputs of the whole batch.
        self.output = output if len(ticket.rows) == 1 else output.clone()
        ticket.missing -= 1
        return not (ticket.missing or ticket.over)


def failure(error: Exception) -> InferenceError:
    """What a document is answered that failed with this error."""
    if isinstance(error, InferenceError):
        return error
    kind = OutOfMemory if is_out_of_memory(error) else InferenceFailed
    return kind(summary(error))


def summary(error: BaseException) -> str:
    """What went wrong, in one short line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
