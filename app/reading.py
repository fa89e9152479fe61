"""Reading a topic from one offset to another, without a group: what is there, never what comes."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.structs import ConsumerRecord

from app.errors import BrokerError
from app.kafka import broker_errors, client_options, connect, partitions_of
from app.settings import Settings

SILENCE_S = 30.0
"""Longest that the broker may take for a next answer."""
POLL_MS = 500
FETCH_BYTES = 1024 * 1024

Ranges = Mapping[TopicPartition, range]
"""Offsets to read, by partition."""


@asynccontextmanager
async def reader(
    settings: Settings, *, fetch_bytes: int = FETCH_BYTES
) -> AsyncIterator[AIOKafkaConsumer]:
    """A consumer of what has been committed, that is assigned nothing yet.

    Arguments:
        fetch_bytes: Most that is fetched of a partition at once, unless a record is larger.

    Raises:
        BrokerError: no broker answers.
    """
    consumer = AIOKafkaConsumer(
        **client_options(settings),
        isolation_level="read_committed",
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        max_partition_fetch_bytes=fetch_bytes,
    )
    try:
        await connect(consumer, settings)
        yield consumer
    finally:
        await consumer.stop()


async def offsets_now(consumer: AIOKafkaConsumer, topic: str) -> dict[TopicPartition, range]:
    """The offsets that each partition of a topic holds at this moment.

    Raises:
        BrokerError: there is no such topic, or the broker does not say.
    """
    partitions = await partitions_of(consumer, topic)
    with broker_errors(f"cannot ask for the offsets of {topic}"):
        begins = await consumer.beginning_offsets(partitions)
        ends = await consumer.end_offsets(partitions)
    return {tp: range(begins[tp], ends[tp]) for tp in partitions}


async def read(consumer: AIOKafkaConsumer, ranges: Ranges) -> AsyncGenerator[list[ConsumerRecord]]:
    """The records in these offsets, as they are fetched; in order within each partition.

    A transaction that is still open is not waited for: its partition ends before it.

    Raises:
        BrokerError: the broker does not answer for `SILENCE_S`.
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
            if await _has_reached(consumer, tp, ends[tp]):
                consumer.pause(tp)
                del ends[tp]
                heard = time.monotonic()
        if fetched:
            heard = time.monotonic()
        elif time.monotonic() - heard > SILENCE_S:
            raise BrokerError(f"Kafka has not answered for {SILENCE_S:g} s")


async def _has_reached(consumer: AIOKafkaConsumer, tp: TopicPartition, end: int) -> bool:
    position = await consumer.position(tp)
    stable = consumer.last_stable_offset(tp)
    return position >= end or (stable is not None and 0 <= stable <= position)
