"""Dead letters back to where they came from, each once.

A replayed request and the mark that says so are written in one Kafka transaction: either both are
there or neither is, whenever the replay ends. There is one replay at a time: a later one fences
the earlier, as both have the same transactional id.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import IllegalOperation, KafkaError, ProducerFenced

from app.dead_letter_topic import DeadLetterTopic, Selection
from app.dead_letters import REPLAY_COUNT, DeadLetter, Filter, Mark
from app.envelopes import TOO_LARGE, Envelope
from app.errors import BrokerError
from app.kafka import broker_errors, client_options, connect, partitions_of
from app.reading import SILENCE_S, Ranges, offsets_now, read, reader, settle
from app.records import REPLAY_ID
from app.settings import MAX_BATCH_BYTES, MEBIBYTE, Settings

MAX_REPLAYS = 3
BATCH_LETTERS = 500
BATCH_BYTES = 4 * MEBIBYTE
"""A transaction takes no more dead letters after the first of both."""
TRANSACTION_TIMEOUT_MS = 10_000
"""Workers do not read past an open transaction: one whose replay was killed must not last."""
STOP_TIMEOUT_S = 5.0


@dataclass
class Report:
    """What a replay has done."""

    replayed: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    """Dead letters that could not be replayed, by the reason."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a replay is to do."""

    selection: Selection
    ranges: Ranges
    again: bool
    exhausted: int
    """Dead letters that have been replayed too often already."""

    @classmethod
    async def of(
        cls,
        topic: DeadLetterTopic,
        wanted: Filter,
        *,
        again: bool = False,
        max_replays: int = MAX_REPLAYS,
        advance: Callable[[int], object] = lambda records: None,
    ) -> Plan:
        """Look for what is to be replayed.

        Arguments:
            topic: Opened `settled`, so that no mark is missed.
            again: Also what has been replayed already.
            max_replays: Leave out what has been replayed so often and ended here again.
            advance: Told, now and then, how many records more have been read.

        Raises:
            BrokerError: the broker does not answer.
        """
        exhausted = 0

        def admits(letter: DeadLetter) -> bool:
            nonlocal exhausted
            if not wanted.admits(letter):
                return False
            exhausted += letter.replays >= max_replays
            return letter.replays < max_replays

        ranges = await topic.since(wanted.since)
        selection = await Selection.of(topic, ranges, admits, advance)
        return cls(selection, ranges, again, exhausted)

    @property
    def count(self) -> int:
        """How many dead letters are to be replayed."""
        selected = self.selection.codes.total()
        return selected if self.again else selected - self.already_replayed

    @property
    def already_replayed(self) -> int:
        """How many of those that were asked for have been replayed."""
        return self.selection.replayed.total()


