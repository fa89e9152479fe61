"""Outcomes and the offsets of their requests in Kafka transactions: exactly once.

Every request partition has a chain of transactions of its own, with a transactional id of its own.
A chain begins with `InitProducerId`, which ends what a former owner of the partition left open and
fences it off, and only then reads the committed offset. From there on each transaction holds the
outcomes of the next requests without a gap, and the offset behind them. So whoever writes for a
partition writes what comes next or nothing: a former owner that wakes up is refused by its epoch,
and if it begins a chain anew it finds in the committed offset what has been answered meanwhile.
The generation of the consumer group, which aiokafka's TxnOffsetCommit does not carry, is not
needed for that. (KIP-98, KIP-447.)
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from aiokafka import AIOKafkaProducer, TopicPartition
from faust.types import TP

from app.delivery import REPLY_TIMEOUT_S, RETRY_S, Publisher
from app.envelopes import TOO_LARGE, Envelope, Parcel
from app.kafka import client_options
from app.offsets import committed_offsets
from app.records import Outcome
from app.settings import MAX_BATCH_BYTES, MEBIBYTE

MAX_OUTCOMES = 512
"""Most outcomes of a transaction."""
MAX_BYTES = 16 * MEBIBYTE
"""Bytes of requests from which on a transaction takes no further outcome."""
TRANSACTION_S = 20.0
"""Longest that a transaction may take, the start of its producer included."""
BROKER_ABORTS_AFTER_S = 30.0
"""The broker ends a transaction that nobody ended, and its readers go on."""


class Chain:
    """The transactions of one request partition, as long as it is ours.

    A transaction that failed is written again by a chain that is begun anew, since it leaves the
    numbers of its producer behind, and since one whose end was not confirmed may have been
    committed. Then the outcomes go one by one, until the culprit, if there is one, stands alone.
    """

    def __init__(self, publisher: ExactlyOncePublisher, tp: TP) -> None:
        self.tp = tp
        self._publisher = publisher
        self._outcomes: dict[int, Outcome] = {}
        self._parcels: dict[int, Parcel] = {}
        self._changed = asyncio.Event()
        self._producer: AIOKafkaProducer | None = None
        self._committed = 0
        self._limit = MAX_OUTCOMES
        self._ended = False

    def put(self, outcome: Outcome) -> None:
        """Add an outcome, in whatever order."""
        if self._ended:
            self._publisher.leave()
            return
        self._outcomes[outcome.job.source.offset] = outcome
        self._changed.set()

    async def run(self) -> None:
        """Write what comes next, for ever."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            while self._next():
                with self._publisher.expected():
                    await self._advance()

    def end(self) -> None:
        """Give up what has not been written, and what still comes."""
        self._ended = True
        for _ in self._outcomes:
            self._publisher.leave()
        self._close()

    async def _advance(self) -> None:
        """Write what comes next, again and again until it is written; acknowledge it."""
        source = self._outcomes[self._next()[0]].job.source
        with self._publisher.confirmations.retries(source) as failed:
            attempt = 0
            while True:
                offsets = self._next()
                try:
                    async with asyncio.timeout(TRANSACTION_S):
                        await self._write(offsets)
                except Exception as error:
                    self._close()
                    failed(f"transaction failed: {type(error).__name__} {error}".rstrip())
                    self._give_up_replies(offsets, error)
                    self._limit = 1
                    await asyncio.sleep(RETRY_S[min(attempt, len(RETRY_S) - 1)])
                    attempt += 1
                else:
                    break
        self._limit = min(MAX_OUTCOMES, 2 * self._limit)
        outcomes = []
        for offset in offsets:
            outcome = self._outcomes.pop(offset)
            parcel = self._parcels.pop(offset, None)
            outcomes.append(outcome if parcel is None else parcel.outcome)
        self._publisher.acknowledge(outcomes)

    def _next(self) -> list[int]:
        """The offsets of the outcomes that come next, as far as none is missing."""
        upto = self._publisher.answered_upto(self.tp)
        offsets: list[int] = []
        size = 0
        for offset in sorted(offset for offset in self._outcomes if offset < upto):
            if len(offsets) == self._limit or size >= MAX_BYTES:
                break
            offsets.append(offset)
            size += len(self._outcomes[offset].job.event.message.value or b"")
        return offsets

    async def _write(self, offsets: list[int]) -> None:
        """Write the outcomes at these offsets, and the offset behind them, in one transaction."""
        producer = self._producer or await self._begin()
        # The first ones may have been written already, here or by another owner.
        unwritten = [offset for offset in offsets if offset >= self._committed]
        if not unwritten:
            return
        for offset in unwritten:
            if offset not in self._parcels:
                outcome = self._outcomes[offset]
                self._parcels[offset] = await self._publisher.parcel(outcome, producer)
        parcels = [self._parcels[offset] for offset in unwritten]
        await producer.begin_transaction()
        replies = any(parcel.replies for parcel in parcels)
        async with asyncio.timeout(REPLY_TIMEOUT_S if replies else None):
            await self._deliver(producer, parcels)
        behind = unwritten[-1] + 1
        await producer.send_offsets_to_transaction(
            {TopicPartition(self.tp.topic, self.tp.partition): behind},
            self._publisher.settings.app_id,
        )
        await producer.commit_transaction()
        self._committed = behind

    async def _deliver(self, producer: AIOKafkaProducer, parcels: list[Parcel]) -> None:
        """Have the broker confirm all the records of the transaction."""
        sent = [
            (parcel, part, await self._send(producer, parcel, part))
            for parcel in parcels
            for part in parcel.parts
        ]
        errors = await asyncio.gather(*(one for _, _, one in sent), return_exceptions=True)
        for (parcel, part, _), error in zip(sent, errors, strict=True):
            if isinstance(error, TOO_LARGE) and len(parcels) == 1:
                self._publisher.refuse(parcel, part, error)
            if isinstance(error, BaseException):
                raise error

    def _give_up_replies(self, offsets: list[int], error: Exception) -> None:
        """See to it that a topic which a request has named does not hold up its partition.

        Where the request stands alone it is answered elsewhere; where it does not, all are asked
        for anew that may have been deleted.
        """
        for offset in offsets:
            parcel = self._parcels.get(offset)
            if parcel is None or not parcel.replies:
                continue
            self._publisher.reply_topics.forget()
            if len(offsets) == 1:
                self._publisher.refuse_replies(parcel, error)
            else:
                del self._parcels[offset]

    async def _send(
        self, producer: AIOKafkaProducer, parcel: Parcel, part: list[Envelope]
    ) -> asyncio.Future[Any]:
        try:
            delivered: asyncio.Future[Any] = await part[0].send(producer)
        except TOO_LARGE as error:
            # Too large for the producer: whose it is needs no finding out.
            self._publisher.refuse(parcel, part, error)
            raise
        # Where another fails at once nobody looks at this one.
        delivered.add_done_callback(_look_at)
        return delivered

    async def _begin(self) -> AIOKafkaProducer:
        """Begin the chain: fence off whoever wrote for the partition, then see how far it came."""
        settings = self._publisher.settings
        producer = AIOKafkaProducer(
            **client_options(settings),
            transactional_id=f"{settings.app_id}-{self.tp.topic}-{self.tp.partition}",
            transaction_timeout_ms=int(BROKER_ABORTS_AFTER_S * 1000),
            max_request_size=MAX_BATCH_BYTES,
        )
        try:
            await producer.start()
            tp = TopicPartition(self.tp.topic, self.tp.partition)
            found = await committed_offsets(producer.client, settings.app_id, [tp])
        except BaseException:
            self._publisher.retire(producer)
            raise
        committed = found[tp]
        self._committed = 0 if committed is None else committed.offset
        self._producer = producer
        return producer

    def _close(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            self._publisher.retire(producer)


class ExactlyOncePublisher(Publisher):
    """Writes outcomes and the offsets of their requests in transactions, one chain a partition."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._chains: dict[TP, Chain] = {}

    async def on_partitions_revoked(self) -> None:
        """End all chains: Kafka's eager protocol takes all partitions away."""
        self._chains.clear()
        await super().on_partitions_revoked()

    def _send(self, outcome: Outcome) -> None:
        message = outcome.job.event.message
        self._consumer().finish(message)
        if message.tp not in self._chains:
            self._chains[message.tp] = self._begin_chain(message.tp)
        self._chains[message.tp].put(outcome)

    def _begin_chain(self, tp: TP) -> Chain:
        chain = Chain(self, tp)
        # Not in the task, which may be cancelled before it has begun.
        self._spawn(chain.run()).add_done_callback(lambda _: chain.end())
        return chain

    def answered_upto(self, tp: TP) -> int:
        """The offset before which every request of the partition has an outcome."""
        return self._consumer().answered_upto(tp)

    @contextmanager
    def expected(self) -> Iterator[None]:
        """The broker is expected to confirm what is done in the block."""
        self.confirmations.expect()
        try:
            yield
        except BaseException:
            self.confirmations.given_up()
            raise
        self.confirmations.arrived()

    def refuse_replies(self, parcel: Parcel, error: Exception) -> None:
        """Leave a topic that the request has named: it must not hold up its partition."""
        for part in parcel.replies:
            self.refuse(parcel, part, error)


def _look_at(delivered: asyncio.Future[Any]) -> None:
    """An error that nobody looked at is logged by asyncio, at any time."""
    if not delivered.cancelled():
        delivered.exception()
