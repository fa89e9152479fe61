"""Device batches: every segment once, budgets kept, nobody starved."""

from __future__ import annotations

import time
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.inference.batching import MOST_PADDING, SHORT, window
from models.inference.buffer import Buffer
from models.inference.tasks import Document, EncodedDocument, Segment
from models.inference.ticket import LARGE_BYTES, Row, Ticket

LENGTHS = st.lists(st.integers(1, 300), min_size=1, max_size=60)


class NoEngine:
    """Stands for a model: the buffer only tells one from another."""

    padding_free = False


def ticket(
    lengths: list[int],
    *,
    engine: Any = NoEngine(),  # noqa: B008 - one for all
    text_bytes: int = 0,
    deadline: float | None = None,
) -> Ticket:
    segments = tuple(Segment([7] * length, None, length) for length in lengths)
    document = Document("text", deadline=deadline)
    made = Ticket(cast(Any, None), None, text_bytes, document, engine)
    made.encoded = EncodedDocument(document, segments, sum(lengths))
    return made


def put(buffer: Buffer, made: Ticket) -> Ticket:
    assert made.encoded is not None
    buffer.put(made, made.encoded)
    return made


def take(buffer: Buffer, max_rows: int, max_tokens: int = 16384) -> list[Row]:
    rows, late = buffer.take(max_rows=max_rows, max_tokens=max_tokens)
    assert not late
    return rows


@given(LENGTHS, st.data(), st.integers(1, 20), st.integers(1, 2000))
def test_a_window_keeps_the_budgets_and_does_not_stretch(
    lengths: list[int], data: st.DataObject, max_rows: int, max_tokens: int
) -> None:
    lengths.sort()
    anchor = data.draw(st.integers(0, len(lengths) - 1))
    first, end = window(lengths, anchor, max_rows=max_rows, max_tokens=max_tokens)
    assert 0 <= first <= anchor < end <= len(lengths)
    rows = end - first
    assert rows <= max_rows
    assert rows == 1 or rows * lengths[end - 1] <= max_tokens
    assert rows == 1 or lengths[end - 1] <= max(SHORT, 2 * lengths[first])


@given(LENGTHS, st.data(), st.integers(1, 20), st.integers(1, 2000))
def test_without_padding_a_window_takes_any_lengths(
    lengths: list[int], data: st.DataObject, max_rows: int, max_tokens: int
) -> None:
    lengths.sort()
    anchor = data.draw(st.integers(0, len(lengths) - 1))
    budget: Any = {"max_rows": max_rows, "max_tokens": max_tokens, "padding_free": True}
    first, end = window(lengths, anchor, **budget)
    assert 0 <= first <= anchor < end <= len(lengths)
    rows, tokens = end - first, sum(lengths[first:end])
    assert rows <= max_rows
    assert rows == 1 or tokens <= max_tokens
    assert rows == 1 or rows * lengths[end - 1] <= MOST_PADDING * max_tokens
    generous: Any = {"max_rows": 1000, "max_tokens": 300 * 60, "padding_free": True}
    assert window(lengths, anchor, **generous) == (0, len(lengths))


