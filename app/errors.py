"""What can go wrong, and what happens then.

::

    BertstreamError
    ├── SettingsError                 the program ends with exit code 2
    ├── BrokerError                   Kafka cannot be started or reached
    │   └── BrokerRefused             a worker ends, instead of waiting for its broker
    ├── ModelLoadError                (models.errors) the program ends
    ├── CorpusError                   (models.errors) the program ends
    ├── InferenceError                (models.errors) split, retried once, then answered
    └── RequestError                  answered and dead-lettered
        ├── Tombstone                 tombstone
        ├── InvalidEncoding           invalid_encoding
        ├── InvalidJSON               invalid_json
        ├── MissingField              missing_field
        ├── WrongType                 wrong_type
        ├── EmptyText                 empty_text
        └── TextTooLarge              text_too_large
"""

from __future__ import annotations

from typing import ClassVar

from models.errors import (
    BertstreamError,
    CorpusError,
    DeadlineExceeded,
    InferenceError,
    InferenceFailed,
    ModelLoadError,
    OutOfMemory,
    UnknownModel,
    UnsupportedInput,
)

__all__ = [
    "CODES",
    "BertstreamError",
    "BrokerError",
    "BrokerRefused",
    "CorpusError",
    "DeadlineExceeded",
    "EmptyText",
    "InferenceError",
    "InferenceFailed",
    "InvalidEncoding",
    "InvalidJSON",
    "MissingField",
    "ModelLoadError",
    "OutOfMemory",
    "RequestError",
    "SettingsError",
    "TextTooLarge",
    "Tombstone",
    "UnknownModel",
    "UnsupportedInput",
    "WrongType",
]


class SettingsError(BertstreamError):
    """A setting is missing, malformed or contradicts another one."""


class BrokerError(BertstreamError):
    """Kafka cannot be started, reached or used."""


class BrokerRefused(BrokerError):
    """A broker answers, but credentials or certificates do not fit: waiting will not help."""


class RequestError(BertstreamError):
    """A record that is no usable request; `code` is what its sender sees."""

    code: ClassVar[str]
    retryable: ClassVar[bool] = False


class Tombstone(RequestError):
    """The record has no value."""

    code = "tombstone"


class InvalidEncoding(RequestError):
    """The value is not UTF-8."""

    code = "invalid_encoding"


class InvalidJSON(RequestError):
    """The value is not a JSON object."""

    code = "invalid_json"


class MissingField(RequestError):
    """A required field is absent."""

    code = "missing_field"


class WrongType(RequestError):
    """A field holds a value of another type or range."""

    code = "wrong_type"


class EmptyText(RequestError):
    """The text is empty or blank."""

    code = "empty_text"


class TextTooLarge(RequestError):
    """The text is larger than `MAX_TEXT_BYTES`."""

    code = "text_too_large"


CODES: dict[str, type[RequestError] | type[InferenceError]] = {
    error.code: error
    for error in (
        Tombstone,
        InvalidEncoding,
        InvalidJSON,
        MissingField,
        WrongType,
        EmptyText,
        TextTooLarge,
        UnknownModel,
        UnsupportedInput,
        DeadlineExceeded,
        InferenceFailed,
        OutOfMemory,
    )
}
"""Every code that a response can carry, with the error behind it."""
