"""Send documents and collect their predictions: for the command line, the page and tests.

::

    async with Client(settings) as client:
        response = await client.predict("Shares fell on Monday.", timeout_s=10)

        async for document, response in client.exchange(documents):
            ...

A document is a text or a mapping with the fields of a request (`text`, `id`, `text_pair`,
`model`, `top_k`, `deadline_ms`); other keys stay with the caller.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import uuid
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Iterable,
    Mapping,
)
from typing import TYPE_CHECKING, Any

import orjson
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.errors import KafkaError

from app.errors import BrokerError
from app.exchange import ADVICE, Document, Exchange, NoAnswer, Progress, Response
from app.kafka import (
    broker_errors,
    client_options,
    close,
    connect,
    partitions_of,
    seek_to_end,
)
from app.settings import MAX_RECORD_BYTES, MEBIBYTE, PREFIX, Settings

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["Client", "Document", "Documents", "NoAnswer", "Progress", "Response"]

Documents = Iterable[Document] | AsyncIterable[Document]

REQUEST_FIELDS = ("text", "text_pair", "model", "top_k", "deadline_ms")
MAX_IN_FLIGHT = 8192
"""Documents that an exchange has sent and not seen answered."""
SILENCE_S = 60.0
"""Longest that an exchange waits for a next answer."""
STOP_TIMEOUT_S = 5.0
BATCH_BYTES = 256 * 1024
ENVELOPE_BYTES = 1024
"""What Kafka adds to a record, generously."""


class Client:
    """A sender of requests and a reader of responses, without a consumer group.

    The reader is assigned every partition of the response topic and stands still while nothing is
    pending, so that a client can be kept for the life of a server.

    Raises:
        BrokerError: on entering, when no broker answers or a topic is missing.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._run = uuid.uuid4().hex[:12]
        self._made = 0
        self._reader: AIOKafkaConsumer | None = None
        self._producer: AIOKafkaProducer | None = None
        self._starting = asyncio.Lock()
        self._opening = asyncio.Lock()
        self._exchanges: set[Exchange] = set()
        self._pending = asyncio.Event()
        self._reading: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Client:
        self._reader = await self._consumer()
        self._reader.pause(*self._reader.assignment())
        self._reading = asyncio.create_task(self._read(self._reader), name="responses")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Deliver what was sent and let go of the broker; at most a few seconds."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait([self._reading])
        for client in (self._producer, self._reader):
            if client is not None:
                # an idempotent producer would wait for a lost broker without end
                with contextlib.suppress(TimeoutError, KafkaError):
                    async with asyncio.timeout(STOP_TIMEOUT_S):
                        await client.stop()

    async def send(self, documents: Documents) -> int:
        """Send the documents and wait until Kafka has them all, not for their predictions.

        Returns:
            How many were sent.

        Raises:
            BrokerError: a document could not be delivered.
        """
        sent = 0
        deliveries: set[asyncio.Future[Any]] = set()
        async for document in _each(documents):
            deliveries.add(await self._send(document, self._identifier(document)))
            sent += 1
            if len(deliveries) >= MAX_IN_FLIGHT:
                deliveries = await _confirmed(deliveries, asyncio.FIRST_COMPLETED)
        if deliveries:
            await _confirmed(deliveries, asyncio.ALL_COMPLETED)
        return sent

    async def predict(self, document: Document, timeout_s: float = 30.0) -> Response:
        """Send one document and return its response, which may be an error.

        Raises:
            NoAnswer: no response within `timeout_s`.
            BrokerError: Kafka could not be used.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                answers = self.exchange([document], silence_s=timeout_s)
                async with contextlib.aclosing(answers):
                    async for _, response in answers:
                        return response
        raise NoAnswer(f"no answer within {timeout_s:g} s; {ADVICE}")

    async def predict_many(
        self,
        documents: Documents,
        *,
        progress: Callable[[Progress], None] | None = None,
        max_in_flight: int = MAX_IN_FLIGHT,
        silence_s: float = SILENCE_S,
    ) -> AsyncGenerator[Response]:
        """The responses of `exchange`, without their documents."""
        answers = self.exchange(
            documents, progress=progress, max_in_flight=max_in_flight, silence_s=silence_s
        )
        async with contextlib.aclosing(answers):
            async for _, response in answers:
                yield response

    async def exchange(
        self,
        documents: Documents,
        *,
        progress: Callable[[Progress], None] | None = None,
        max_in_flight: int = MAX_IN_FLIGHT,
        silence_s: float = SILENCE_S,
    ) -> AsyncGenerator[tuple[Document, Response]]:
        """Send the documents and yield each with its response, in the order of the responses.

        Every document is yielded once; repeated responses are counted, not yielded. `progress` is
        called with the counts after each document sent or answered.

        Raises:
            NoAnswer: nothing was sent or answered for `silence_s`; says what is missing.
            BrokerError: Kafka could not be used.
        """
        exchange = Exchange(self._settings.request_topic, progress or (lambda _: None))
        await self._open(exchange)
        feeding = asyncio.create_task(
            self._feed(exchange, documents, max_in_flight), name="documents"
        )
        try:
            async for answer in exchange.answers(silence_s):
                yield answer
        finally:
            feeding.cancel()
            self._exchanges.discard(exchange)
            if not self._exchanges:
                self._rest()
            await asyncio.wait([feeding])

    async def responses(self, *, from_beginning: bool = False) -> AsyncGenerator[Response]:
        """Every response on the response topic, from now on or from its beginning, without end.

        Raises:
            BrokerError: the topic cannot be read.
        """
        consumer = await self._consumer()
        try:
            with broker_errors(f"cannot read {self._settings.response_topic}"):
                if from_beginning:
                    await consumer.seek_to_beginning()
                else:
                    await seek_to_end(consumer)
                while True:
                    async for response in _responses(consumer, timeout_ms=1000):
                        yield response
        finally:
            await close(consumer)

    async def _consumer(self) -> AIOKafkaConsumer:
        """A consumer that is assigned every partition of the response topic."""
        settings = self._settings
        consumer = AIOKafkaConsumer(
            **client_options(settings),
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="latest",
            isolation_level="read_committed",
        )
        try:
            await connect(consumer, settings)
            await _require_topics(consumer, settings)
            consumer.assign(await partitions_of(consumer, settings.response_topic))
        except BaseException:
            await close(consumer)
            raise
        return consumer

    async def _open(self, exchange: Exchange) -> None:
        """Let the reader run, from the end of the topic if it stood still."""
        reader = self._reader
        if reader is None or self._reading is None or self._reading.done():
            raise BrokerError("the client is closed")
        async with self._opening:
            if not self._exchanges:
                with broker_errors(f"cannot read {self._settings.response_topic}"):
                    partitions = await partitions_of(reader, self._settings.response_topic)
                    if set(partitions) != reader.assignment():
                        reader.assign(partitions)
                    await seek_to_end(reader)
                reader.resume(*partitions)
                self._pending.set()
            self._exchanges.add(exchange)

    def _rest(self) -> None:
        """Stop fetching: what others ask and are answered meanwhile does not concern us."""
        self._pending.clear()
        if self._reader is not None:
            self._reader.pause(*self._reader.assignment())

    async def _read(self, reader: AIOKafkaConsumer) -> None:
        """Hand every response to the exchanges; a failure reaches each of them."""
        while True:
            await self._pending.wait()
            try:
                async for response in _responses(reader, timeout_ms=200):
                    for exchange in self._exchanges:
                        exchange.receive(response)
            except Exception as error:
                failure = BrokerError(f"cannot read {self._settings.response_topic}: {error}")
                for exchange in self._exchanges:
                    exchange.fail(failure)
                await asyncio.sleep(1)  # it may pass; do not spin meanwhile

    async def _feed(self, exchange: Exchange, documents: Documents, max_in_flight: int) -> None:
        """Send what there is room for; whatever goes wrong ends the exchange."""
        try:
            async for document in _each(documents):
                await exchange.room(max_in_flight)
                identifier = self._identifier(document)
                exchange.sending(identifier)
                delivery = await self._send(document, identifier)
                delivery.add_done_callback(
                    functools.partial(exchange.delivered, identifier, document)
                )
            exchange.complete()
        except Exception as error:
            exchange.fail(error)

    async def _send(self, document: Document, identifier: str) -> asyncio.Future[Any]:
        """Hand a document to the producer; the future is Kafka's confirmation."""
        producer = await self._started_producer()
        fields = {"text": document} if isinstance(document, str) else document
        value = _dump(
            {"id": identifier}
            | {name: fields[name] for name in REQUEST_FIELDS if fields.get(name) is not None}
        )
        if len(value) > MAX_RECORD_BYTES - ENVELOPE_BYTES:
            raise BrokerError(
                f"document {identifier!r} makes a record of {len(value) / MEBIBYTE:.1f} MiB; "
                f"Kafka takes at most {MAX_RECORD_BYTES // MEBIBYTE} MiB: shorten or split it"
            )
        with broker_errors(f"cannot send {identifier!r} to {self._settings.request_topic}"):
            delivery: asyncio.Future[Any] = await producer.send(
                self._settings.request_topic, value, key=identifier.encode()
            )
        return delivery

    def _identifier(self, document: Document) -> str:
        """The document's own id where it is usable, else one of this client's."""
        identifier = None if isinstance(document, str) else document.get("id")
        if isinstance(identifier, str) and identifier and _is_unicode(identifier):
            return identifier
        self._made += 1
        return f"{self._run}-{self._made}"

    async def _started_producer(self) -> AIOKafkaProducer:
        async with self._starting:
            if self._producer is None:
                producer = AIOKafkaProducer(
                    **client_options(self._settings),
                    enable_idempotence=True,
                    acks="all",
                    max_request_size=MAX_RECORD_BYTES,
                    max_batch_size=BATCH_BYTES,
                    linger_ms=2,
                )
                try:
                    await connect(producer, self._settings)
                except BaseException:
                    await producer.stop()
                    raise
                self._producer = producer
        return self._producer


