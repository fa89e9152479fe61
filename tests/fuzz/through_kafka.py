"""Mutated records through a real Kafka and a real worker: each must get exactly one outcome.

    python -m tests.fuzz.through_kafka [RECORDS [SEED]]

Starts both, says what became of the records and how the worker's memory went, and exits with 1
where a record got no outcome, or two, or where the memory grew.
"""

from __future__ import annotations

import asyncio
import struct
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import orjson
import psutil
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.util import calc_crc32c
from aiokafka.structs import TopicPartition

from app.broker import EmbeddedBroker
from app.errors import CODES
from app.kafka import client_options, partitions_of
from app.settings import MAX_RECORD_BYTES, MEBIBYTE, Settings
from app.topics import ensure_topics
from tests.fuzz.mutations import Mutations, Record
from tests.workers import StartedWorker, service_settings

CODECS = (None, "gzip", "snappy", "lz4", "zstd")
UNDER_WAY = 500
QUIET_S = 2.0
"""How long nothing more may come before that is all."""
SILENCE_S = 60.0
MAX_GROWTH_BYTES = 64 * MEBIBYTE
SAMPLE_S = 0.2
CRC_AT, CRC_OF = 17, 21
"""Where a record batch has its checksum, and from where on that counts."""

Place = tuple[int, int]
"""Partition and offset of a request."""


@dataclass
class Findings:
    """What became of the records; empty `problems` is what is wished for."""

    outcomes: Counter[str] = field(default_factory=Counter)
    """By code, predictions as `ok`."""
    dead_letters: int = 0
    problems: list[str] = field(default_factory=list)


def reply_topic(settings: Settings) -> str:
    """The one topic that answers may be asked on."""
    return f"{settings.request_topic.removesuffix('-requests')}-replies"


def mutated(settings: Settings, records: int, seed: int) -> list[Record]:
    """The records, the same for the same seed."""
    mutations = Mutations(seed, [reply_topic(settings)])
    return [mutations.record() for _ in range(records)]


async def write(settings: Settings, records: Iterable[Record]) -> dict[Place, Record]:
    """Write the records, in batches of every compression, and tell where each stands."""
    written: dict[Place, Record] = {}
    async with AsyncExitStack() as stack:
        producers = [
            await stack.enter_async_context(
                AIOKafkaProducer(
                    **client_options(settings),
                    compression_type=codec,
                    max_request_size=MAX_RECORD_BYTES,
                )
            )
            for codec in CODECS
        ]
        raw = AIOKafkaClient(bootstrap_servers=settings.bootstrap_servers)
        await raw.bootstrap()
        stack.push_async_callback(raw.close)
        await raw.set_topics([settings.request_topic])

        async def send(number: int, record: Record) -> None:
            topic = settings.request_topic
            nothing = record.key is None and record.value is None
            if record.header_name is not None or nothing:
                written[await _send_raw(raw, settings, number, record)] = record
                return
            place = await producers[number // UNDER_WAY % len(CODECS)].send_and_wait(
                topic, record.value, key=record.key, headers=record.headers
            )
            written[place.partition, place.offset] = record

        under_way: list[asyncio.Task[None]] = []
        for number, record in enumerate(records):
            under_way.append(asyncio.create_task(send(number, record)))
            if len(under_way) == UNDER_WAY:
                await asyncio.gather(*under_way)
                under_way = []
        await asyncio.gather(*under_way)
    return written


async def _send_raw(
    client: AIOKafkaClient, settings: Settings, number: int, record: Record
) -> Place:
    """Write a record that Kafka takes and aiokafka's producer refuses, in a batch of its own."""
    topic, partition = settings.request_topic, number % settings.partitions
    builder = DefaultRecordBatchBuilder(
        *(2, 0, False, -1, -1, -1),  # version, codec, transaction, producer id, epoch, sequence
        MAX_RECORD_BYTES,
    )
    name = record.header_name or b""
    mark = "@" * len(name)
    headers = [*record.headers, (mark, b"v")]
    now = int(time.time() * 1000)
    builder.append(0, timestamp=now, key=record.key, value=record.value, headers=headers)
    batch = bytearray(builder.build())
    at = batch.rindex(mark.encode())
    batch[at : at + len(name)] = name
    struct.pack_into(">I", batch, CRC_AT, calc_crc32c(bytes(batch[CRC_OF:])))
    node = client.cluster.leader_for_partition(TopicPartition(topic, partition))
    request = ProduceRequest(
        transactional_id=None,
        required_acks=-1,
        timeout=30_000,
        topics=[(topic, [(partition, bytes(batch))])],
    )
    [(_, [(_, error, offset, *_)])] = (await client.send(node, request)).topics
    assert error == 0, f"the broker refuses the record: {error}"
    return partition, offset