@given(LENGTHS, st.data())
def test_a_window_takes_all_of_similar_length_that_fit(
    lengths: list[int], data: st.DataObject
) -> None:
    lengths = sorted(100 + length // 4 for length in lengths)
    anchor = data.draw(st.integers(0, len(lengths) - 1))
    assert window(lengths, anchor, max_rows=1000, max_tokens=10**6) == (0, len(lengths))


def test_a_window_takes_the_least_padding_first() -> None:
    assert window([10, 20, 29, 30, 60], 3, max_rows=2, max_tokens=10**6) == (2, 4)
    assert window([10, 28, 30, 31, 60], 2, max_rows=2, max_tokens=10**6) == (2, 4)


@given(
    st.lists(
        st.one_of(
            st.none(),
            st.tuples(st.integers(0, 1), st.lists(st.integers(1, 300), min_size=1, max_size=30)),
        ),
        max_size=80,
    ),
    st.integers(1, 16),
    st.integers(1, 2000),
)
def test_every_segment_is_in_one_batch_and_the_oldest_is_served_first(
    steps: list[tuple[int, list[int]] | None], batch_size: int, batch_tokens: int
) -> None:
    """A step puts a document of one of two models, or takes a batch (None)."""
    engines = [NoEngine(), NoEngine()]
    buffer = Buffer()
    waiting: dict[Ticket, int] = {}
    taken: list[Row] = []
    put_in: list[Ticket] = []

    def check_batch() -> None:
        oldest = next((t for t in put_in if t.waits and not any(not r.waits for r in t.rows)), None)
        waits_longest = next(iter(waiting), None)
        rows = take(buffer, batch_size, batch_tokens)
        assert bool(rows) == (waits_longest is not None)
        if not rows:
            return
        assert len({id(row.ticket.engine) for row in rows}) == 1
        assert len(rows) <= batch_size
        lengths = [len(row.segment) for row in rows]
        assert lengths == sorted(lengths)
        assert len(rows) == 1 or len(rows) * lengths[-1] <= batch_tokens
        # Whoever has never been served waits for no more batches than there are turns before.
        if oldest is not None and oldest not in {row.ticket for row in rows}:
            waiting[oldest] -= 1
            assert waiting[oldest] > 0
        for row in rows:
            if not row.ticket.waits:
                waiting.pop(row.ticket, None)
        taken.extend(rows)

    for step in steps:
        if step is None:
            check_batch()
        else:
            made = put(buffer, ticket(step[1], engine=engines[step[0]]))
            put_in.append(made)
            waiting[made] = len(waiting) + 1
    while buffer:
        check_batch()
    assert sorted(map(id, taken)) == sorted(id(row) for made in put_in for row in made.rows)
    assert buffer.tokens == 0
    assert not waiting


def test_a_long_document_takes_turns_with_short_ones() -> None:
    buffer = Buffer()
    long = put(buffer, ticket([100] * 80))
    short = [put(buffer, ticket([10])) for _ in range(8)]
    assert {row.ticket for row in take(buffer, 8, 800)} == {long}
    assert {row.ticket for row in take(buffer, 8, 800)} == set(short)
    late_comer = put(buffer, ticket([10]))
    assert {row.ticket for row in take(buffer, 8, 800)} == {long}
    assert {row.ticket for row in take(buffer, 8, 800)} == {late_comer}


def test_a_short_document_does_not_wait_for_a_rectangle_of_long_ones() -> None:
    buffer = Buffer()
    short = put(buffer, ticket([12]))
    put(buffer, ticket([250] * 50))
    assert [row.ticket for row in take(buffer, 64)] == [short]


def test_a_late_document_is_in_no_batch() -> None:
    buffer = Buffer()
    late = put(buffer, ticket([10] * 12, deadline=time.time() - 1))
    timely = put(buffer, ticket([10], deadline=time.time() + 60))
    rows, dropped = buffer.take(max_rows=4, max_tokens=100)
    assert dropped == [late]
    assert [row.ticket for row in rows] == [timely]
    assert late.over
    assert not buffer
    assert buffer.tokens == 0


def test_what_is_over_is_dropped() -> None:
    buffer = Buffer()
    given_up, wanted = put(buffer, ticket([5, 6, 7])), put(buffer, ticket([6]))
    given_up.over = True
    buffer.drop_over()
    assert buffer.tokens == 6
    assert [row.ticket for row in take(buffer, 64)] == [wanted]
    assert not buffer


@pytest.mark.parametrize(("text_bytes", "large"), [(LARGE_BYTES - 1, False), (LARGE_BYTES, True)])
def test_large_documents_are_counted_apart(text_bytes: int, large: bool) -> None:
    buffer = Buffer()
    put(buffer, ticket([5, 6], text_bytes=text_bytes))
    assert (buffer.small_tokens, buffer.large_tokens) == ((0, 11) if large else (11, 0))


def test_a_full_batch_is_known() -> None:
    buffer = Buffer()
    put(buffer, ticket([10, 10]))
    assert not buffer.fills(max_rows=3, max_tokens=100)
    put(buffer, ticket([10]))
    assert buffer.fills(max_rows=3, max_tokens=100)
    assert buffer.fills(max_rows=10, max_tokens=30)
    assert not buffer.fills(max_rows=10, max_tokens=31)
