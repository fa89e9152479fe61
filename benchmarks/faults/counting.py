"""Requests that were sent and the answers that came, matched by id and source.

Nothing here trusts a worker: a request counts as sent when the broker has confirmed it, as
answered when a reader of the response topic has seen its answer.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

import orjson

RUN = re.compile(r"load[0-9a-f]{8}-")
"""How the ids of every load begin."""


@dataclass(slots=True)
class Request:
    """One record of the load."""

    answer_key: str
    """What its response must have as key, unique: its id, or its key where the id is unreadable."""
    key: bytes
    partition: int
    sound: bool
    """Whether it can be decoded, and so must be answered with a prediction."""
    sent_at: float
    """Seconds, as all times here, of one monotonic clock."""
    offset: int | None = None
    """Where it stands on its partition, once the broker has confirmed it."""
    answered_at: float | None = None
    answers: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """One record of the response topic."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Iterable[tuple[str, bytes | None]]
    at: float


@dataclass(frozen=True, slots=True)
class Counts:
    """The result of one load."""

    sent: int
    """Requests that the broker has confirmed."""
    unconfirmed: int
    """Requests that it has not; some may have got in all the same, and those may be answered."""
    answered: int
    lost: int
    """Confirmed requests without an answer."""
    duplicated: int
    """Answers beyond the first."""
    wrongly_keyed: int
    """Answers with a key, id, header or source that is not that of their request, or for nothing
    that was sent."""
    failed: int
    """Sound requests that were answered with an error."""
    longest_pause_s: float
    """Longest time without any answer while some were due."""
    longest_partition_pause_s: float
    """The same for the requests of one partition, the longest of all partitions."""
    duration_s: float
    rate: float
    """Requests confirmed per second while the load lasted."""
    remarks: list[str] = field(default_factory=list)
    """The first of what was wrong, for people."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class Ledger:
    """Matches answers to requests as both come in.

    Args:
        run: what the ids of this load begin with; answers of another load are passed over.
        request_topic: what the `source` of an answer must name.
        carries_source: whether the subject says in its answers where the request stood and
            hands the request's key back in a header, as the contract of bertstream asks.
    """

    MAX_REMARKS = 3
    """Most remarks of a kind."""

    def __init__(self, run: str, request_topic: str, *, carries_source: bool = True) -> None:
        assert RUN.match(run)
        self._run = run
        self._topic = request_topic
        self._carries_source = carries_source
        self._requests: dict[str, Request] = {}
        self._faults: Counter[str] = Counter()
        self._remarks: list[str] = []
        self.sent = 0
        self.unconfirmed = 0
        self.answered = 0
        self.newest_answered = 0.0
        """When the latest of the requests that are answered was sent."""
        self.began_at = self.ended_at = 0.0

    @property
    def outstanding(self) -> int:
        """Confirmed requests that wait for their answer."""
        return self.sent - self.answered

    def sending(self, request: Request) -> None:
        """A request is about to be sent."""
        self._requests[request.answer_key] = request
        self.began_at = self.began_at or request.sent_at
        self.ended_at = request.sent_at

    def confirmed(self, request: Request, offset: int) -> None:
        """The broker has taken a request."""
        request.offset = offset
        self.sent += 1
        if request.answers:  # its answer was quicker
            self.answered += 1

    def refused(self, request: Request) -> None:
        """The broker has not confirmed a request, and will not."""
        self.unconfirmed += 1

    def receive(self, answer: Answer) -> None:
        """A record has come in on the response topic."""
        key = (answer.key or b"").decode(errors="replace")
        request = self._requests.get(key)
        if request is None:
            if not RUN.match(key) or key.startswith(self._run):
                self._fault("wrongly_keyed", f"answer to nothing that was sent: {key[:80]!r}")
            return
        request.answers += 1
        if request.answers == 1:
            request.answered_at = answer.at
            self.newest_answered = max(self.newest_answered, request.sent_at)
            if request.offset is not None:
                self.answered += 1
        else:
            self._fault("duplicated", f"answer {request.answers} to {key}, {self._place(request)}")
        content = orjson.loads(answer.value or b"{}")
        if wrong := self._what_is_wrong(request, answer, content):
            self._fault("wrongly_keyed", f"answer to {key}: {wrong}")
        if request.sound and content.get("status", "ok") != "ok":
            self._fault("failed", f"answer to {key}: {content.get('error')}")

    def latencies(self, since_s: float = 0.0) -> list[float]:
        """Seconds from handing a request to the producer to its first answer.

        Args:
            since_s: only of what was sent so long after the beginning.
        """
        return [
            request.answered_at - request.sent_at
            for request in self._requests.values()
            if request.answered_at is not None and request.sent_at >= self.began_at + since_s
        ]

    def counts(self, ended_at: float) -> Counts:
        """What there is to say when nothing more is waited for."""
        requests = list(self._requests.values())
        confirmed = [request for request in requests if request.offset is not None]
        lost = [request for request in confirmed if not request.answers]
        places = [self._place(request) for request in lost]
        partitions = {request.partition for request in confirmed}
        sending_s = max(self.ended_at - self.began_at, 1e-9)
        answered_at = [one.answered_at for one in confirmed if one.answered_at is not None]
        # How long a lost answer was waited for at the end is no pause.
        until = max([self.ended_at, *answered_at])
        return Counts(
            sent=self.sent,
            unconfirmed=self.unconfirmed,
            answered=len(confirmed) - len(lost),
            lost=len(lost),
            duplicated=self._faults["duplicated"],
            wrongly_keyed=self._faults["wrongly_keyed"],
            failed=self._faults["failed"],
            longest_pause_s=longest_pause(confirmed, until),
            longest_partition_pause_s=max(
                (
                    longest_pause([one for one in confirmed if one.partition == number], until)
                    for number in partitions
                ),
                default=0.0,
            ),
            duration_s=ended_at - self.began_at,
            rate=self.sent / sending_s,
            remarks=[*self._remarks, *(f"lost: {place}" for place in places[: self.MAX_REMARKS])],
        )

    def _what_is_wrong(
        self, request: Request, answer: Answer, content: dict[str, Any]
    ) -> str | None:
        if content.get("id") != request.answer_key:
            return f"its id is {content.get('id')!r}"
        if not self._carries_source:
            return None
        if (found := dict(answer.headers).get("request-key")) != request.key:
            return f"its header request-key is {found!r}, not {request.key!r}"
        source = content.get("source", {})
        place = (source.get("topic"), source.get("partition"))
        if place != (self._topic, request.partition):
            return f"its source is {source}, not on {self._place(request)}"
        if request.offset is not None and source.get("offset") != request.offset:
            return f"its source is {source}, not {self._place(request)}"
        return None

    def _place(self, request: Request) -> str:
        return f"{self._topic}-{request.partition}-{request.offset}"

    def remark(self, remark: str) -> None:
        """Note something for people."""
        self._remarks.append(remark)

    def _fault(self, kind: str, remark: str) -> None:
        self._faults[kind] += 1
        if self._faults[kind] <= self.MAX_REMARKS:
            self._remarks.append(f"{kind}: {remark}")


def longest_pause(requests: Collection[Request], ended_at: float) -> float:
    """Longest time in which one of these requests or more was due and none was answered."""
    events = [(request.sent_at, 1) for request in requests]
    events += [(one.answered_at, -1) for one in requests if one.answered_at is not None]
    events.sort()
    longest = since = 0.0
    due = 0
    for at, change in events:
        if change > 0 and due == 0:
            since = at
        elif change < 0:
            longest = max(longest, at - since)
            since = at
        due += change
    return max(longest, ended_at - since) if due > 0 else longest
