"""The records that bertstream reads and writes.

Requests are decoded and responses encoded by hand, since they pass by the thousand each second;
records among bertstream's own processes are `faust.Record`s.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, get_type_hints

import faust
import msgspec
import orjson
from faust.types import EventT
from msgspec import Meta
from pydantic import ConfigDict, ValidationError, create_model

from app.errors import (
    EmptyText,
    InferenceError,
    InferenceFailed,
    InvalidEncoding,
    InvalidJSON,
    MissingField,
    RequestError,
    TextTooLarge,
    Tombstone,
    WrongType,
)
from models.inference.tasks import Document, Prediction

MAX_ID_BYTES = 64 * 1024
"""An id becomes the key of the response: a longer one cannot be used."""
MAX_UTF8 = 4
"""Most bytes of a character."""
MAX_INTEGER = 2**63 - 1
"""A larger one is read as a float."""
MAX_BRACKETS = 1000
"""More of them may be nested deeper than orjson takes."""
REPLAY_ID = "replay.id"
"""Header of a replayed request that has no id of its own: the id under which it was answered."""


class Source(msgspec.Struct, frozen=True):
    """Where a record stands in Kafka."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}-{self.partition}-{self.offset}"

    def to_dict(self) -> dict[str, Any]:
        return {"topic": self.topic, "partition": self.partition, "offset": self.offset}


