"""Dead letters from records, marks, what is selected, and times as people write them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiokafka import TopicPartition
from hypothesis import given
from hypothesis import strategies as st

from app.cli import main
from app.cli.dead_letters import moment
from app.dead_letter_topic import OTHER_CODES, DeadLetterTopic, Selection
from app.dead_letters import DeadLetter, Filter, Mark

FACTS = {
    "error.code": b"invalid_json",
    "error.message": b"the value is no JSON",
    "source.topic": b"bert-requests",
    "source.partition": b"3",
    "source.offset": b"1207",
    "source.timestamp": b"1750000000123",
}
PLAIN = tuple(FACTS.items())
Headers = Sequence[tuple[str, bytes | None]]


def record(headers: Headers = PLAIN, *, offset: int = 7, value: bytes | None = b"{") -> Any:
    """A record of the topic of dead letters, as aiokafka gives it."""
    return SimpleNamespace(
        topic="bert-dead-letters",
        partition=1,
        offset=offset,
        timestamp=1_750_000_001_000,
        key=None,
        value=value,
        headers=headers,
    )


def letter(headers: Headers = PLAIN, **more: Any) -> DeadLetter:
    found = DeadLetter.of(record(headers, **more))
    assert found is not None
    return found


def test_what_was_added_is_told_from_what_the_request_had() -> None:
    own = (("source.topic", b"mine"), ("error.value", b"omitted"), ("traceparent", b"00"))
    found = letter((*own, *FACTS.items()))
    assert (found.headers, found.omitted, str(found.source)) == (own, False, "bert-requests-3-1207")
    assert (found.time, found.source_time) == (1_750_000_001.0, 1_750_000_000.123)

    assert letter((*PLAIN, *PLAIN)).headers == PLAIN
    # The last header of a request is not taken for ours either.
    same = (("error.value", b"omitted"),)
    found = letter((*same, *FACTS.items()))
    assert (found.headers, found.omitted) == (same, False)
    found = letter((*same, *FACTS.items(), ("error.value", b"omitted")))
    assert (found.headers, found.omitted) == (same, True)


@pytest.mark.parametrize(
    "other",
    [
        {"source.offset": b"-1"},
        {"source.offset": b"9" * 30},
        {"source.offset": "٣".encode()},
        {"source.partition": b""},
        {"source.timestamp": b"9" * 20},
        {"source.topic": None},
        {"error.code": b""},
    ],
)
def test_what_anybody_may_write_is_no_dead_letter(other: dict[str, bytes | None]) -> None:
    assert DeadLetter.of(record(tuple((FACTS | other).items()))) is None
    assert DeadLetter.of(record(tuple(FACTS.items())[1:])) is None
    assert DeadLetter.of(record(())) is None


@pytest.mark.parametrize(
    ("count", "replays"), [(b"0", 0), (b"3", 3), (b"-1", 0), (b"", 0), (b"9" * 5_000, 0)]
)
def test_how_often_it_was_replayed(count: bytes, replays: int) -> None:
    assert letter((("replay.count", count), *FACTS.items())).replays == replays


@given(st.sets(st.integers(0, 10**12), min_size=1, max_size=50))
def test_a_mark_names_offsets_and_no_others(offsets: set[int]) -> None:
    mark = Mark.of(record([Mark.header(offsets)], value=None))
    assert mark is not None
    assert {offset for run in mark.offsets for offset in run} == offsets
    assert len(mark.offsets) == sum(offset - 1 not in offsets for offset in offsets)
    assert all(mark.covers(offset) for offset in offsets)
    assert not mark.covers(max(offsets) + 1)


@pytest.mark.parametrize("text", [b"", b"a", b"1-", b"-1", b"1,,2", b"1-2-3", b"9" * 30])
def test_what_is_no_mark(text: bytes) -> None:
    assert Mark.of(record([("replayed", text)], value=None)) is None


class Written:
    """A topic that holds these dead letters and marks."""

    def __init__(self, *records: Any) -> None:
        self.items = [DeadLetter.of(one) or Mark.of(one) for one in records]

    async def read(self, ranges: Any) -> AsyncIterator[Any]:
        for item in self.items:
            yield [item]


def selected(*records: Any, offsets: range = range(100), codes: Sequence[str] = ()) -> Selection:
    topic = cast(DeadLetterTopic, Written(*records))
    ranges = {TopicPartition("bert-dead-letters", 1): offsets}
    return asyncio.run(Selection.of(topic, ranges, Filter(frozenset(codes)).admits))


def coded(offset: int, code: str) -> Any:
    return record(tuple((FACTS | {"error.code": code.encode()}).items()), offset=offset)


def test_marks_count_for_what_was_selected() -> None:
    found = selected(
        coded(10, "empty_text"),
        coded(11, "invalid_json"),
        coded(12, "empty_text"),
        coded(14, "empty_text"),
        record([("replayed", b"0-11,14-999999999999999")], offset=20, value=None),
        record([("replayed", b"14")], offset=21, value=None),
        offsets=range(10, 30),
        codes=["empty_text"],
    )
    assert (found.codes, found.replayed) == ({"empty_text": 3}, {"empty_text": 2})
    waiting = [n for n in range(40) if found.includes(letter(offset=n).place, replayed=False)]
    every = [n for n in range(40) if found.includes(letter(offset=n).place, replayed=True)]
    assert (waiting, every) == ([12], [10, 12, 14])
    assert found.newest(2, replayed=True) == {1: range(12, 30)}
    assert found.newest(9, replayed=True) == {1: range(10, 30)}
    assert found.newest(2, replayed=False) == {1: range(12, 30)}
    assert found.newest(0, replayed=True) == {}


def test_codes_without_end_stay_bounded() -> None:
    many = [coded(n, f"code-{n}") for n in range(300)]
    mark = record([("replayed", b"0-298")], offset=300, value=None)
    found = selected(*many, mark, offsets=range(400))
    assert found.codes.total() == 300
    assert found.codes[OTHER_CODES] == 174
    assert found.replayed.total() == 299
    assert found.includes(letter(offset=299).place, replayed=False)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90s", 9_910.0),
        ("1.5h", 4_600.0),
        (" 2d ", 10_000.0 - 2 * 86_400),
        ("1970-01-01T00:00:05Z", 5.0),
        ("1970-01-01T01:00:00.5+01:00", 0.5),
    ],
)
def test_times_as_people_write_them(text: str, expected: float) -> None:
    assert moment(text, now=10_000.0) == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["list", "--since", "tomorrow"], "--since tomorrow: neither a time such as"),
        (["list", "--until", "2026-13-01"], "--until 2026-13-01: neither"),
        (["list", "--code", "sad"], "--code sad: there are tombstone, invalid_encoding"),
        (["show", "bert-requests"], "'bert-requests' is no place such as bert-requests-3-1207"),
        (["replay"], "add --yes, or --dry-run"),
        ([], "Missing command"),
    ],
)
def test_wrong_usage(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["dead-letters", *arguments])
    assert end.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert message in line
    assert "dead-letters" in line
    assert "--help" in line
