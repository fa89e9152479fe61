"""What can go wrong with a model.

::

    BertstreamError
    ├── ModelLoadError                a checkpoint that cannot be served
    ├── PoolClosed                    the inference pool stopped or crashed
    ├── CorpusError                   a file of documents that cannot be read or used
    └── InferenceError                one document that cannot be predicted
        ├── UnsupportedInput          unsupported_input
        ├── UnknownModel              unknown_model
        ├── DeadlineExceeded          deadline_exceeded
        ├── InferenceFailed           inference_failed   (retryable)
        └── OutOfMemory               out_of_memory      (retryable)
"""

from __future__ import annotations

from typing import ClassVar

MAX_QUOTED_CHARS = 100
MAX_ERROR_CHARS = 300
MAX_MESSAGE_CHARS = 1000
"""Whoever is told of an error is told no more, whatever a request or a library had to say."""


def shortened(text: str, most: int = MAX_QUOTED_CHARS) -> str:
    """The beginning of what somebody else said, to be quoted."""
    return text if len(text) <= most else f"{text[:most]}…"


def one_line(error: BaseException) -> str:
    """What an error of somebody else's says, in one line."""
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(said.split())[:MAX_ERROR_CHARS] or type(error).__name__


class BertstreamError(Exception):
    """Base of every error that bertstream raises on purpose."""


class ModelLoadError(BertstreamError):
    """The checkpoint cannot be read, is incomplete, or has a head that is not served."""


class CorpusError(BertstreamError):
    """A file of documents cannot be read, or cannot serve for training or evaluation."""


class PoolClosed(BertstreamError):
    """The inference pool is not running, or stopped or crashed before it had an outcome."""


class InferenceError(BertstreamError):
    """A document that cannot be predicted; `code` is what its sender sees."""

    code: ClassVar[str] = "inference_failed"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str = "") -> None:
        super().__init__(shortened(message, MAX_MESSAGE_CHARS))


class UnsupportedInput(InferenceError):
    """The model cannot take this kind of document, such as a pair for a single-text model."""

    code = "unsupported_input"


class UnknownModel(InferenceError):
    """No model is served under the name that the request asks for."""

    code = "unknown_model"


class DeadlineExceeded(InferenceError):
    """The document's deadline had passed when its device batch was formed."""

    code = "deadline_exceeded"


class InferenceFailed(InferenceError):
    """The model failed on this document alone."""

    code = "inference_failed"
    retryable = True


class OutOfMemory(InferenceError):
    """The device had no memory for this document alone."""

    code = "out_of_memory"
    retryable = True