class Request(msgspec.Struct, frozen=True):
    """A request as its sender meant it; see the README for the fields."""

    text: str
    text_pair: str | None = None
    model: str | None = None
    top_k: Annotated[int, Meta(ge=1, le=MAX_INTEGER)] | None = None
    deadline_ms: Annotated[int, Meta(ge=0, le=MAX_INTEGER)] | None = None
    id: Annotated[str, Meta(min_length=1, max_length=MAX_ID_BYTES // MAX_UTF8)] = None  # type: ignore[assignment]
    """What its sender calls it; None where it is left out, since null is none."""

    @classmethod
    def of(cls, value: bytes | None, max_text_bytes: int) -> Request | None:
        """Decode what is plainly a request; None where a closer look has to be taken.

        Most requests are plain, and this takes a quarter of the time. It takes none that the closer
        look refuses, but for a number beyond the range of a float in a field that nobody reads.
        """
        if value is None or len(value) > max_text_bytes:
            return None
        if len(value) > MAX_BRACKETS and value.count(b"[") + value.count(b"{") > MAX_BRACKETS:
            return None
        try:
            value.decode()  # fields that nobody reads are not looked at otherwise
            request = _decode(value)
        except (UnicodeDecodeError, msgspec.MsgspecError, RecursionError):
            return None
        return None if not request.text or request.text.isspace() else request


_decode = msgspec.json.Decoder(Request).decode


def json_object(value: bytes | None) -> dict[str, Any]:
    """The value of a request, decoded.

    Raises:
        RequestError: it is no JSON object.
    """
    if value is None:
        raise Tombstone("the record has no value")
    try:
        # orjson refuses bad UTF-8 too, but does not say that it is the encoding.
        value.decode()
    except UnicodeDecodeError as error:
        raise InvalidEncoding(f"the value is no UTF-8 at byte {error.start}") from None
    try:
        content = orjson.loads(value)
    except orjson.JSONDecodeError as error:
        raise InvalidJSON(f"the value is no JSON: {error}") from None
    if not isinstance(content, dict):
        raise InvalidJSON(f"the value is JSON, but no object: {_kind(content)}")
    return content


def examine(content: dict[str, Any], max_text_bytes: int) -> Request:
    """The request that such an object is.

    Raises:
        RequestError: it is none.
    """
    if "id" in content:
        _check_id(content["id"])
    if "text" not in content:
        raise MissingField("the field 'text' is missing")
    text = content["text"]
    if not isinstance(text, str):
        raise WrongType(f"'text' must be a string, not {_kind(text)}")
    if not text.strip():
        raise EmptyText("'text' is blank")
    text_pair = _optional(content, "text_pair", str, "a string")
    n_bytes = len(text.encode()) + len((text_pair or "").encode())
    if n_bytes > max_text_bytes:
        raise TextTooLarge(f"the text has {n_bytes:,} bytes of UTF-8; {max_text_bytes:,} are taken")
    return Request(
        text=text,
        text_pair=text_pair,
        model=_optional(content, "model", str, "a string"),
        top_k=_integer(content, "top_k", at_least=1),
        deadline_ms=_integer(content, "deadline_ms", at_least=0),
        id=content.get("id"),  # type: ignore[arg-type]
    )


def _check_id(value: Any) -> None:
    if not isinstance(value, str):
        raise WrongType(f"'id' must be a string, not {_kind(value)}")
    if not value:
        raise WrongType("'id' must not be empty")
    if len(value.encode()) > MAX_ID_BYTES:
        raise WrongType(f"'id' must not be longer than {MAX_ID_BYTES:,} bytes of UTF-8")


def _optional(content: dict[str, Any], name: str, kind: type, described: str) -> Any:
    value = content.get(name)
    if value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
        raise WrongType(f"'{name}' must be {described}, not {_kind(value)}")
    return value


def _integer(content: dict[str, Any], name: str, *, at_least: int) -> int | None:
    value: int | None = _optional(content, name, int, f"an integer of {at_least} or more")
    if value is not None and value < at_least:
        raise WrongType(f"'{name}' must be an integer of {at_least} or more, not {value}")
    return value


def _kind(value: Any) -> str:
    kinds = {
        dict: "an object",
        list: "a list",
        str: "a string",
        bool: "a boolean",
        int: "a number",
        float: "a number",
        type(None): "null",
    }
    return kinds[type(value)]


@dataclass(slots=True)
class Job:
    """One record of the request topic on its way to its outcome."""

    event: EventT
    source: Source
    request_id: str
    request: Request | RequestError

    @classmethod
    def of(cls, event: EventT, max_text_bytes: int) -> Job:
        """Decode the record; what is wrong with it becomes its `request`."""
        message = event.message
        source = Source(message.topic, message.partition, message.offset)
        plain = Request.of(message.value, max_text_bytes)
        if plain is not None and plain.id is not None:
            return cls(event, source, plain.id, plain)
        declared = None
        request: Request | RequestError | None = plain
        if request is None:
            try:
                content = json_object(message.value)
                declared = content.get("id")
                request = examine(content, max_text_bytes)
            except RequestError as error:
                request = error
        name = own_id(declared, message.key) or inherited_id(message.headers or ()) or str(source)
        return cls(event, source, name, request)

    @property
    def timestamp(self) -> float:
        """Unix seconds at which the request was produced."""
        timestamp: float = self.event.message.timestamp
        return timestamp

    def document(self) -> Document | RequestError:
        """What the models are asked, or why they are not."""
        request = self.request
        if isinstance(request, RequestError):
            return request
        deadline = None
        if request.deadline_ms is not None:
            deadline = self.timestamp + request.deadline_ms / 1000
        return Document(
            request.text, request.text_pair, request.top_k, request.model, deadline=deadline
        )


def own_id(declared: Any, key: bytes | None) -> str | None:
    """The id that a request brings along: the one that it declares, or else its key."""
    return _usable_id(declared) or _usable_key(key)


def inherited_id(headers: Iterable[tuple[str, bytes | None]]) -> str | None:
    """The id that a replay has given to a request without one."""
    return next((_usable_key(value) for name, value in headers if name == REPLAY_ID), None)


def _usable_id(value: Any) -> str | None:
    try:
        _check_id(value)
    except WrongType:
        return None
    usable: str = value
    return usable


def _usable_key(key: bytes | None) -> str | None:
    if not key or len(key) > MAX_ID_BYTES:
        return None
    try:
        return key.decode()
    except UnicodeDecodeError:
        return None


@dataclass(slots=True)
class Outcome:
    """What became of one record: a prediction, or an error with a code."""

    job: Job
    answer: Prediction | RequestError | InferenceError
    time: float = field(default_factory=time.time)

    @classmethod
    def of(cls, job: Job, answer: Prediction | Exception) -> Outcome:
        """Pair a job with its answer; an error that has no code is `inference_failed`."""
        if isinstance(answer, (Prediction, RequestError, InferenceError)):
            return cls(job, answer)
        return cls(job, InferenceFailed(f"{type(answer).__name__}: {answer}"))

    @property
    def error(self) -> RequestError | InferenceError | None:
        return None if isinstance(self.answer, Prediction) else self.answer

    @property
    def total_ms(self) -> float:
        """Milliseconds since the request was produced, by this machine's clock."""
        return max(0.0, (self.time - self.job.timestamp) * 1000)

    @property
    def key(self) -> bytes:
        return self.job.request_id.encode()

    def value(self) -> bytes:
        """The response, encoded."""
        return _encode(self.response())

    def to_dict(self) -> dict[str, Any]:
        """The response, field by field as the README describes it."""
        fields: dict[str, Any] = msgspec.to_builtins(self.response())
        return fields

    def response(self) -> Response | ErrorResponse:
        """What the sender of the request is told."""
        job, answer = self.job, self.answer
        if not isinstance(answer, Prediction):
            return ErrorResponse(job.request_id, describe_error(answer), job.source)
        total_ms, inference_ms = self.total_ms, answer.inference_ms
        return Response(
            job.request_id,
            answer.model,
            answer.model_version,
            answer.task,
            answer.label,
            answer.score,
            answer.scores,
            answer.labels,
            answer.embedding,
            answer.segments,
            answer.tokens,
            Timings(
                round(max(0.0, total_ms - inference_ms), 3),
                round(inference_ms, 3),
                round(total_ms, 3),
            ),
            job.source,
        )


class Timings(msgspec.Struct):
    """Milliseconds that a document took."""

    queued: float
    inference: float
    total: float


class Response(msgspec.Struct, tag_field="status", tag="ok"):
    """A prediction as the README describes it."""

    id: str
    model: str
    model_version: str
    task: str
    label: str | None
    score: float | None
    scores: dict[str, float] | None
    labels: list[str] | None
    embedding: list[float] | None
    segments: int
    tokens: int
    timings_ms: Timings
    source: Source


class ErrorResponse(msgspec.Struct, tag_field="status", tag="error"):
    """Why there is no prediction, as the README describes it."""

    id: str
    error: dict[str, Any]
    source: Source


_encode = msgspec.json.Encoder().encode


def describe_error(error: RequestError | InferenceError) -> dict[str, Any]:
    """What the sender of a request is told of its error."""
    return {"code": error.code, "message": str(error), "retryable": error.retryable}


class Throughput(faust.Record, serializer="json"):  # type: ignore[misc,call-arg]
    """What one worker did with one model over some time; `plus` adds the next interval to it."""

    model: str
    worker: str
    time: float
    """Unix seconds at the end of the interval."""
    seconds: float
    """Length of the interval."""
    # What is added here has a default: workers of the version before do not send it.
    group: str = ""
    """Consumer group of the worker."""
    host: str = ""
    pid: int = 0
    page: str = ""
    started_at: float = 0.0
    """Unix seconds."""
    partitions: list[int] = []  # noqa: RUF012 - a field of a faust.Record, copied by it
    """Partitions of the request topic that the worker reads."""
    devices: list[str] = []  # noqa: RUF012
    dtype: str = ""
    records: int = 0
    documents: int = 0
    tokens: int = 0
    batches: int = 0
    batched_documents: int = 0
    """Documents of each device batch, added up: a long one is in many."""
    batched_segments: int = 0
    errors: dict[str, int] = {}  # noqa: RUF012
    labels: dict[str, int] = {}  # noqa: RUF012
    latency_ms: dict[str, int] = {}  # noqa: RUF012
    """Records by bucket of `app.latency`."""
    offset: int = -1
    """In a table: where the latest record that was added stands on the throughput topic."""

    @classmethod
    def read(cls, value: bytes | None) -> Throughput:
        """Read what another worker, perhaps of another version, has written.

        Fields that are not known are ignored.

        Raises:
            ValueError: it is no throughput; says why.
        """
        try:
            given = _ThroughputFields.model_validate_json(value or b"")
            return cls(**given.model_dump(exclude_unset=True))
        except ValidationError as error:
            first = error.errors(include_input=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise ValueError(": ".join(filter(None, (where, first["msg"])))) from None
        except TypeError:  # Faust's, of a field without a default
            raise ValueError("a field is missing") from None

    @property
    def key(self) -> str:
        """The key of its record, and of its worker's windows: `model|worker`."""
        return f"{self.model}|{self.worker}"

    def is_of(self, group: str) -> bool:
        """Whether a worker of this group did it; workers of the version before do not say."""
        return self.group in (group, "")

    def includes(self, record: Throughput) -> bool:
        """Whether `record` was added already; a topic that was created anew begins at 0 again."""
        return record.offset <= self.offset and record.time <= self.time

    def plus(self, later: Throughput) -> Throughput:
        """Both intervals together, with the facts of the later one."""
        both: Throughput = later.derive(
            time=max(self.time, later.time),
            seconds=self.seconds + later.seconds,
            records=self.records + later.records,
            documents=self.documents + later.documents,
            tokens=self.tokens + later.tokens,
            batches=self.batches + later.batches,
            batched_documents=self.batched_documents + later.batched_documents,
            batched_segments=self.batched_segments + later.batched_segments,
            errors=add_counts(self.errors, later.errors),
            labels=add_counts(self.labels, later.labels),
            latency_ms=add_counts(self.latency_ms, later.latency_ms),
        )
        return both


_hints = get_type_hints(Throughput)
_ThroughputFields = create_model(
    "_ThroughputFields",
    __config__=ConfigDict(allow_inf_nan=False),
    **{name: (_hints[name], None) for name in Throughput.__annotations__},  # type: ignore[call-overload]
)
"""Checks the types, which Faust does not."""


def add_counts(first: Mapping[str, int], second: Mapping[str, int]) -> dict[str, int]:
    """Counts by name, added up."""
    return dict(Counter(first) + Counter(second))
