"""What holds for every record, whatever its bytes: a request or one code of the contract."""

from __future__ import annotations

import json
import re

import orjson
from faust.events import Event
from faust.types.tuples import Message

from app.errors import CODES, InvalidEncoding, InvalidJSON, RequestError, Tombstone
from app.records import MAX_ID_BYTES, Job, Outcome, Request, examine, json_object
from models.inference.tasks import Document

MAX_TEXT_BYTES = 1_000
CODES_OF_THE_DECODER = {
    *("tombstone", "invalid_encoding", "invalid_json", "missing_field", "wrong_type"),
    *("empty_text", "text_too_large"),
}


def check(value: bytes | None, key: bytes | None = None) -> Job:
    """Decode a record, and hold what comes out against the contract.

    Raises:
        AssertionError: something does not hold.
    """
    message = Message("bert-requests", 3, 1207, 1_000.0, 0, None, key, value, None)
    job = Job.of(Event(None, key, value, None, message), MAX_TEXT_BYTES)
    assert 0 < len(job.request_id.encode()) <= MAX_ID_BYTES
    document = job.document()
    if isinstance(job.request, RequestError):
        assert document is job.request
        _check_refusal(job, job.request, value)
    else:
        assert isinstance(document, Document)
        assert value is not None
        _check_request(job, job.request, value)
    return job


def _check_refusal(job: Job, error: RequestError, value: bytes | None) -> None:
    assert error.code in CODES_OF_THE_DECODER & set(CODES)
    assert str(error)
    assert isinstance(error, Tombstone) == (value is None)
    outcome = Outcome.of(job, error)
    response = json.loads(outcome.value())
    assert response["id"] == job.request_id == outcome.key.decode()
    assert response["error"]["code"] == error.code
    assert value is None or isinstance(error, InvalidEncoding) != _is_utf8(value)
    if isinstance(error, InvalidJSON):
        assert not _is_plain_object(value or b"")


def _check_request(job: Job, request: Request, value: bytes) -> None:
    """Another parser must read the same request."""
    try:
        content = json.loads(value)
    except RecursionError:  # it takes fewer levels than we promise
        return
    assert content["text"] == request.text
    assert request.text.strip()
    assert len(request.text.encode()) + len((request.text_pair or "").encode()) <= MAX_TEXT_BYTES
    if "id" in content:
        assert content["id"] == job.request_id
    for name in ("text_pair", "model", "top_k", "deadline_ms"):
        assert content.get(name) == getattr(request, name)
    orjson.dumps([request.text, request.text_pair, request.model, job.request_id])
    _check_that_a_closer_look_agrees(request, value)


def _check_that_a_closer_look_agrees(request: Request, value: bytes) -> None:
    try:
        content = json_object(value)
    except InvalidJSON:
        # The one difference: a number in a field that nobody reads, beyond the range of a float.
        assert re.search(rb"\d[eE]|\d{300}", value)
    else:
        assert examine(content, MAX_TEXT_BYTES) == request


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _is_plain_object(value: bytes) -> bool:
    """Whether the value is a JSON object without anything on which parsers differ."""
    try:
        text = value.decode()
        if "\\u" in text.lower() or text.count("[") + text.count("{") > 1_000:
            return False
        content = json.loads(text, parse_constant=_refuse, parse_float=_finite, parse_int=_finite)
    except (ValueError, RecursionError):
        return False
    return isinstance(content, dict)


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def _finite(number: str) -> float:
    value = float(number)
    if value in (float("inf"), float("-inf")):
        raise ValueError(number)
    return value
