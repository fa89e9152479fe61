"""A model without a network, whose every stage can fail or hang, and what its tests share."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from models.errors import InferenceError, UnknownModel, UnsupportedInput
from models.inference.pool import InferencePool
from models.inference.tasks import Document, EncodedDocument, Prediction, Segment

DEADLINE_S = 30.0
CPU = torch.device("cpu")


@dataclass
class WordCounter:
    """A model whose prediction is the sum of a text's words, which are numbers.

    `poison` makes the device fail, `oom` lets it run out of memory, `bug` ends its thread,
    `garbled` cannot be decoded; a text that begins with `!` cannot be encoded. `hang` keeps the
    device, `stall` the decoding, and a text that begins with `~` the encoding, until `released`.
    """

    name: str = "counter"
    window: int = 16
    padding_free: bool = False
    open: threading.Event = field(default_factory=threading.Event)
    """The device computes only while this is set."""
    failures: int = 0
    """Device batches that are still to fail, whatever is in them."""
    batches: list[int] = field(default_factory=list)
    """Segments of each device batch."""
    rectangles: list[int] = field(default_factory=list)
    """Tokens of each device batch, padding included."""
    released: threading.Event = field(default_factory=threading.Event)
    """Ends what hangs."""
    late_error: BaseException | None = None
    """What it raises then; None: it goes on."""
    hung: list[str] = field(default_factory=list)
    """Names of the threads that it kept."""

    def __post_init__(self) -> None:
        self.open.set()

    __hash__ = object.__hash__

    def encode(self, documents: Sequence[Document]) -> list[EncodedDocument | InferenceError]:
        return [self._encode(document) for document in documents]

    def _hang(self) -> None:
        self.hung.append(threading.current_thread().name)
        assert self.released.wait(DEADLINE_S)
        if self.late_error is not None:
            raise self.late_error

    def _encode(self, document: Document) -> EncodedDocument | InferenceError:
        if document.text.startswith("!!"):
            raise RuntimeError("the tokenizer stumbled")
        if document.text.startswith("~"):
            self._hang()
        if document.text.startswith("!"):
            return UnsupportedInput("not this")
        codes = {"poison": -1, "oom": -2, "bug": -3, "hang": -4, "garbled": 10**6, "stall": 10**9}
        words = [codes.get(word) or int(word) for word in document.text.lstrip("~").split()]
        segments = tuple(
            Segment(words[start : start + self.window], None, 1)
            for start in range(0, len(words), self.window)
        )
        return EncodedDocument(document, segments, len(words))

    def forward(self, segments: Sequence[Segment], device: torch.device) -> Tensor:
        assert self.open.wait(DEADLINE_S)
        self.batches.append(len(segments))
        self.rectangles.append(len(segments) * max(map(len, segments)))
        words = {word for segment in segments for word in segment.token_ids}
        if self.failures:
            self.failures -= 1
            raise RuntimeError("a bad moment")
        if -1 in words:
            raise RuntimeError("poisoned")
        if -2 in words:
            raise torch.OutOfMemoryError("no room on the device")
        if -3 in words:
            raise SystemExit(3)
        if -4 in words:
            self._hang()
        return torch.tensor([[float(sum(segment.token_ids))] for segment in segments])

    def decode(self, encoded: EncodedDocument, rows: Tensor, inference_ms: float) -> Prediction:
        assert rows.shape == (len(encoded.segments), 1)
        total = rows.sum().item()
        if total >= 10**9:
            self._hang()
        elif total >= 10**6:
            raise ValueError("garbled")
        return Prediction(
            model=self.name,
            model_version="0",
            task="regression",
            label=None,
            score=total,
            scores=None,
            labels=None,
            embedding=None,
            segments=len(encoded.segments),
            tokens=encoded.tokens,
            inference_ms=inference_ms,
        )


class Models:
    """Word counters by name, the first being the default."""

    devices = (CPU,)

    def __init__(self, *engines: WordCounter) -> None:
        self.engines = {engine.name: engine for engine in engines}

    def engine(self, name: str | None = None) -> WordCounter:
        try:
            return self.engines[name or next(iter(self.engines))]
        except KeyError:
            raise UnknownModel(f"no {name}") from None


async def until(condition: Callable[[], bool]) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "it never came to be"
        await asyncio.sleep(0.002)


async def stream(*batches: Sequence[str]) -> AsyncIterator[Sequence[str]]:
    for batch in batches:
        yield batch


async def collect(
    pool: InferencePool, *batches: Sequence[str]
) -> dict[str, Prediction | Exception]:
    found: dict[str, Prediction | Exception] = {}
    async for outcomes in pool.map(stream(*batches), Document):
        for text, outcome in outcomes:
            assert text not in found
            found[text] = outcome
    return found


def score(outcome: Prediction | Exception) -> float | None:
    assert isinstance(outcome, Prediction), outcome
    return outcome.score


def is_empty(pool: InferencePool) -> bool:
    state = pool.state()
    return not (state["documents"] or state["tokens"] or state["batches_in_flight"])


def pool_threads() -> list[str]:
    prefixes = ("encode-", "compute-", "decode-")
    return [t.name for t in threading.enumerate() if t.name.startswith(prefixes)]
