"""Every code of the contract on a real broker: one outcome for each record, and nothing lost."""

from __future__ import annotations

import time
from typing import Any

import orjson
import pytest

from app.settings import MEBIBYTE, Settings
from models.errors import MAX_MESSAGE_CHARS
from tests.integration.conftest import Produced, Topics
from tests.workers import StartedWorker, eventually

GOOD = "Shares fell on Monday after the bank reported a loss for the quarter."
LONG_ID = "i" * 10_240


def request(**fields: Any) -> bytes:
    return orjson.dumps({"text": GOOD, **fields})


CASES: dict[str, tuple[bytes | None, str]] = {
    "not-utf-8": (b'{"text": "caf\xe9"}', "invalid_encoding"),
    "utf-16": ('{"text": "a"}'.encode("utf-16"), "invalid_encoding"),
    "not-json": (b"hello, world", "invalid_json"),
    "empty": (b"", "invalid_json"),
    "no-object": (b'["text"]', "invalid_json"),
    "byte-order-mark": (b"\xef\xbb\xbf" + request(), "invalid_json"),
    "nan": (b'{"text": "a", "top_k": NaN}', "invalid_json"),
    "lone-surrogate": (b'{"text": "\\ud83d"}', "invalid_json"),
    "deep": (b'{"text": "a", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "invalid_json"),
    "raw-control": (b'{"text": "a\x00b"}', "invalid_json"),
    "no-text": (b'{"txt": "a"}', "missing_field"),
    "text-number": (b'{"text": 5}', "wrong_type"),
    "text-null": (b'{"text": null}', "wrong_type"),
    "id-number": (request(id=5), "wrong_type"),
    "top-k-zero": (request(top_k=0), "wrong_type"),
    "blank": (request(text=" \n\t "), "empty_text"),
    "2-mib": (request(text="a " * MEBIBYTE), "text_too_large"),
    "15-mib-record": (request(text="a" * (15 * MEBIBYTE)), "text_too_large"),
    "tombstone": (None, "tombstone"),
    "million-emoji": (request(text="😀" * 1_000_000), "text_too_large"),
    "unknown-model": (request(model="no-such-model"), "unknown_model"),
    "5-mib-model": (request(model="a" * (5 * MEBIBYTE)), "unknown_model"),
    "5-mib-model-escaped": (request(model="\x7f" * (5 * MEBIBYTE)), "unknown_model"),
    "9-mib-model": (request(model="a" * (9 * MEBIBYTE)), "unknown_model"),
    "9-mib-model-escaped": (request(model="\x7f" * (9 * MEBIBYTE)), "unknown_model"),
    "pair": (request(text_pair="Another sentence."), "unsupported_input"),
    "deadline": (request(deadline_ms=0), "deadline_exceeded"),
    "blank-with-9-mib-reply-topic": (request(text=" "), "empty_text"),
    "long-id-refused": (request(id=LONG_ID, text=" "), "empty_text"),
}
HEADERS: dict[str, list[tuple[str, bytes]]] = {
    "blank-with-9-mib-reply-topic": [("reply-topic", b"x" * (9 * MEBIBYTE))],
    "9-mib-reply-topic": [("reply-topic", b"\x7f" * (9 * MEBIBYTE))],
}
"""Of the cases that have more than one to be found again by."""
FINE: dict[str, bytes] = {
    "nul": request(text="nul \x00 and bell \x07 in it"),
    "only-nul": request(text="\x00"),
    "emoji": request(text="😀" * 250_000),
    "long": request(text="word " * 20_000),
    "one-long-word": request(text="x" * 100_000),
    "right-to-left": request(text="ارتفعت أسعار النفط اليوم"),
    "thai": request(text="ราคาน้ำมันปรับตัวสูงขึ้นในวันนี้" * 40),
    "unknown-fields": request(colour="blue", nested={"a": [1, 2]}),
    "top-k": request(top_k=1),
    "long-id": request(id=LONG_ID),
    "late-enough": request(deadline_ms=3_600_000),
    "9-mib-reply-topic": request(),
}


@pytest.fixture(scope="module")
def outcomes(
    worker: StartedWorker, module_settings: Settings, topics: Topics
) -> dict[str, list[dict[str, Any]]]:
    """Responses by case, with a good request before and after each bad one."""
    records: list[tuple[str, Produced]] = []
    for name, (value, _) in CASES.items():
        records.append((f"before-{name}", Produced(request(), b"neighbour")))
        headers = [("tag", name.encode()), *HEADERS.get(name, [])]
        records.append((name, Produced(value, name.encode(), headers)))
        records.append((f"after-{name}", Produced(request(), b"neighbour")))
    records += [
        (name, Produced(value, headers=HEADERS.get(name, []))) for name, value in FINE.items()
    ]
    records += [(f"same-id-{n}", Produced(request(id="twice"))) for n in range(2)]
    written = topics.write(module_settings.request_topic, [record for _, record in records])
    names = {place: name for place, (name, _) in zip(written, records, strict=True)}
    answered: dict[str, list[dict[str, Any]]] = {name: [] for name, _ in records}
    for response in topics.responses(module_settings, len(records), within_s=120):
        source = response["source"]
        answered[names[source["partition"], source["offset"]]].append(response)
    return answered


def test_every_record_has_exactly_one_outcome(outcomes: dict[str, list[dict[str, Any]]]) -> None:
    assert {name: len(found) for name, found in outcomes.items() if len(found) != 1} == {}


@pytest.mark.parametrize("name", CASES)
def test_a_bad_record_is_told_what_is_wrong(
    outcomes: dict[str, list[dict[str, Any]]], name: str
) -> None:
    [response] = outcomes[name]
    assert response["status"] == "error"
    assert response["error"]["code"] == CASES[name][1]
    assert 0 < len(response["error"]["message"]) <= MAX_MESSAGE_CHARS
    assert response["id"] == (LONG_ID if name == "long-id-refused" else name)


@pytest.mark.parametrize("name", FINE)
def test_an_unusual_record_is_predicted(
    outcomes: dict[str, list[dict[str, Any]]], name: str
) -> None:
    [response] = outcomes[name]
    assert response["status"] == "ok", response
    assert response["label"] in {"World", "Sports", "Business", "Sci/Tech"}
    assert sum(response["scores"].values()) <= 1.0001
    assert len(response["scores"]) == (1 if name == "top-k" else 4)


def test_the_requests_around_are_answered_as_if_it_were_not_there(
    outcomes: dict[str, list[dict[str, Any]]],
) -> None:
    neighbours = [
        found[0] for name, found in outcomes.items() if name.startswith(("before", "aft"))
    ]
    assert {neighbour["label"] for neighbour in neighbours} == {"Business"}
    assert {neighbour["id"] for neighbour in neighbours} == {"neighbour"}


def test_a_reply_topic_of_any_length_is_quoted_in_short(
    outcomes: dict[str, list[dict[str, Any]]], module_settings: Settings, topics: Topics
) -> None:
    records = topics.read(module_settings.response_topic, len(outcomes))
    problems = [dict(record.headers).get("reply-error", b"") for record in records]
    told = [problem for problem in problems if problem]
    assert len(told) == len(HEADERS)
    assert all(b"does not match" in problem and len(problem) < 1000 for problem in told)


def test_a_long_document_is_segmented(outcomes: dict[str, list[dict[str, Any]]]) -> None:
    [response] = outcomes["long"]
    assert response["tokens"] == 20_000
    assert response["segments"] > 80


def test_a_long_id_is_kept_whole_also_as_the_key(
    outcomes: dict[str, list[dict[str, Any]]], module_settings: Settings, topics: Topics
) -> None:
    keys = {
        (source["partition"], source["offset"]): record.key
        for record in topics.read(module_settings.response_topic, len(outcomes))
        for source in [orjson.loads(record.value)["source"]]
    }
    for name in ("long-id", "long-id-refused"):
        [response] = outcomes[name]
        source = response["source"]
        assert response["id"] == LONG_ID
        assert keys[source["partition"], source["offset"]] == LONG_ID.encode()


def test_equal_ids_are_two_requests(outcomes: dict[str, list[dict[str, Any]]]) -> None:
    responses = [outcomes[f"same-id-{n}"][0] for n in range(2)]
    assert [response["id"] for response in responses] == ["twice", "twice"]


def test_dead_letters_hold_the_original_bytes(
    outcomes: dict[str, list[dict[str, Any]]], module_settings: Settings, topics: Topics
) -> None:
    letters = topics.read(module_settings.dead_letter_topic, len(CASES))
    by_key = {letter.key.decode(): letter for letter in letters}
    assert len(letters) == len(CASES)
    assert set(by_key) == set(CASES)
    for name, (value, code) in CASES.items():
        letter = by_key[name]
        headers = dict(letter.headers)
        source = outcomes[name][0]["source"]
        assert headers["error.code"].decode() == code
        assert headers["error.message"].decode() == outcomes[name][0]["error"]["message"]
        assert headers["tag"].decode() == name
        assert all(headers[header] == content for header, content in HEADERS.get(name, []))
        assert headers["source.topic"].decode() == source["topic"]
        assert int(headers["source.partition"]) == source["partition"]
        assert int(headers["source.offset"]) == source["offset"]
        assert abs(int(headers["source.timestamp"]) / 1000 - time.time()) < 600
        assert letter.value == value, f"{name}: not byte for byte"


def test_everything_is_committed(
    outcomes: dict[str, list[dict[str, Any]]], worker: StartedWorker
) -> None:
    def caught_up() -> bool:
        status = worker.get("/api/status")[1]
        partitions = status["partitions"]
        return bool(partitions) and all(
            partition["committed"] == partition["end"] for partition in partitions
        )

    eventually(caught_up, 15, "no lag")
    counted = eventually(
        lambda: worker.get("/api/status")[1]["errors"].get("tombstone"), 15, "errors by code"
    )
    assert counted == 1