class Replay:
    """Does what was planned."""

    def __init__(
        self,
        settings: Settings,
        topic: DeadLetterTopic,
        requests: Requests,
        producer: AIOKafkaProducer,
        to: str | None,
    ) -> None:
        self.report = Report()
        self._settings = settings
        self._topic = topic
        self._requests = requests
        self._producer = producer
        self._to = to

    @classmethod
    @asynccontextmanager
    async def open(
        cls, settings: Settings, topic: DeadLetterTopic, *, to: str | None = None
    ) -> AsyncIterator[Replay]:
        """Begin a replay, which ends any other of this group.

        Arguments:
            to: A topic to send to, instead of the one that each request came from.

        Raises:
            BrokerError: no broker answers, or there is no topic `to`.
        """
        async with Requests.open(settings) as requests:
            if to is not None:
                await requests.require(to)
            replay = cls(settings, topic, requests, await _producer(settings), to)
            try:
                yield replay
            finally:
                await _stop(replay._producer)

    async def send(
        self,
        plan: Plan,
        *,
        limit: int | None = None,
        advance: Callable[[int], object] = lambda letters: None,
    ) -> Report:
        """Send the dead letters of the plan back, and mark them.

        They go partition by partition of their topic, the oldest of each first.

        Arguments:
            limit: Most to try.
            advance: Told of each dead letter that is on its way, or cannot be.

        Raises:
            BrokerError: Kafka went away, or another replay has begun. What was sent is marked.
        """
        # Another replay may have sent some since they were looked for. It has ended by now.
        await settle(self._settings, self._topic.name)
        await plan.selection.update(self._topic)
        batch: list[DeadLetter] = []
        size = tried = 0
        async with aclosing(self._chosen(plan)) as chosen:
            async for found in chosen:
                if tried == limit:
                    break
                tried += 1
                advance(1)
                letter = await self._complete(found)
                if letter is None:
                    continue
                elsewhere = bool(batch) and batch[0].place.partition != letter.place.partition
                if elsewhere or len(batch) >= BATCH_LETTERS or size >= BATCH_BYTES:
                    await self._send(batch)
                    batch, size = [], 0
                batch.append(letter)
                size += len(letter.value or b"")
        if batch:
            await self._send(batch)
        return self.report

    async def _chosen(self, plan: Plan) -> AsyncGenerator[DeadLetter]:
        for tp, offsets in plan.ranges.items():
            async with aclosing(self._topic.read({tp: offsets})) as reading:
                async for items in reading:
                    for item in items:
                        if isinstance(item, DeadLetter) and plan.selection.includes(
                            item.place, replayed=plan.again
                        ):
                            yield item

    async def _complete(self, letter: DeadLetter) -> DeadLetter | None:
        """The letter with all that its request had; None, and a count, where it cannot be sent."""
        target = self._target(letter)
        if target not in self._requests.topics:
            self.report.failed[f"there is no topic {target}"] += 1
            return None
        if not letter.omitted:
            return letter
        whole = await self._requests.complete(letter)
        if whole is None:
            self.report.failed["the value was too large to be kept, and the request is gone"] += 1
        return whole

    async def _send(self, letters: Sequence[DeadLetter]) -> None:
        """Send letters of one partition; where some are refused, all but these."""
        try:
            await self._transaction(letters)
        except TOO_LARGE:
            # The sequence numbers of a producer that was refused are behind.
            await _stop(self._producer)
            self._producer = await _producer(self._settings)
            if len(letters) == 1:
                target = self._target(letters[0])
                self.report.failed[f"the request is too large for {target}"] += 1
                return
            middle = len(letters) // 2
            await self._send(letters[:middle])
            await self._send(letters[middle:])
        except ProducerFenced:
            raise BrokerError(
                f"another replay has begun, so this one ended; it sent {self.report.replayed:,}"
            ) from None
        except (KafkaError, IllegalOperation, TimeoutError) as error:
            raise BrokerError(
                f"the replay stopped after {self.report.replayed:,}, start it again to go on: "
                f"{str(error) or type(error).__name__}"
            ) from error
        else:
            self.report.replayed += len(letters)

    async def _transaction(self, letters: Sequence[DeadLetter]) -> None:
        """Write the requests and the mark that says so, or nothing.

        Raises:
            KafkaError: nothing is written; or, where it came of the commit, perhaps all.
            IllegalOperation, TimeoutError: the same.
        """
        producer, place = self._producer, letters[0].place
        mark = Mark.header(letter.place.offset for letter in letters)
        await producer.begin_transaction()
        try:
            async with asyncio.timeout(SILENCE_S):
                sent = []
                try:
                    for letter in letters:
                        delivered = await self._request(letter).send(producer)
                        sent.append(delivered)
                    sent.append(
                        await producer.send(
                            place.topic, key=b"replayed", partition=place.partition, headers=[mark]
                        )
                    )
                except IllegalOperation:
                    # The transaction has failed meanwhile, and what was sent before knows why.
                    await asyncio.gather(*sent)
                    raise
                await asyncio.gather(*sent)
        except BaseException:
            # A producer that failed for good cannot; its successor then does as it begins.
            with suppress(Exception):
                async with asyncio.timeout(STOP_TIMEOUT_S):
                    await producer.abort_transaction()
            raise
        async with asyncio.timeout(SILENCE_S):
            await producer.commit_transaction()

    def _request(self, letter: DeadLetter) -> Envelope:
        """The request as it was, with a header that counts, and one that keeps its id."""
        ours = (REPLAY_COUNT, REPLAY_ID)
        headers = [(name, value) for name, value in letter.headers if name not in ours]
        headers.append((REPLAY_COUNT, str(letter.replays + 1).encode()))
        if letter.own_id is None:
            headers.append((REPLAY_ID, letter.request_id.encode()))
        return Envelope(self._target(letter), letter.key, letter.value, headers)

    def _target(self, letter: DeadLetter) -> str:
        return self._to or letter.source.topic


class Requests:
    """Looks up requests where they stood."""

    def __init__(self, consumer: AIOKafkaConsumer, topics: set[str]) -> None:
        self.topics = topics
        """Every topic that there is."""
        self._consumer = consumer
        self._ranges: dict[str, Ranges] = {}

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: Settings) -> AsyncIterator[Requests]:
        """Connect.

        Raises:
            BrokerError: no broker answers.
        """
        async with reader(settings) as consumer:
            with broker_errors("cannot list the topics"):
                topics = set(await consumer.topics())
            yield cls(consumer, topics)

    async def require(self, topic: str) -> None:
        """Make sure of a topic, which may be new.

        Raises:
            BrokerError: there is none.
        """
        if topic not in self.topics:
            try:
                await partitions_of(self._consumer, topic)
            except BrokerError:
                raise BrokerError(
                    f"there is no topic {topic}: create it before the replay"
                ) from None
            self.topics.add(topic)

    async def complete(self, letter: DeadLetter) -> DeadLetter | None:
        """A letter whose value was omitted with all of its request; None where that is gone.

        Raises:
            BrokerError: the broker does not answer.
        """
        source = letter.source
        if source.topic not in self.topics:
            return None
        if source.topic not in self._ranges:
            self._ranges[source.topic] = await offsets_now(self._consumer, source.topic)
        tp = TopicPartition(source.topic, source.partition)
        if source.offset not in self._ranges[source.topic].get(tp, ()):
            return None
        wanted = {tp: range(source.offset, source.offset + 1)}
        async with aclosing(read(self._consumer, wanted)) as reading:
            found = [record async for records in reading for record in records]
        # A topic that was made anew has other records at the same offsets. The times are rounded.
        if not found or abs(found[0].timestamp / 1000 - letter.source_time) > 0.002:
            return None
        return replace(
            letter,
            key=found[0].key,
            value=found[0].value,
            headers=tuple(found[0].headers),
            omitted=False,
        )


async def _producer(settings: Settings) -> AIOKafkaProducer:
    producer = AIOKafkaProducer(
        **client_options(settings),
        transactional_id=f"{settings.app_id}-replay",
        transaction_timeout_ms=TRANSACTION_TIMEOUT_MS,
        max_request_size=MAX_BATCH_BYTES,
    )
    try:
        await connect(producer, settings)
    except BaseException:
        await _stop(producer)
        raise
    return producer


async def _stop(producer: AIOKafkaProducer) -> None:
    with suppress(TimeoutError, KafkaError):
        async with asyncio.timeout(STOP_TIMEOUT_S):
            await producer.stop()
