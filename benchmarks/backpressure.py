"""`python -m benchmarks.backpressure`: one worker with far more before it than it can take.

What its memory comes to, how long its page takes to answer, and whether it stays in its group.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import orjson
import psutil
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from app.kafka import client_options, partitions_of
from app.settings import MAX_BATCH_BYTES, MEBIBYTE, Settings
from benchmarks.faults.deployment import Deployment
from benchmarks.faults.subjects import OURS, Process
from benchmarks.page import add_outputs, markdown, publish
from tests.workers import eventually

SENTENCE = "The striker scored twice as the home side won the cup final. "
SAMPLE_S = 0.25
BATCH_BYTES = 512 * 1024
ANSWERS_WITHIN_S = 60.0
COLUMNS = (
    "what waits",
    "seconds",
    "answered",
    "memory when ready, MiB",
    "most, MiB",
    "at the end, MiB",
    "slowest page, ms",
    "rebalances",
)
SLOW_DEVICE = replace(
    OURS, command=("-m", "benchmarks.slow_device", "-A", "app", "worker", "-l", "info")
)


@dataclass(frozen=True)
class Overload:
    """What waits for the worker when it starts."""

    title: str
    records: int
    text_bytes: int = len(SENTENCE)
    slow_device: bool = False
    read_only: bool = False
    """Whether the response topic cannot be written meanwhile."""


OVERLOADS = {
    "far-behind": Overload("A million requests ahead", 1_000_000),
    "large-documents": Overload("1,000 documents of 1 MiB ahead", 1_000, MEBIBYTE),
    "slow-device": Overload(
        "A device that takes a second longer for each batch", 100_000, 500, slow_device=True
    ),
    "read-only": Overload("A response topic that cannot be written", 100_000, 500, read_only=True),
}


@dataclass(frozen=True)
class Observed:
    """What was seen of the worker."""

    seconds: float
    answered: int
    ready_mib: float
    """Memory in RAM when it had just become ready."""
    most_mib: float
    last_mib: float
    slowest_page_s: float
    """Longest that `/api/status` took to answer."""
    rebalances: int
    """How often the group took its partitions away."""


def observe(site: Deployment, overload: Overload, seconds: float) -> Observed:
    """Start a worker behind the overload, and look at it for a while.

    Raises:
        AssertionError: the page does not answer, or no answers come in the end.
    """
    site.subject = SLOW_DEVICE if overload.slow_device else OURS
    site.new_service()
    asyncio.run(write(site.settings, overload))
    [worker] = site.have_workers(1)
    process = psutil.Process(worker.process.pid)
    ready_mib = most_mib = last_mib = process.memory_info().rss / MEBIBYTE
    slowest_page_s = 0.0
    before_revoked = revoked(worker)
    if overload.read_only:
        site.set_read_only(site.settings.response_topic)
    began = time.monotonic()
    while (elapsed_s := time.monotonic() - began) < seconds:
        asked = time.monotonic()
        status, _ = worker.get("/api/status")
        assert status == 200, f"the page does not answer: {status}\n{worker.log[-2000:]}"
        slowest_page_s = max(slowest_page_s, time.monotonic() - asked)
        last_mib = process.memory_info().rss / MEBIBYTE
        most_mib = max(most_mib, last_mib)
        time.sleep(SAMPLE_S)
    before = asyncio.run(answered(site.settings))
    if overload.read_only:
        site.set_writable(site.settings.response_topic)
    eventually(lambda: asyncio.run(answered(site.settings)) > before, ANSWERS_WITHIN_S, "answers")
    return Observed(
        elapsed_s,
        before,
        ready_mib,
        most_mib,
        last_mib,
        slowest_page_s,
        revoked(worker) - before_revoked,
    )


def revoked(worker: Process) -> int:
    """How often the worker has told of a rebalance."""
    return worker.log.count("Revoking previously assigned partitions")


async def write(settings: Settings, overload: Overload) -> None:
    """Write the requests, evenly over the partitions."""
    text = (SENTENCE * (overload.text_bytes // len(SENTENCE) + 1))[: overload.text_bytes]
    value = orjson.dumps({"text": text})
    async with AIOKafkaProducer(
        **client_options(settings), max_batch_size=MAX_BATCH_BYTES, max_request_size=MAX_BATCH_BYTES
    ) as producer:
        for partition in range(settings.partitions):
            left = overload.records // settings.partitions
            while left:
                batch = producer.create_batch()
                while left and batch.size() < BATCH_BYTES:
                    batch.append(key=None, value=value, timestamp=None)
                    left -= 1
                batch.close()
                sent = await producer.send_batch(batch, settings.request_topic, partition=partition)
                await sent


async def answered(settings: Settings) -> int:
    """Records of the response topic."""
    async with AIOKafkaConsumer(**client_options(settings)) as consumer:
        partitions = await partitions_of(consumer, settings.response_topic)
        return sum((await consumer.end_offsets(partitions)).values())


def table(rows: Iterable[tuple[Overload, Observed]]) -> str:
    """The figures as a Markdown table."""
    return markdown(
        COLUMNS,
        [
            (
                overload.title,
                *(f"{seen.seconds:.0f}", f"{seen.answered:,}", f"{seen.ready_mib:.0f}"),
                *(f"{seen.most_mib:.0f}", f"{seen.last_mib:.0f}"),
                *(f"{seen.slowest_page_s * 1000:.0f}", f"{seen.rebalances}"),
            )
            for overload, seen in rows
        ],
    )


def main() -> int:
    arguments = _arguments()
    rows: list[tuple[Overload, Observed]] = []
    with (
        tempfile.TemporaryDirectory(prefix="bertstream-backpressure-") as scratch,
        Deployment(arguments.folder or Path(scratch)) as site,
    ):
        for name in arguments.only or OVERLOADS:
            rows.append((OVERLOADS[name], observe(site, OVERLOADS[name], arguments.seconds)))
            print(f"{name}: {rows[-1][1]}", flush=True)
    publish(arguments, "backpressure", table(rows), {one.title: seen for one, seen in rows})
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.backpressure", description=__doc__)
    parser.add_argument("--only", nargs="*", choices=OVERLOADS, help="these alone")
    parser.add_argument("--seconds", type=float, default=60.0, help="for each of them")
    parser.add_argument("--folder", type=Path, help="where logs and data are kept afterwards")
    add_outputs(parser)
    arguments = parser.parse_args()
    if arguments.only and arguments.write:
        parser.error("--write is for a whole table, --only for a part of one")
    return arguments


if __name__ == "__main__":
    sys.exit(main())
