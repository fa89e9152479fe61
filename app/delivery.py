"""Outcomes to Kafka, and the acknowledgement of their requests once Kafka has them."""

from __future__ import annotations

import asyncio
import time
from abc import abstractmethod
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, ProducerClosed
from mode import Service

from app.confirmations import STALLED_AFTER_S, Confirmations, Turns
from app.envelopes import TOO_LARGE, Envelope, Parcel, ReplyTopics, reply_topic, response
from app.kafka import client_options
from app.outbox import Outbox
from app.records import Outcome
from app.settings import MAX_BATCH_BYTES, Settings
from app.telemetry import Telemetry
from models.errors import shortened

if TYPE_CHECKING:
    from app.transport import Consumer

MAX_AT_ONCE = 256
"""Most deliveries at once of those that are not just sent."""
MAX_AWAITING_DELIVERY = 4096
BATCH_BYTES = 32 * 1024
"""Of a batch of responses, unless one alone has more. One of each partition goes at a time, and a
slow connection has to carry them all before the first is confirmed."""
REPLY_TIMEOUT_S = 5.0
RETRY_S = (0.1, 0.5, 1.0, 2.0, 5.0)
SETTLE_POLL_S = 0.05
STOP_TIMEOUT_S = 5.0


class Publisher(Service):  # type: ignore[misc]
    """Delivers outcomes, and acknowledges a request when its outcome is delivered.

    Outcomes of partitions that were taken from this worker are dropped: whoever has them now
    reads those requests again.
    """

    def __init__(
        self,
        settings: Settings,
        telemetry: Telemetry,
        consumer: Callable[[], Consumer],
        on_error: Callable[[BaseException], None],
        **kwargs: Any,
    ) -> None:
        """
        Args:
            consumer: knows whose partitions are ours, and is told of what was delivered.
            on_error: called when an outcome can be neither delivered nor refused, for a reason
                that nobody has foreseen; its request stays open.
        """
        super().__init__(**kwargs)
        self.settings = settings
        self.telemetry = telemetry
        self.awaiting_delivery = 0
        self._consumer = consumer
        self._on_error = on_error
        self.confirmations = Confirmations()
        self._left = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._retiring: set[asyncio.Task[None]] = set()
        self.reply_topics = ReplyTopics(settings.reply_topics)

    @property
    def stalled(self) -> str | None:
        """What keeps outcomes from being delivered; None: nothing."""
        return self.confirmations.stalled

    async def publish(self, outcomes: Iterable[Outcome]) -> None:
        """Send outcomes; waits for room, not for their delivery."""
        consumer = self._consumer()
        for outcome in outcomes:
            while self.awaiting_delivery >= MAX_AWAITING_DELIVERY:
                self._left.clear()
                await self._left.wait()
            # Its partition may have gone while there was no room.
            if consumer.may_answer(outcome.job.event.message):
                self.awaiting_delivery += 1
                self._send(outcome)

    async def on_partitions_revoked(self) -> None:
        """Give up what has not been delivered: Kafka's eager protocol takes all partitions away."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @abstractmethod
    def _send(self, outcome: Outcome) -> None:
        """Send an outcome, and see to it that it is acknowledged or dropped in the end."""

    def acknowledge(self, outcomes: Sequence[Outcome]) -> None:
        """The outcomes are delivered: so are their requests done."""
        consumer = self._consumer()
        for outcome in outcomes:
            consumer.ack(outcome.job.event.message)
        self.leave(len(outcomes))
        self.telemetry.delivered(outcomes)

    def leave(self, count: int = 1) -> None:
        """Give up the room of outcomes."""
        self.awaiting_delivery -= count
        self._left.set()

    async def on_stop(self) -> None:
        """Give up what has not been delivered; it stays unacknowledged and is read again."""
        await self.on_partitions_revoked()
        await asyncio.gather(*self._retiring)

    async def settle(self) -> None:
        """Wait until everything is delivered, at most `STALLED_AFTER_S`."""
        deadline = time.monotonic() + STALLED_AFTER_S
        while self.awaiting_delivery and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(SETTLE_POLL_S)

    def retire(self, producer: AIOKafkaProducer) -> None:
        """Stop a producer, without waiting for it."""
        task = asyncio.ensure_future(_stop(producer))
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._on_task_done)
        return task

    def _on_task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._on_error(error)

    async def parcel(self, outcome: Outcome, producer: AIOKafkaProducer) -> Parcel:
        """The records that the outcome consists of; says where they are dead letters."""
        source, error = outcome.job.source, outcome.error
        if error is not None:
            self.log.warning(
                "dead letter topic=%s partition=%d offset=%d code=%s",
                *(source.topic, source.partition, source.offset, error.code),
            )
        topic, problem = reply_topic(outcome), None
        if topic is not None:
            try:
                async with asyncio.timeout(REPLY_TIMEOUT_S):
                    problem = await self.reply_topics.problem(topic, producer)
            except (TimeoutError, KafkaError) as failure:
                problem = f"{shortened(topic)!r}: {failure!r}"
        return Parcel(outcome, self.settings, problem)

    def refuse(self, parcel: Parcel, part: list[Envelope], error: Exception) -> None:
        """Replace a part that cannot be written, since `error` will not pass."""
        source, topic = parcel.outcome.job.source, part[0].topic
        reason = f"{topic!r}: {type(error).__name__} {error}".rstrip()
        self.log.warning(
            "not deliverable: topic=%s partition=%d offset=%d: %s",
            *(source.topic, source.partition, source.offset, reason),
        )
        if not parcel.refuse(part, reason):
            self.log.error(
                "%s takes it in no form, its request is done all the same: "
                "topic=%s partition=%d offset=%d",
                *(topic, source.topic, source.partition, source.offset),
            )


class AtLeastOncePublisher(Publisher):
    """Produces responses and dead letters with an idempotent producer of its own.

    A record that the broker refuses for a passing reason is sent again until it is taken, with a
    new producer, since a failed batch leaves the sequence numbers of the old one behind.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._producer: AIOKafkaProducer | None = None
        self._outbox: Outbox[Outcome] = Outbox(
            self.settings.response_topic,
            self._current_producer,
            self._spawn,
            on_delivered=self._on_delivered,
            on_failed=self._on_failed,
            on_given_up=self._give_up,
        )
        self._renewal = asyncio.Lock()
        self._turns = Turns(MAX_AT_ONCE)

    async def on_start(self) -> None:
        """Connect the producer; waits for a broker that has gone away."""
        while self._producer is None and not self.should_stop:
            try:
                self._producer = await self._new_producer()
            except KafkaError as error:
                self.log.warning("waiting for the broker: %s", error)
                await self.sleep(RETRY_S[-1])

    async def on_stop(self) -> None:
        """Give up what has not been delivered; it stays unacknowledged and is read again."""
        if self._producer is not None:
            self.retire(self._producer)
        await super().on_stop()

    async def on_partitions_revoked(self) -> None:
        """Give up what has not been delivered: Kafka's eager protocol takes all partitions away."""
        await super().on_partitions_revoked()
        self._outbox.clear()

    def _current_producer(self) -> AIOKafkaProducer:
        assert self._producer is not None
        return self._producer

    def _send(self, outcome: Outcome) -> None:
        self.confirmations.expect()
        if outcome.error is not None or reply_topic(outcome) is not None:
            self._spawn_delivery(outcome)
            return
        # The way of nearly every outcome: one record, no task of its own.
        try:
            envelope = response(outcome, self.settings)
        except BaseException:
            self._give_up([outcome])
            raise
        if envelope.too_large:
            self._spawn_delivery(outcome)
        else:
            self._outbox.put(outcome, envelope)

    def _on_delivered(self, outcomes: Sequence[Outcome]) -> None:
        self.confirmations.arrived(len(outcomes))
        self.acknowledge(outcomes)

    def _on_failed(self, outcomes: Sequence[Outcome]) -> None:
        for outcome in outcomes:
            if self._consumer().owns(outcome.job.event.message) and not self.should_stop:
                self._spawn_delivery(outcome)
            else:
                self._give_up([outcome])

    def _spawn_delivery(self, outcome: Outcome) -> None:
        # Not in the task, which may be cancelled before it has begun.
        delivery = self._spawn(self._deliver(outcome))
        delivery.add_done_callback(partial(self._on_delivery_over, outcome))

    def _on_delivery_over(self, outcome: Outcome, delivery: asyncio.Task[None]) -> None:
        if delivery.cancelled() or delivery.exception() is not None:
            self._give_up([outcome])

    def _give_up(self, outcomes: Sequence[Outcome]) -> None:
        self.confirmations.given_up(len(outcomes))
        self.leave(len(outcomes))

    async def _deliver(self, outcome: Outcome) -> None:
        """Deliver everything that the outcome consists of, then acknowledge it."""
        assert self._producer is not None
        parcel = await self.parcel(outcome, self._producer)
        while parcel.parts:
            part = parcel.parts[0]
            deliver = self._reply if parcel.is_reply(part) else self._deliver_part
            if await deliver(parcel, part):
                parcel.parts.pop(0)
        self.confirmations.arrived()
        self.acknowledge([parcel.outcome])

    async def _reply(self, parcel: Parcel, part: list[Envelope]) -> bool:
        """Answer on the topic that was asked for; False where that cannot be."""
        alone = False
        while True:
            producer = self._producer
            assert producer is not None
            try:
                async with asyncio.timeout(REPLY_TIMEOUT_S):
                    await (await part[0].send(producer, alone=alone))
            except TOO_LARGE as error:
                if alone or part[0].too_large:
                    self.refuse(parcel, part, error)
                    return False
                alone = True
                await self._renew(producer)
            except (TimeoutError, KafkaError) as error:
                if isinstance(error, KafkaError) and producer is not self._producer:
                    continue  # It was replaced meanwhile.
                self.refuse(parcel, part, error)
                self.reply_topics.forget()
                if isinstance(error, TimeoutError):
                    # It would go on trying, and hold up what goes with it to the same broker.
                    await self._renew(producer)
                return False
            else:
                return True

    async def _deliver_part(self, parcel: Parcel, part: list[Envelope]) -> bool:
        """Deliver a part, again and again where the broker refuses it for a passing reason.

        One that is too large is sent again alone, as only a neighbour in its batch may have been.
        It is not sent alone from the start: each partition takes one batch after the other, and
        thousands of them take longer than the producer keeps any.

        Returns:
            False where it was refused for good.
        """
        attempt, alone = 0, False
        with self.confirmations.retries(parcel.outcome.job.source) as failed:
            while True:
                producer = self._producer
                assert producer is not None
                try:
                    async with self._turns.turn():
                        await (await part[0].send(producer, alone=alone))
                except TOO_LARGE as error:
                    if alone or part[0].too_large:
                        self.refuse(parcel, part, error)
                        return False
                    alone = True
                except KafkaError as error:
                    failed(f"{part[0].topic}: {type(error).__name__}")
                    await self.sleep(RETRY_S[min(attempt, len(RETRY_S) - 1)])
                    attempt += 1
                else:
                    return True
                await self._renew(producer)

    async def _new_producer(self) -> AIOKafkaProducer:
        producer = AIOKafkaProducer(
            **client_options(self.settings),
            acks="all",
            enable_idempotence=True,
            max_request_size=MAX_BATCH_BYTES,
            max_batch_size=BATCH_BYTES,
        )
        try:
            await producer.start()
        except BaseException:
            self.retire(producer)
            raise
        return producer

    async def _renew(self, failed: AIOKafkaProducer) -> None:
        """Replace the producer that failed, unless somebody already has."""
        async with self._renewal:
            if self._producer is not failed:
                return
            try:
                self._producer = await self._new_producer()
            except KafkaError as error:
                self.log.warning("no new producer yet: %s", error)
                return
            self.retire(failed)


async def _stop(producer: AIOKafkaProducer) -> None:
    """Let what a producer still carries go out, at most `STOP_TIMEOUT_S`; the rest fails.

    aiokafka waits without end for what cannot go out, and whoever waits for it would, too.
    """
    try:
        await asyncio.wait_for(producer.stop(), STOP_TIMEOUT_S)
    except (TimeoutError, KafkaError):
        producer._message_accumulator.fail_all(ProducerClosed())
        with suppress(TimeoutError, KafkaError):
            await asyncio.wait_for(producer._sender.close(), STOP_TIMEOUT_S)
        await producer.client.close()
    # So would whoever waits for the metadata of a topic, now or from now on.
    metadata = producer.client._md_update_fut or asyncio.Future()
    if not metadata.done():
        metadata.set_exception(ProducerClosed())
        metadata.exception()  # asyncio logs one that nobody has looked at.
    producer.client._md_update_fut = metadata
