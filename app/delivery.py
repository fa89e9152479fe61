"""Outcomes to Kafka, and the acknowledgement of their requests once Kafka has them."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, MessageSizeTooLargeError
from mode import Service

from app.kafka import client_options
from app.records import Outcome
from app.settings import MAX_BATCH_BYTES, Settings
from app.telemetry import Telemetry

CARRIED_HEADERS = ("traceparent", "tracestate", "correlation-id")
MAX_AWAITING_DELIVERY = 4096
REPLY_TIMEOUT_S = 5.0
TOPICS_MAX_AGE_S = 1.0
RETRY_S = (0.1, 0.5, 1.0, 2.0, 5.0)
STOP_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Envelope:
    """A record to be produced."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]


class Publisher(Service):  # type: ignore[misc]
    """Produces responses and dead letters with an idempotent producer of its own.

    A request is acknowledged when the broker has confirmed everything that its outcome consists
    of. A record that the broker refuses for a passing reason is sent again until it is taken,
    with a new producer, since a failed batch leaves the sequence numbers of the old one behind.
    """

    def __init__(self, settings: Settings, telemetry: Telemetry, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.settings = settings
        self.telemetry = telemetry
        self._reply_topics = re.compile(settings.reply_topics)
        self._producer: AIOKafkaProducer | None = None
        self._renewal = asyncio.Lock()
        self._room = asyncio.Semaphore(MAX_AWAITING_DELIVERY)
        self._tasks: set[asyncio.Task[None]] = set()
        self._known_topics: set[str] = set()
        self._asked_for_topics = -TOPICS_MAX_AGE_S
        self.awaiting_delivery = 0

    async def on_start(self) -> None:
        """Connect the producer."""
        self._producer = await self._new_producer()

    async def on_stop(self) -> None:
        """Give up what has not been delivered; it stays unacknowledged and is read again."""
        for task in list(self._tasks):
            task.cancel()
        if self._producer is not None:
            with suppress(asyncio.TimeoutError, KafkaError):
                await asyncio.wait_for(self._producer.stop(), STOP_TIMEOUT_S)

    async def publish(self, outcomes: Iterable[Outcome]) -> None:
        """Send outcomes; waits for room, not for their delivery."""
        for outcome in outcomes:
            await self._room.acquire()
            self.awaiting_delivery += 1
            if outcome.error is None and not self._reply_topic(outcome):
                await self._send_response(outcome)
            else:
                self._spawn(self._deliver(outcome))

    async def _send_response(self, outcome: Outcome) -> None:
        """The way of nearly every outcome: one record, no task of its own."""
        producer = self._producer
        assert producer is not None
        response = self._response(outcome)
        try:
            delivered = await producer.send(
                response.topic, response.value, key=response.key, headers=response.headers
            )
        except KafkaError:
            self._spawn(self._deliver(outcome))
        else:
            delivered.add_done_callback(partial(self._on_delivered, outcome))

    def _on_delivered(self, outcome: Outcome, delivered: asyncio.Future[Any]) -> None:
        if delivered.cancelled():
            return
        if delivered.exception() is None:
            self._acknowledge(outcome)
        else:
            self._spawn(self._deliver(outcome))

    async def _deliver(self, outcome: Outcome) -> None:
        """Deliver everything that the outcome consists of, then acknowledge it."""
        if outcome.error is not None:
            await self._dead_letter(outcome)
        reply_topic = self._reply_topic(outcome)
        problem = None
        if reply_topic is not None:
            problem = await self._reply(outcome, reply_topic)
        if reply_topic is None or problem is not None:
            response = self._response(outcome, problem)
            try:
                await self._send_until_taken(response, outcome)
            except MessageSizeTooLargeError:
                # Its headers hold the key of the request, which may be as large as a record.
                bare = replace(response, headers=[("request-key-omitted", b"too large")])
                await self._send_until_taken(bare, outcome)
        self._acknowledge(outcome)

    def _acknowledge(self, outcome: Outcome) -> None:
        outcome.job.event.ack()
        self.awaiting_delivery -= 1
        self._room.release()
        self.telemetry.delivered(outcome)

    def _response(self, outcome: Outcome, problem: str | None = None) -> Envelope:
        headers = _response_headers(outcome)
        if problem is not None:
            headers.append(("reply-error", problem.encode()))
        return Envelope(self.settings.response_topic, outcome.key, outcome.value(), headers)

    def _reply_topic(self, outcome: Outcome) -> str | None:
        """The topic that the request asks its answer on, whether or not it may."""
        topic = _header(outcome, "reply-topic")
        return None if topic is None else topic.decode(errors="replace")

    async def _reply(self, outcome: Outcome, topic: str) -> str | None:
        """Answer on the topic that was asked for; returns what kept it from that."""
        if not self._reply_topics.fullmatch(topic):
            return f"{topic!r} does not match {self.settings.reply_topics!r}"
        response = self._response(outcome)
        envelope = Envelope(topic, response.key, response.value, response.headers)
        try:
            async with asyncio.timeout(REPLY_TIMEOUT_S):
                if not await self._exists(topic):
                    return f"there is no topic {topic!r}"
                await self._send(envelope)
        except TimeoutError:
            return f"{topic!r} could not be written for {REPLY_TIMEOUT_S:.0f} s"
        except KafkaError as error:
            return f"{topic!r}: {type(error).__name__}"
        return None

    async def _exists(self, topic: str) -> bool:
        """Whether the broker has the topic; a name that is nobody's is asked once a second."""
        now = time.monotonic()
        if topic not in self._known_topics and now - self._asked_for_topics > TOPICS_MAX_AGE_S:
            assert self._producer is not None
            cluster = await self._producer.client.fetch_all_metadata()
            self._known_topics = set(cluster.topics())
            self._asked_for_topics = now
        return topic in self._known_topics

    async def _dead_letter(self, outcome: Outcome) -> None:
        """Copy the request to the dead letters, without its value where that is too large."""
        message = outcome.job.event.message
        source = outcome.job.source
        error = outcome.error
        assert error is not None
        self.log.warning(
            "dead letter topic=%s partition=%d offset=%d code=%s",
            *(source.topic, source.partition, source.offset, error.code),
        )
        facts: list[tuple[str, bytes | None]] = [
            ("error.code", error.code.encode()),
            ("error.message", str(error).encode(errors="replace")),
            ("source.topic", source.topic.encode()),
            ("source.partition", str(source.partition).encode()),
            ("source.offset", str(source.offset).encode()),
            ("source.timestamp", str(int(message.timestamp * 1000)).encode()),
        ]
        topic = self.settings.dead_letter_topic
        omitted = ("error.value", b"omitted")
        for envelope in (
            Envelope(topic, message.key, message.value, [*_headers(message), *facts]),
            Envelope(topic, message.key, None, [*_headers(message), *facts, omitted]),
            Envelope(topic, None, None, [*facts, omitted]),
        ):
            try:
                await self._send_until_taken(envelope, outcome)
            except MessageSizeTooLargeError:
                continue
            return

    async def _send_until_taken(self, envelope: Envelope, outcome: Outcome) -> None:
        """Send a record, again and again where the broker refuses it for a passing reason.

        Raises:
            MessageSizeTooLargeError: it will never be taken.
        """
        attempt = 0
        while True:
            producer = self._producer
            try:
                await self._send(envelope)
            except MessageSizeTooLargeError:
                raise
            except KafkaError as error:
                source = outcome.job.source
                self.log.warning(
                    "not delivered to %s, trying again: topic=%s partition=%d offset=%d: %r",
                    *(envelope.topic, source.topic, source.partition, source.offset, error),
                )
            else:
                return
            await self.sleep(RETRY_S[min(attempt, len(RETRY_S) - 1)])
            attempt += 1
            await self._renew(producer)

    async def _send(self, envelope: Envelope) -> None:
        assert self._producer is not None
        await self._producer.send_and_wait(
            envelope.topic, envelope.value, key=envelope.key, headers=envelope.headers
        )

    async def _new_producer(self) -> AIOKafkaProducer:
        producer = AIOKafkaProducer(
            **client_options(self.settings),
            acks="all",
            enable_idempotence=True,
            max_request_size=MAX_BATCH_BYTES,
        )
        await producer.start()
        return producer

    async def _renew(self, failed: AIOKafkaProducer | None) -> None:
        """Replace the producer that failed, unless somebody already has."""
        async with self._renewal:
            if self._producer is not failed:
                return
            try:
                self._producer = await self._new_producer()
            except KafkaError as error:
                self.log.warning("no new producer yet: %s", error)
                return
            assert failed is not None
            self._spawn(_retire(failed))

    def _spawn(self, coroutine: Any) -> None:
        task = asyncio.ensure_future(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._on_task_done)

    def _on_task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.log.error("a delivery failed for good, its request stays open", exc_info=error)


async def _retire(producer: AIOKafkaProducer) -> None:
    """Let what an old producer still carries go out."""
    with suppress(asyncio.TimeoutError, KafkaError):
        await asyncio.wait_for(producer.stop(), STOP_TIMEOUT_S)


def _headers(message: Any) -> list[tuple[str, bytes | None]]:
    return list(message.headers or ())


def _header(outcome: Outcome, name: str) -> bytes | None:
    for key, value in outcome.job.event.message.headers or ():
        if key == name and value:
            found: bytes = value
            return found
    return None


def _response_headers(outcome: Outcome) -> list[tuple[str, bytes | None]]:
    message = outcome.job.event.message
    headers = [(name, value) for name, value in message.headers or () if name in CARRIED_HEADERS]
    if message.key is not None:
        headers.append(("request-key", message.key))
    return headers