async def examine(settings: Settings, written: dict[Place, Record]) -> Findings:
    """Read every outcome and every dead letter, and hold them against what was written."""
    findings = Findings()
    answered: Counter[Place] = Counter()
    refused: set[Place] = set()
    letters: Counter[Place] = Counter()
    replies = reply_topic(settings)
    consumer = AIOKafkaConsumer(
        **client_options(settings), group_id=None, isolation_level="read_committed"
    )
    async with consumer:
        topics = (settings.response_topic, settings.dead_letter_topic, replies)
        partitions = [each for topic in topics for each in await partitions_of(consumer, topic)]
        consumer.assign(partitions)
        await consumer.seek_to_beginning(*partitions)
        heard = time.monotonic()
        while True:
            complete = len(answered) == len(written) and len(letters) == len(refused)
            if time.monotonic() - heard > (QUIET_S if complete else SILENCE_S):
                break
            for tp, records in (await consumer.getmany(timeout_ms=500)).items():
                heard = time.monotonic()
                for record in records:
                    if tp.topic == settings.dead_letter_topic:
                        headers = dict(record.headers)
                        place = int(headers["source.partition"]), int(headers["source.offset"])
                        letters[place] += 1
                        if record.value != written[place].value:
                            findings.problems.append(f"{place}: its dead letter has another value")
                        continue
                    response = orjson.loads(record.value)
                    place = response["source"]["partition"], response["source"]["offset"]
                    answered[place] += 1
                    code = response["error"]["code"] if response["status"] == "error" else "ok"
                    findings.outcomes[code] += 1
                    if code not in {"ok", *CODES}:
                        findings.problems.append(f"{place}: {code} is no code of the contract")
                    if code != "ok":
                        refused.add(place)
    findings.dead_letters = len(letters)
    for what, places in (
        ("no outcome", written.keys() - answered.keys()),
        ("several outcomes", {place for place, times in answered.items() if times > 1}),
        ("an outcome, and was never written", answered.keys() - written.keys()),
        ("no dead letter, or several", {place for place in refused if letters[place] != 1}),
        ("a dead letter without an error", letters.keys() - refused),
    ):
        for place in sorted(places)[:5]:
            findings.problems.append(f"{place}: {what}: {written.get(place)!r}"[:400])
        if len(places) > 5:
            findings.problems.append(f"{len(places):,} records: {what}")
    return findings


class Memory:
    """Samples the resident memory of a process, in bytes, until told to stop."""

    def __init__(self, pid: int) -> None:
        self.samples: list[int] = []
        self._process = psutil.Process(pid)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._stop.wait(SAMPLE_S):
            self.samples.append(self._process.memory_info().rss)

    def tenths(self) -> list[float]:
        """Mean of each tenth of the run."""
        step = max(1.0, len(self.samples) / 10)
        parts = [self.samples[int(n * step) : int((n + 1) * step)] for n in range(10)]
        return [sum(part) / len(part) for part in parts if part]


async def prepare(settings: Settings) -> None:
    """Create the topics, that of the answers included."""
    from aiokafka.admin import AIOKafkaAdminClient, NewTopic

    await ensure_topics(settings)
    admin = AIOKafkaAdminClient(**client_options(settings))
    await admin.start()
    await admin.create_topics([NewTopic(reply_topic(settings), 1, 1)])
    await admin.close()


def main() -> int:
    """Run it all."""
    records = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    with tempfile.TemporaryDirectory() as folder, EmbeddedBroker(Path(folder, "broker")) as broker:
        settings = service_settings(broker.address, "fuzz", Path(folder))
        asyncio.run(prepare(settings))
        worker = StartedWorker(settings, Path(folder, "worker.log"))
        try:
            worker.wait_until_ready()
            began = time.monotonic()
            with Memory(worker.process.pid) as memory:
                written = asyncio.run(write(settings, mutated(settings, records, seed)))
                findings = asyncio.run(examine(settings, written))
            took = time.monotonic() - began
        finally:
            worker.kill()
    tenths = memory.tenths()
    growth = sum(tenths[-3:]) / 3 - sum(tenths[3:6]) / 3
    print(f"{len(written):,} records (seed {seed}) in {took:.0f} s, {findings.dead_letters:,} dead")
    for code, times in findings.outcomes.most_common():
        print(f"  {code:20} {times:>8,}")
    sizes = " ".join(f"{mean / MEBIBYTE:.0f}" for mean in tenths)
    print(f"worker's memory by tenth of the run, MiB: {sizes}")
    if growth > MAX_GROWTH_BYTES:
        findings.problems.append(f"the memory grew by {growth / MEBIBYTE:.0f} MiB")
    for problem in findings.problems:
        print(problem)
    return 1 if findings.problems else 0


if __name__ == "__main__":
    sys.exit(main())
