"""Reading a topic from one offset to another, without a group: what is there, never what comes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.structs import ConsumerRecord

from app.errors import BrokerError
from app.kafka import broker_errors, client_options, close, connect, partitions_of
from app.settings import Settings

SILENCE_S = 30.0
"""Longest that the broker may take for a next answer."""
POLL_MS = 500
FETCH_BYTES = 1024 * 1024

Ranges = Mapping[TopicPartition, range]
"""Offsets to read, by partition."""


@asynccontextmanager
async def reader(
    settings: Settings,
    *,
    fetch_bytes: int = FETCH_BYTES,
    isolation_level: str = "read_committed",
) -> AsyncIterator[AIOKafkaConsumer]:
    """A consumer that is assigned nothing yet.

    Arguments:
        fetch_bytes: Most that is fetched of a partition at once, unless a record is larger.

    Raises:
        BrokerError: no broker answers.
    """
    consumer = AIOKafkaConsumer(
        **client_options(settings),
        isolation_level=isolation_level,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        max_partition_fetch_bytes=fetch_bytes,
    )
    try:
        await connect(consumer, settings)
        yield consumer
    finally:
        await close(consumer)


async def offsets_now(consumer: AIOKafkaConsumer, topic: str) -> dict[TopicPartition, range]:
    """The offsets of each partition of a topic that can be read at this moment.

    For a consumer of what is committed they end at the first transaction that is still open.

    Raises:
        BrokerError: there is no such topic, or the broker does not say.
    """
    partitions = await partitions_of(consumer, topic)
    with broker_errors(f"cannot ask for the offsets of {topic}"):
        begins = await consumer.beginning_offsets(partitions)
        ends = await consumer.end_offsets(partitions)
    return {tp: range(begins[tp], ends[tp]) for tp in partitions}


async def settle(settings: Settings, topic: str) -> None:
    """Wait until the transactions that are open on a topic have ended.

    What lies behind the first of them, committed or not, cannot be read until then.

    Raises:
        BrokerError: one does not end within `SILENCE_S`, or the broker does not answer.
    """
    async with (
        reader(settings, isolation_level="read_uncommitted") as every,
        reader(settings) as committed,
    ):
        ends = {tp: offsets.stop for tp, offsets in (await offsets_now(every, topic)).items()}
        deadline = time.monotonic() + SILENCE_S
        while True:
            readable = await offsets_now(committed, topic)
            if all(readable[tp].stop >= end for tp, end in ends.items()):
                return
            if time.monotonic() > deadline:
                raise BrokerError(
                    f"a transaction on {topic} has been open for {SILENCE_S:g} s, as after a "
                    "worker was killed: try again in a minute"
                )
            await asyncio.sleep(POLL_MS / 1000)


async def read(consumer: AIOKafkaConsumer, ranges: Ranges) -> AsyncGenerator[list[ConsumerRecord]]:
    """The records in these offsets, as they are fetched; in order within each partition.

    Raises:
        BrokerError: nothing is heard for `SILENCE_S`.
    """
    ends = {tp: offsets.stop for tp, offsets in ranges.items() if offsets}
    consumer.assign(list(ends))
    for tp in ends:
        consumer.seek(tp, ranges[tp].start)
    heard = time.monotonic()
    while ends:
        with broker_errors("cannot read on"):
            fetched = await consumer.getmany(*ends, timeout_ms=POLL_MS)
        for tp, records in fetched.items():
            yield [record for record in records if record.offset < ends[tp]]
        for tp in list(ends):
            # The position, not the last record: markers of transactions are no records.
            if await consumer.position(tp) >= ends[tp]:
                consumer.pause(tp)
                del ends[tp]
                heard = time.monotonic()
        if fetched:
            heard = time.monotonic()
        elif time.monotonic() - heard > SILENCE_S:
            raise BrokerError(f"Kafka has not answered for {SILENCE_S:g} s")
