"""Requests from bytes: everything that a user may have pasted."""

from __future__ import annotations

import json
import time
from typing import Any

import orjson
import pytest
from faust.events import Event
from faust.types.tuples import Message
from hypothesis import given
from hypothesis import strategies as st

from app.errors import InferenceFailed, RequestError
from app.records import MAX_ID_BYTES, Job, Outcome, Throughput
from models.inference.tasks import Document, Prediction

LIMIT = 1024 * 1024


def job(
    value: bytes | None,
    key: bytes | None = None,
    timestamp: float = 1_000.0,
    headers: list[tuple[str, bytes]] | None = None,
) -> Job:
    """The job that a worker makes of a record at bert-requests-3-1207."""
    message = Message("bert-requests", 3, 1207, timestamp, 0, headers, key, value, None)
    return Job.of(Event(None, key, value, None, message), LIMIT)


def code(value: bytes | None) -> str:
    request = job(value).request
    assert isinstance(request, RequestError), request
    assert str(request), "an error says what is wrong"
    return request.code


def request(**fields: Any) -> bytes:
    return orjson.dumps({"text": "Shares fell.", **fields})


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "tombstone"),
        (b"", "invalid_json"),
        (b"\xff\xfe{}", "invalid_encoding"),
        (b'{"text": "caf\xe9"}', "invalid_encoding"),
        (b"hello", "invalid_json"),
        (b"\xef\xbb\xbf" + request(), "invalid_json"),
        (b'{"text": "\\ud800"}', "invalid_json"),
        (b'{"text": "a", "top_k": NaN}', "invalid_json"),
        (b'{"text": "raw \x00 control"}', "invalid_json"),
        (b'"text"', "invalid_json"),
        (b"[]", "invalid_json"),
        (b"null", "invalid_json"),
        (b"[" * 100_000, "invalid_json"),
        (b'{"text": "a", "deep": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "invalid_json"),
        (b"{}", "missing_field"),
        (b'{"text": 5}', "wrong_type"),
        (b'{"text": null}', "wrong_type"),
        (b'{"text": ["a"]}', "wrong_type"),
        (request(text=""), "empty_text"),
        (request(text=" \t\r\n\u00a0\u2003"), "empty_text"),
        (request(text="a" * (LIMIT + 1)), "text_too_large"),
        (request(text="é" * (LIMIT // 2 + 1)), "text_too_large"),
        (request(text="a" * LIMIT, text_pair="b"), "text_too_large"),
        (request(text_pair=5), "wrong_type"),
        (request(model=5), "wrong_type"),
        (request(id=5), "wrong_type"),
        (request(id=""), "wrong_type"),
        (request(id=None), "wrong_type"),
        (request(id="x" * (MAX_ID_BYTES + 1)), "wrong_type"),
        (request(top_k=0), "wrong_type"),
        (request(top_k=1.0), "wrong_type"),
        (request(top_k=True), "wrong_type"),
        (request(top_k="3"), "wrong_type"),
        (b'{"text": "a", "top_k": 1000000000000000000000000}', "wrong_type"),
        (request(deadline_ms=-1), "wrong_type"),
    ],
)
def test_refusals(value: bytes | None, expected: str) -> None:
    assert code(value) == expected


@pytest.mark.parametrize(
    "value",
    [
        request(),
        request(unknown={"a": [1]}),
        request(text="\x00"),
        request(text="a" * LIMIT),
        request(text="😀" * (LIMIT // 4)),
        request(id="x" * 10_240),
        request(top_k=1, deadline_ms=0, model="m", text_pair="p"),
        request(top_k=None, deadline_ms=None, model=None, text_pair=None),
        b'{"text": "a", "deep": ' + b"[" * 1_023 + b"]" * 1_023 + b"}",
        b' \n{"text": "first", "text": "last"} ',
    ],
)
def test_requests_that_are_fine(value: bytes) -> None:
    document = job(value).document()
    assert isinstance(document, Document)


def test_nesting_beyond_1024_levels_is_refused() -> None:
    deep = b'{"text": "a", "deep": ' + b"[" * 1_024 + b"]" * 1_024 + b"}"
    assert code(deep) == "invalid_json"


@pytest.mark.parametrize(
    ("value", "key", "expected"),
    [
        (request(id="a1"), b"k", "a1"),
        (request(), b"k", "k"),
        (request(), None, "bert-requests-3-1207"),
        (request(), b"", "bert-requests-3-1207"),
        (request(), b"\xff", "bert-requests-3-1207"),
        (request(), b"k" * (MAX_ID_BYTES + 1), "bert-requests-3-1207"),
        (request(id=5), b"k", "k"),
        (request(id=""), None, "bert-requests-3-1207"),
        (request(id="a1", text=5), b"k", "a1"),
        (b"{", b"k", "k"),
        (None, b"k", "k"),
        (None, None, "bert-requests-3-1207"),
    ],
)
def test_ids(value: bytes | None, key: bytes | None, expected: str) -> None:
    assert job(value, key).request_id == expected


@pytest.mark.parametrize(
    ("value", "key", "inherited", "expected"),
    [
        (request(), None, b"bert-requests-3-4", "bert-requests-3-4"),
        (b"no JSON", b"\xff", b"bert-requests-3-4", "bert-requests-3-4"),
        (request(), b"key", b"bert-requests-3-4", "key"),
        (request(id="a1"), None, b"bert-requests-3-4", "a1"),
        (request(), None, b"\xff", "bert-requests-3-1207"),
        (request(), None, b"", "bert-requests-3-1207"),
    ],
)
def test_a_replayed_request_without_an_id_keeps_the_one_it_was_given(
    value: bytes, key: bytes | None, inherited: bytes, expected: str
) -> None:
    assert job(value, key, headers=[("replay.id", inherited)]).request_id == expected


def test_a_deadline_counts_from_the_record() -> None:
    document = job(request(deadline_ms=1_500), timestamp=100.0).document()
    assert isinstance(document, Document)
    assert document.deadline == pytest.approx(101.5)


@given(
    st.binary(max_size=200)
    | st.recursive(
        st.none() | st.booleans() | st.floats() | st.text() | st.integers(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(
                st.sampled_from(
                    ["text", "id", "model", "top_k", "deadline_ms", "text_pair", "other"]
                )
                | st.text(),
                inner,
            )
        ),
    ).map(lambda content: json.dumps(content).encode())
)
def test_any_bytes_are_a_request_or_a_refusal(value: bytes) -> None:
    one = job(value)
    assert one.request_id
    document = one.document()
    assert isinstance(document, (Document, RequestError))
    orjson.dumps(one.request_id)


def prediction(**fields: Any) -> Prediction:
    return Prediction(
        **{
            "model": "agnews",
            "model_version": "3fa9c1d20b7e",
            "task": "text-classification",
            "label": "Sports",
            "score": 0.98,
            "scores": {"Sports": 0.98, "World": 0.01},
            "labels": None,
            "embedding": None,
            "segments": 1,
            "tokens": 53,
            "inference_ms": 9.8,
            **fields,
        }
    )


def test_a_prediction_as_a_response() -> None:
    one = job(request(id="a1"), timestamp=time.time() - 1)
    response = orjson.loads(Outcome.of(one, prediction()).value())
    timings = response.pop("timings_ms")
    assert response == {
        "id": "a1",
        "status": "ok",
        "model": "agnews",
        "model_version": "3fa9c1d20b7e",
        "task": "text-classification",
        "label": "Sports",
        "score": 0.98,
        "scores": {"Sports": 0.98, "World": 0.01},
        "labels": None,
        "embedding": None,
        "segments": 1,
        "tokens": 53,
        "source": {"topic": "bert-requests", "partition": 3, "offset": 1207},
    }
    assert timings["inference"] == 9.8
    assert 1_000 <= timings["total"] < 2_000
    assert timings["queued"] == pytest.approx(timings["total"] - 9.8)


def test_an_error_as_a_response() -> None:
    one = job(b"{", b"a2")
    assert isinstance(one.request, RequestError)
    response = orjson.loads(Outcome.of(one, one.request).value())
    assert response["id"] == "a2"
    assert response["status"] == "error"
    assert response["error"]["code"] == "invalid_json"
    assert response["error"]["retryable"] is False
    assert response["source"] == {"topic": "bert-requests", "partition": 3, "offset": 1207}


def test_an_error_without_a_code_is_a_failed_inference() -> None:
    outcome = Outcome.of(job(request()), ValueError("out of range"))
    assert isinstance(outcome.error, InferenceFailed)
    assert outcome.to_dict()["error"] == {
        "code": "inference_failed",
        "message": "ValueError: out of range",
        "retryable": True,
    }


def throughput(**fields: Any) -> bytes:
    return orjson.dumps({"model": "m", "worker": "w", "time": 1.0, "seconds": 1.0} | fields)


def test_throughput_of_another_version_is_read() -> None:
    bare = Throughput(model="m", worker="w", time=1.0, seconds=1.0)
    assert Throughput.read(bare.dumps()) == bare
    read = Throughput.read(throughput(records=3, labels={"a": 2}, not_known_yet={"a": [1]}))
    assert (read.key, read.records, read.labels, read.partitions) == ("m|w", 3, {"a": 2}, [])
    assert read.asdict().keys() == Throughput.read(throughput()).asdict().keys()


def test_throughput_is_of_the_group_of_its_worker_or_does_not_say() -> None:
    assert Throughput.read(throughput(group="a")).is_of("a")
    assert not Throughput.read(throughput(group="a")).is_of("b")
    assert Throughput.read(throughput()).is_of("b")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "Invalid JSON"),
        (b"", "Invalid JSON"),
        (b"\xff", "Invalid JSON"),
        (b"[]", "object"),
        (b"{}", "a field is missing"),
        (throughput(model=None), "model: "),
        (throughput(records="many"), "records: "),
        (throughput(labels={"a": "b"}), "labels.a: "),
        (throughput(partitions=[None]), "partitions.0: "),
        (throughput().replace(b"1.0", b"NaN"), "time: "),
    ],
)
def test_what_is_no_throughput_says_why(value: bytes | None, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Throughput.read(value)


def test_throughput_adds_up() -> None:
    first = Throughput(
        model="m",
        worker="w",
        host="h",
        pid=1,
        page="",
        started_at=0.0,
        partitions=[0],
        devices=["cpu"],
        dtype="float32",
        time=1.0,
        seconds=1.0,
        records=3,
        documents=2,
        tokens=70,
        batches=1,
        batched_documents=2,
        batched_segments=5,
        errors={"empty_text": 1},
        labels={"a": 2},
        latency_ms={"7": 3},
    )
    later = first.derive(time=2.0, partitions=[0, 1], labels={"b": 1}, errors={})
    both = Throughput.from_data(first.plus(later).asdict())
    assert both.seconds == 2.0
    assert both.time == 2.0
    assert both.partitions == [0, 1]
    assert (both.records, both.documents, both.tokens) == (6, 4, 140)
    assert (both.batches, both.batched_documents, both.batched_segments) == (2, 4, 10)
    assert both.labels == {"a": 2, "b": 1}
    assert both.errors == {"empty_text": 1}
    assert both.latency_ms == {"7": 6}
