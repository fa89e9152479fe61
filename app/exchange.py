"""Documents that were sent and the responses that belong to them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from app.errors import BrokerError

Document = str | Mapping[str, Any]
Response = dict[str, Any]
Source = tuple[int, int]
"""Partition and offset of a request."""

ADVICE = (
    "is a worker running (bertstream worker)? bertstream topics shows what waits, "
    "bertstream doctor what is wrong"
)


class NoAnswer(BrokerError):
    """Nothing was heard from a worker in time."""


@dataclass(slots=True)
class Progress:
    """Exact counts of one exchange."""

    sent: int = 0
    answered: int = 0
    duplicates: int = 0
    """Responses to a request that had been answered already: same id, same source."""

    @property
    def outstanding(self) -> int:
        """Documents that wait for their answer."""
        return self.sent - self.answered


class Exchange:
    """What one call of `Client.exchange` waits for.

    A response belongs to a document when its `source` is where Kafka put the document: ids may be
    used twice, by a file or by somebody else. A response can come before Kafka's confirmation,
    and is kept until then if its id is one that is being sent.
    """

    def __init__(self, request_topic: str, progress: Callable[[Progress], None]) -> None:
        self._request_topic = request_topic
        self._notify = progress
        self._progress = Progress()
        self._unconfirmed: Counter[str] = Counter()
        self._expected: dict[Source, Document] = {}
        self._early: dict[Source, Response] = {}
        self._seen: set[Source] = set()
        self._answers: asyncio.Queue[tuple[Document, Response]] = asyncio.Queue()
        self._changed = asyncio.Event()
        self._complete = False
        self._error: Exception | None = None

    async def room(self, max_in_flight: int) -> None:
        """Wait until fewer than `max_in_flight` documents are sent and not taken by the caller."""
        while self._progress.outstanding + self._answers.qsize() >= max_in_flight:
            self._changed.clear()
            await self._changed.wait()

    def sending(self, identifier: str) -> None:
        """A document is about to be sent under this id."""
        self._unconfirmed[identifier] += 1
        self._progress.sent += 1
        self._changed.set()
        self._notify(self._progress)

    def delivered(self, identifier: str, document: Document, delivery: asyncio.Future[Any]) -> None:
        """Kafka has confirmed, or refused, a document."""
        self._unconfirmed[identifier] -= 1
        if not self._unconfirmed[identifier]:
            del self._unconfirmed[identifier]
        if delivery.cancelled():
            return
        if (error := delivery.exception()) is not None:
            self.fail(BrokerError(f"{identifier!r} was not delivered: {error}"))
            return
        metadata = delivery.result()
        source = (metadata.partition, metadata.offset)
        self._expected[source] = document
        if (response := self._early.pop(source, None)) is not None:
            self._answer(source, response)

    def receive(self, response: Response) -> None:
        """Take a response if it is for one of our documents."""
        source = self._source(response)
        if source is None:
            return
        if source in self._expected:
            self._answer(source, response)
        elif source in self._seen or source in self._early:
            self._progress.duplicates += 1
            self._notify(self._progress)
        elif response.get("id") in self._unconfirmed:
            self._early[source] = response

    def complete(self) -> None:
        """Every document has been sent."""
        self._complete = True
        self._changed.set()

    def fail(self, error: Exception) -> None:
        """End the exchange; the first error is the one that is raised."""
        self._error = self._error or error
        self._changed.set()

    async def answers(self, silence_s: float) -> AsyncIterator[tuple[Document, Response]]:
        """Yield every document with its response, until all are answered.

        Raises:
            NoAnswer: nothing was sent or answered for `silence_s`.
        """
        while True:
            while not self._answers.empty():
                answer = self._answers.get_nowait()
                self._changed.set()
                yield answer
            if self._error is not None:
                raise self._error
            if self._complete and not self._progress.outstanding:
                return
            self._changed.clear()
            # while every document is answered we wait for the caller's next one, however long
            limit = silence_s if self._progress.outstanding else None
            try:
                async with asyncio.timeout(limit):
                    await self._changed.wait()
            except TimeoutError:
                raise NoAnswer(self._missing(silence_s)) from None

    def _answer(self, source: Source, response: Response) -> None:
        self._answers.put_nowait((self._expected.pop(source), response))
        self._seen.add(source)
        self._progress.answered += 1
        self._changed.set()
        self._notify(self._progress)

    def _source(self, response: Response) -> Source | None:
        source = response.get("source")
        if not isinstance(source, dict) or source.get("topic") != self._request_topic:
            return None
        partition, offset = source.get("partition"), source.get("offset")
        if not (isinstance(partition, int) and isinstance(offset, int)):
            return None  # anybody may write to the topic
        return partition, offset

    def _missing(self, silence_s: float) -> str:
        progress = self._progress
        return (
            f"no answer for {silence_s:g} s: {progress.outstanding} of {progress.sent} documents "
            f"are unanswered; {ADVICE}"
        )