async def _each(documents: Documents) -> AsyncIterator[Document]:
    """Walk either kind of iterable without keeping others from the event loop."""
    if isinstance(documents, AsyncIterable):
        async for document in documents:
            yield document
        return
    for n, document in enumerate(documents, start=1):
        yield document
        if n % 64 == 0:
            await asyncio.sleep(0)


async def _responses(consumer: AIOKafkaConsumer, timeout_ms: int) -> AsyncIterator[Response]:
    """One fetch of responses; what is none is passed over, for anybody can write to a topic."""
    for records in (await consumer.getmany(timeout_ms=timeout_ms)).values():
        for record in records:
            try:
                response = orjson.loads(record.value or b"")
            except orjson.JSONDecodeError:
                continue
            if isinstance(response, dict):
                yield response


async def _confirmed(deliveries: set[asyncio.Future[Any]], until: str) -> set[asyncio.Future[Any]]:
    """Wait for Kafka's confirmations and return the deliveries still under way."""
    done, pending = await asyncio.wait(deliveries, timeout=SILENCE_S, return_when=until)
    with broker_errors("a document was not delivered"):
        for delivery in done:
            delivery.result()
    if not done or (pending and until == asyncio.ALL_COMPLETED):
        raise BrokerError(
            f"Kafka has not confirmed {len(pending)} documents for {SILENCE_S:g} s; "
            "bertstream doctor says what is wrong"
        )
    return pending


async def _require_topics(consumer: AIOKafkaConsumer, settings: Settings) -> None:
    """Refuse to go on without our topics: a client that names them would create them its way."""
    with broker_errors("cannot list the topics"):
        missing = {settings.request_topic, settings.response_topic} - await consumer.topics()
    if not missing:
        return
    if not settings.create_topics:
        raise BrokerError(
            f"there is no topic {' and no topic '.join(sorted(missing))}: create what is missing "
            f"with bertstream topics --create, or set {PREFIX}CREATE_TOPICS=true"
        )
    from app.topics import ensure_topics

    await ensure_topics(settings)


def _dump(request: Mapping[str, Any]) -> bytes:
    try:
        return orjson.dumps(request)
    except TypeError:  # a lone surrogate: the worker is to refuse it, not we
        return json.dumps(request).encode()


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
