"""What an outcome becomes on its way to Kafka: records, and what replaces one that is refused."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import MessageSizeTooLargeError, RecordListTooLargeError
from aiokafka.partitioner import DefaultPartitioner
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from app.errors import InferenceFailed
from app.records import Outcome
from app.settings import MAX_BATCH_BYTES, Settings
from models.errors import shortened

CARRIED_HEADERS = ("traceparent", "tracestate", "correlation-id")
TOPICS_MAX_AGE_S = 1.0
TOO_LARGE = (MessageSizeTooLargeError, RecordListTooLargeError)
"""What a broker says of a batch larger than its topic, or a segment of it, takes: for good."""

Headers = list[tuple[str, bytes | None]]


@dataclass(slots=True)
class Envelope:
    """A record to be produced."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers

    @property
    def too_large(self) -> bool:
        """Whether it is larger than any record may be, whatever the broker says."""
        size: int = DefaultRecordBatchBuilder.estimate_size_in_bytes(
            self.key, self.value, self.headers
        )
        return size > MAX_BATCH_BYTES

    async def send(self, producer: AIOKafkaProducer, *, alone: bool = False) -> Any:
        """Hand it to the producer; returns the future of its delivery.

        Arguments:
            alone: in a batch of its own, so that it is not refused on account of another.

        Raises:
            MessageSizeTooLargeError: it is `too_large`.
            KafkaError: the producer does not take it.
        """
        if self.too_large:
            raise MessageSizeTooLargeError
        if not alone and (self.key is not None or self.value is not None):
            return await producer.send(self.topic, self.value, key=self.key, headers=self.headers)
        # aiokafka's `send` refuses what has neither key nor value, though Kafka knows such records.
        batch = producer.create_batch()
        batch.append(key=self.key, value=self.value, timestamp=None, headers=self.headers)
        partitions = sorted(await producer.partitions_for(self.topic))
        partition = DefaultPartitioner()(self.key, partitions, partitions)
        return await producer.send_batch(batch, self.topic, partition=partition)


class Parcel:
    """An outcome as the records that it consists of, each with what replaces it.

    Every part is a list of alternatives: the first is sent, and where it is refused for good the
    next takes its place. A response that is too large in every form becomes an error.
    """

    def __init__(
        self, outcome: Outcome, settings: Settings, reply_error: str | None = None
    ) -> None:
        """
        Args:
            reply_error: what keeps the response from the topic that the request asks it on.
        """
        self.outcome = outcome
        self._settings = settings
        self.parts = self._parts(outcome, reply_error)

    def refuse(self, part: list[Envelope], reason: str) -> bool:
        """Go on to the next alternative of a part; False where there was none."""
        was_reply = self.is_reply(part)
        part.pop(0)
        if was_reply:
            part[:] = _responses(self.outcome, self._settings, reason)
        if part:
            return True
        self.parts.remove(part)
        if self.outcome.error is None:
            # Its record is not lost: it ends as an error, among the dead letters too.
            failure = InferenceFailed(f"the response cannot be written: {reason}")
            self.outcome = replace(self.outcome, answer=failure)
            self.parts = self._parts(self.outcome, None)
            return True
        return False

    def is_reply(self, part: list[Envelope]) -> bool:
        """Whether the part goes to a topic that the request has named."""
        ours = (self._settings.response_topic, self._settings.dead_letter_topic)
        return part[0].topic not in ours

    @property
    def replies(self) -> list[list[Envelope]]:
        """The parts that go to a topic that the request has named."""
        return [part for part in self.parts if self.is_reply(part)]

    def _parts(self, outcome: Outcome, reply_error: str | None) -> list[list[Envelope]]:
        topic = reply_topic(outcome)
        if topic is not None and reply_error is None:
            answers = [replace(response(outcome, self._settings), topic=topic)]
        else:
            answers = _responses(outcome, self._settings, reply_error)
        letters = list(_dead_letters(outcome, self._settings)) if outcome.error else []
        return [letters, answers] if letters else [answers]


class ReplyTopics:
    """Which topics a request may ask its answer on: those that match and exist."""

    def __init__(self, pattern: str) -> None:
        self._pattern = re.compile(pattern)
        self._known: set[str] = set()
        self._asked_at = -TOPICS_MAX_AGE_S
        self._asking = asyncio.Lock()

    async def problem(self, topic: str, producer: AIOKafkaProducer) -> str | None:
        """What keeps an answer from `topic`; a name that is nobody's is asked once a second.

        Raises:
            KafkaError: the broker cannot be asked.
        """
        if not self._pattern.fullmatch(topic):
            return f"{shortened(topic)!r} does not match {self._pattern.pattern!r}"
        async with self._asking:
            if topic not in self._known and self._is_old:
                cluster = await producer.client.fetch_all_metadata()
                self._known = set(cluster.topics())
                self._asked_at = time.monotonic()
        return None if topic in self._known else f"there is no topic {shortened(topic)!r}"

    def forget(self) -> None:
        """One of the topics cannot be written: it may exist no more."""
        if self._is_old:
            self._known.clear()

    @property
    def _is_old(self) -> bool:
        return time.monotonic() - self._asked_at > TOPICS_MAX_AGE_S


def reply_topic(outcome: Outcome) -> str | None:
    """The topic that the request asks its answer on, whether or not it may."""
    for name, value in outcome.job.event.message.headers or ():
        if name == "reply-topic" and value:
            topic: str = value.decode(errors="replace")
            return topic
    return None


def response(outcome: Outcome, settings: Settings) -> Envelope:
    """The response, as nearly every one is sent."""
    message = outcome.job.event.message
    headers = [header for header in message.headers or () if header[0] in CARRIED_HEADERS]
    if message.key is not None:
        headers.append(("request-key", message.key))
    return Envelope(settings.response_topic, outcome.key, outcome.value(), headers)


def _responses(outcome: Outcome, settings: Settings, reply_error: str | None) -> list[Envelope]:
    """The response, and without its headers: they hold the request's key, of whatever size."""
    full = response(outcome, settings)
    if reply_error is not None:
        full.headers.append(("reply-error", reply_error.encode(errors="replace")))
    return [full, replace(full, headers=[("request-key-omitted", b"too large")])]


def _dead_letters(outcome: Outcome, settings: Settings) -> Iterator[Envelope]:
    """The request byte for byte; without its value; without its headers and key."""
    message, source, error = outcome.job.event.message, outcome.job.source, outcome.error
    assert error is not None
    facts: Headers = [
        ("error.code", error.code.encode()),
        ("error.message", str(error).encode(errors="replace")),
        ("source.topic", source.topic.encode()),
        ("source.partition", str(source.partition).encode()),
        ("source.offset", str(source.offset).encode()),
        ("source.timestamp", str(int(message.timestamp * 1000)).encode()),
    ]
    headers: Headers = [*(message.headers or ()), *facts]
    topic = settings.dead_letter_topic
    omitted = ("error.value", b"omitted")
    yield Envelope(topic, message.key, message.value, headers)
    yield Envelope(topic, message.key, None, [*headers, omitted])
    yield Envelope(topic, None, None, [*facts, omitted])
