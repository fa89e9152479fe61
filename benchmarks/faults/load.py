"""A steady load of requests on a topic, and a reader of the answers, in a thread of their own."""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from contextlib import suppress
from types import TracebackType
from typing import Any

import orjson
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.errors import KafkaError

from app.kafka import partitions_of, seek_to_end
from benchmarks.faults.counting import Answer, Counts, Ledger, Request

TEXT = "The striker scored twice as the home side won the cup final. Match {number}."
LONG_TEXT = TEXT * (192 * 1024 // len(TEXT))
"""Takes a device seconds, unlike everything that is sent after it."""
BROKEN = b'{"text": "no end'
TICK_S = 0.02
CATCH_UP_S = 0.5
"""How much of what could not be sent in time is sent afterwards, at once."""
BROKER_AWAY_S = 600.0
"""Longest that a broker may be away before its requests are given up."""
CONNECT_WITHIN_S = 60.0
QUIET_S = 2.0
"""How long after the last answer a repeat of one may still come."""


class Load:
    """Sends requests from its start until `stop_sending()`, and notes every answer.

    The producer is idempotent and tries again for as long as a broker is away. The reader assigns
    itself all partitions and joins no group. Used as a context manager, it is running when entered.

    Args:
        bootstrap_servers: the broker, by an address that no fault is put on.
        rate: requests per second.
        one_in_broken: one request in so many cannot be decoded; 0: none.
        one_in_long: one request in so many holds a document of 192 KiB; 0: none.
        isolation_level: the reader's, `read_committed` to see committed transactions alone.
        carries_source: see `Ledger`.
        watch: called again and again while the load is waited for; what it says is remarked.
    """

    def __init__(
        self,
        bootstrap_servers: str,
        request_topic: str,
        response_topic: str,
        *,
        rate: float,
        one_in_broken: int = 0,
        one_in_long: int = 0,
        isolation_level: str = "read_uncommitted",
        carries_source: bool = True,
        watch: Callable[[], str | None] = lambda: None,
    ) -> None:
        self._servers = bootstrap_servers
        self._request_topic = request_topic
        self._response_topic = response_topic
        self._rate = rate
        self._one_in_broken = one_in_broken
        self._one_in_long = one_in_long
        self._isolation_level = isolation_level
        self._watch = watch
        self._run = f"load{uuid.uuid4().hex[:8]}-"
        self.ledger = Ledger(self._run, request_topic, carries_source=carries_source)
        self._sending = True
        self._reading = True
        self._error: BaseException | None = None
        self._last_answer_at = 0.0
        self._positions: dict[int, int] = {}
        self._started = threading.Event()
        self._reread: asyncio.Event
        self._loop: asyncio.AbstractEventLoop
        self._task: asyncio.Task[None]
        self._unresolved = 0
        self._thread = threading.Thread(target=self._main, name="load")

    def __enter__(self) -> Load:
        self._thread.start()
        self._started.wait(CONNECT_WITHIN_S)
        self._check()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._sending = self._reading = False
        if self._thread.is_alive():  # something failed: a broker that is away is not waited for
            self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join()

    def run_for(self, seconds: float) -> None:
        """Let the load go on for a while."""
        ends_at = time.monotonic() + seconds
        while time.monotonic() < ends_at:
            self._tick()

    def run_until(self, condition: Callable[[], Any], within_s: float, what: str) -> bool:
        """Let the load go on until something is so; where it is not in time, that is remarked."""
        ends_at = time.monotonic() + within_s
        while not condition():
            if time.monotonic() > ends_at:
                self.ledger.remark(f"not within {within_s:.0f} s: {what}")
                return False
            self._tick()
        return True

    def run_until_answers_come(self, within_s: float = 90.0) -> None:
        """Let the load go on until an answer has come to what was sent from now on."""
        now = time.monotonic()
        self.run_until(lambda: self.ledger.newest_answered > now, within_s, "an answer")

    def read_again_from_the_beginning(self) -> None:
        """The response topic is a new one: read it from its beginning."""
        self._loop.call_soon_threadsafe(self._reread.set)

    def receive(self, answers: Iterable[Answer]) -> None:
        """Count answers of the response topic that were found elsewhere, if not read already."""

        async def receive() -> None:
            read = dict(self._positions)
            for answer in answers:
                if answer.offset >= read.get(answer.partition, 0):
                    self._receive(answer)
                    position = self._positions.get(answer.partition, 0)
                    self._positions[answer.partition] = max(position, answer.offset + 1)

        asyncio.run_coroutine_threadsafe(receive(), self._loop).result()

    def drain(self, patience_s: float = 30.0) -> Counts:
        """Send no more, wait until all is answered or nothing has come for `patience_s`; count."""
        self._sending = False
        began = time.monotonic()
        while self._unresolved and time.monotonic() - began < BROKER_AWAY_S:
            self._tick()
        began = time.monotonic()
        while True:
            self._tick()
            now = time.monotonic()
            quiet_s = now - max(began, self._last_answer_at)
            if quiet_s > (patience_s if self.ledger.outstanding else QUIET_S):
                break
        ended_at = now if self.ledger.outstanding else self._last_answer_at
        self._reading = False
        self._thread.join()
        return self.ledger.counts(ended_at)

    def _tick(self) -> None:
        self._check()
        if remark := self._watch():
            self.ledger.remark(remark)
        time.sleep(TICK_S)

    def _check(self) -> None:
        if self._error is not None:
            raise RuntimeError(f"the load failed: {self._error!r}") from self._error

    def _main(self) -> None:
        try:
            asyncio.run(self._run_load())
        except asyncio.CancelledError:
            pass
        except BaseException as error:
            self._error = error
        finally:
            self._started.set()

    async def _run_load(self) -> None:
        self._loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._reread = asyncio.Event()
        consumer = await self._open_reader(at_end=True)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._read(consumer))
            tasks.create_task(self._send())
            self._started.set()

    async def _send(self) -> None:
        producer = AIOKafkaProducer(
            bootstrap_servers=self._servers,
            enable_idempotence=True,
            # Also how long a batch is tried before it is given up.
            request_timeout_ms=int(BROKER_AWAY_S * 1000),
        )
        await producer.start()
        try:
            partitions = len(await producer.partitions_for(self._request_topic))
            number, began = 0, time.monotonic()
            while self._sending:
                now = time.monotonic()
                began = max(began, now - CATCH_UP_S - number / self._rate)
                while self._sending and number < (now - began) * self._rate:
                    await self._send_one(producer, number, number % partitions)
                    number += 1
                await asyncio.sleep(TICK_S)
            while self._unresolved and self._reading:  # noqa: ASYNC110
                await asyncio.sleep(TICK_S)
        finally:
            with suppress(KafkaError, TimeoutError):
                await asyncio.wait_for(producer.stop(), 5)

    async def _send_one(self, producer: AIOKafkaProducer, number: int, partition: int) -> None:
        sound = not self._one_in_broken or number % self._one_in_broken > 0
        identifier, key = f"{self._run}{number}", f"{self._run}key-{number}"
        request = Request(
            identifier if sound else key, key.encode(), partition, sound, time.monotonic()
        )
        long = self._one_in_long and number % self._one_in_long == 0
        text = LONG_TEXT if long else TEXT
        value = orjson.dumps({"id": identifier, "text": text.format(number=number)})
        self.ledger.sending(request)
        self._unresolved += 1
        sent = await producer.send(
            self._request_topic,
            value if sound else BROKEN,
            key=request.key,
            partition=partition,
        )

        def resolved(delivery: asyncio.Future[Any]) -> None:
            self._unresolved -= 1
            if delivery.cancelled() or delivery.exception() is not None:
                self.ledger.refused(request)
            else:
                self.ledger.confirmed(request, delivery.result().offset)

        sent.add_done_callback(resolved)

    async def _read(self, consumer: AIOKafkaConsumer) -> None:
        try:
            while self._reading:
                if self._reread.is_set():
                    self._reread.clear()
                    await consumer.stop()
                    self._positions.clear()
                    consumer = await self._open_reader(at_end=False)
                fetched = await consumer.getmany(timeout_ms=100)
                now = time.monotonic()
                for records in fetched.values():
                    for record in records:
                        if record.offset < self._positions.get(record.partition, 0):
                            continue  # counted already, by `receive()`
                        self._positions[record.partition] = record.offset + 1
                        self._receive(
                            Answer(
                                record.partition,
                                record.offset,
                                record.key,
                                record.value,
                                record.headers,
                                now,
                            )
                        )
        finally:
            await consumer.stop()

    def _receive(self, answer: Answer) -> None:
        self._last_answer_at = answer.at
        self.ledger.receive(answer)

    async def _open_reader(self, *, at_end: bool) -> AIOKafkaConsumer:
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self._servers,
            isolation_level=self._isolation_level,
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            retry_backoff_ms=50,
        )
        await consumer.start()
        partitions = await partitions_of(consumer, self._response_topic)
        consumer.assign(partitions)
        if at_end:
            await seek_to_end(consumer)
        else:
            await consumer.seek_to_beginning(*partitions)
        return consumer
