"""What the fault harness counts."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from benchmarks.faults.counting import Answer, Ledger, Request, longest_pause

RUN = "load00000000-"


def request(number: int, at: float = 0.0, *, sound: bool = True) -> Request:
    return Request(f"{RUN}{number}", f"key-{number}".encode(), number % 2, sound, at)


def answer(to: Request, at: float = 1.0, **changed: Any) -> Answer:
    value = {
        "id": to.answer_key,
        "status": "ok",
        "source": {"topic": "requests", "partition": to.partition, "offset": to.offset},
        **changed.pop("value", {}),
    }
    fields = {
        "key": to.answer_key.encode(),
        "value": orjson.dumps(value),
        "headers": [("request-key", to.key)],
        **changed,
    }
    return Answer(partition=0, offset=0, at=at, **fields)


@pytest.fixture
def ledger() -> Ledger:
    return Ledger(RUN, "requests")


def confirmed(ledger: Ledger, count: int) -> list[Request]:
    requests = [request(number) for number in range(count)]
    for offset, one in enumerate(requests):
        ledger.sending(one)
        ledger.confirmed(one, offset)
    return requests


def test_what_is_confirmed_and_not_answered_is_lost(ledger: Ledger) -> None:
    requests = confirmed(ledger, 3)
    ledger.receive(answer(requests[1]))
    counts = ledger.counts(2.0)
    assert (counts.sent, counts.answered, counts.lost) == (3, 1, 2)
    assert counts.remarks == ["lost: requests-0-0", "lost: requests-0-2"]


def test_latency_is_from_sending_to_the_first_answer(ledger: Ledger) -> None:
    for number, at in enumerate([10.0, 13.0, 14.0]):
        ledger.sending(request(number, at))
    for number, at in ((1, 13.5), (1, 20.0), (0, 12.0)):
        ledger.receive(answer(request(number), at))
    assert ledger.latencies() == [2.0, 0.5]
    assert ledger.latencies(since_s=3.0) == [0.5]


def test_what_is_not_confirmed_is_neither_lost_nor_wrong(ledger: Ledger) -> None:
    silent, answered = request(0), request(1)
    for one in (silent, answered):
        ledger.sending(one)
        ledger.refused(one)
    ledger.receive(answer(answered, value={"source": {"topic": "requests", "partition": 1}}))
    counts = ledger.counts(2.0)
    assert (counts.sent, counts.unconfirmed, counts.answered) == (0, 2, 0)
    assert (counts.lost, counts.wrongly_keyed) == (0, 0)


def test_an_answer_that_is_quicker_than_the_confirmation_counts(ledger: Ledger) -> None:
    quick = request(0)
    ledger.sending(quick)
    quick.offset = 5
    early = answer(quick)
    quick.offset = None
    ledger.receive(early)
    ledger.confirmed(quick, 5)
    assert ledger.outstanding == 0
    assert ledger.counts(2.0).answered == 1


def test_each_answer_beyond_the_first_is_a_duplicate(ledger: Ledger) -> None:
    [one] = confirmed(ledger, 1)
    for at in (1.0, 2.0, 3.0):
        ledger.receive(answer(one, at))
    counts = ledger.counts(3.0)
    assert (counts.answered, counts.duplicated) == (1, 2)


@pytest.mark.parametrize(
    "changed",
    [
        {"key": f"{RUN}999".encode()},
        {"key": None},
        {"value": {"id": f"{RUN}999"}},
        {"headers": [("request-key", b"another")]},
        {"headers": []},
        {"value": {"source": {"topic": "requests", "partition": 1, "offset": 0}}},
        {"value": {"source": {"topic": "requests", "partition": 0, "offset": 1}}},
    ],
)
def test_an_answer_that_does_not_fit_its_request(ledger: Ledger, changed: dict[str, Any]) -> None:
    [one] = confirmed(ledger, 1)
    ledger.receive(answer(one, **changed))
    assert ledger.counts(2.0).wrongly_keyed == 1


def test_answers_of_another_load_are_passed_over(ledger: Ledger) -> None:
    [one] = confirmed(ledger, 1)
    ledger.receive(answer(one, key=b"load11111111-7"))
    counts = ledger.counts(2.0)
    assert (counts.answered, counts.wrongly_keyed) == (0, 0)


def test_an_error_is_right_for_what_cannot_be_decoded_alone(ledger: Ledger) -> None:
    broken, sound = request(0, sound=False), request(1)
    for one in (broken, sound):
        ledger.sending(one)
        ledger.confirmed(one, 0)
        ledger.receive(answer(one, value={"status": "error"}))
    counts = ledger.counts(2.0)
    assert (counts.answered, counts.failed) == (2, 1)


def at(sent: float, answered: float | None, partition: int = 0) -> Request:
    one = Request("", b"", partition, True, sent)
    one.answered_at = answered
    return one


@pytest.mark.parametrize(
    ("requests", "ended_at", "pause_s"),
    [
        ([], 9, 0),
        ([at(0, 1), at(8, 9)], 9, 1),  # nothing was due between them
        ([at(0, 1), at(0.5, 7), at(3, 8)], 9, 6),
        ([at(0, 1), at(2, None)], 9, 7),
        ([at(0, 5), at(1, 5), at(2, 6)], 9, 5),
    ],
)
def test_the_longest_pause_is_one_in_which_something_was_due(
    requests: list[Request], ended_at: float, pause_s: float
) -> None:
    assert longest_pause(requests, ended_at) == pause_s


def test_a_pause_of_one_partition_is_told(ledger: Ledger) -> None:
    silent, *busy = (
        Request(f"{RUN}{number}", b"", int(number > 0), True, 1.0 + number) for number in range(11)
    )
    for offset, one in enumerate((silent, *busy)):
        ledger.sending(one)
        ledger.confirmed(one, offset)
    for one in busy:
        ledger.receive(answer(one, at=one.sent_at + 0.5))
    ledger.receive(answer(silent, at=12.0))
    counts = ledger.counts(12.0)
    assert counts.longest_pause_s == 1.5  # until the first answer at all
    assert counts.longest_partition_pause_s == 11.0
