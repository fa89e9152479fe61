"""`python -m benchmarks.plumbing`: a model that does nothing, so that all that is left is Kafka.

The requests lie on their topic before the process begins, and the responses are read when it is
done: nobody else works meanwhile but the broker. What counts is the time between the responses,
as their records carry it.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
import uuid
from dataclasses import dataclass, replace
from pathlib import Path

import orjson
import psutil
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient

from app.kafka import partitions_of
from app.topics import partition_states
from benchmarks.faults.deployment import Deployment
from benchmarks.faults.load import TEXT
from benchmarks.faults.subjects import HAND_WRITTEN, OURS, PLAIN_FAUST
from benchmarks.page import add_outputs, markdown, publish, spread, times

REQUESTS = 100_000
WARM_UP = 0.2
"""Share of the responses that come before those that count."""
DONE_WITHIN_S = 600.0
NULL = {"PEER_MODEL": "null", "PEER_RECORDS": "512"}

CONTENDERS = {
    "ours": replace(
        OURS,
        command=("-m", "benchmarks.null_model", "-A", "app", "worker", "-l", "info"),
        settings={"model": "builtin", "device": "cpu"},
    ),
    "plain-faust": replace(PLAIN_FAUST, variables=NULL),
    "hand-written": replace(HAND_WRITTEN, variables=NULL),
}


@dataclass(frozen=True, slots=True)
class Round:
    """What one process has done."""

    requests_per_s: float
    cpu_us: float
    """CPU time of the process for a request, its start not counted."""
    memory_mib: float
    """Most that it has held."""


def main() -> int:
    arguments = _arguments()
    rounds: dict[str, list[Round]] = {name: [] for name in arguments.contender}
    with (
        tempfile.TemporaryDirectory(prefix="bertstream-plumbing-") as scratch,
        Deployment(Path(scratch)) as site,
    ):
        for turn in range(arguments.rounds):
            for name, done in rounds.items():
                done.append(measure(site, name, arguments.requests))
                print(f"round {turn + 1}, {name}: {done[-1]}", flush=True)
    about = f"{arguments.requests:,} requests of {len(TEXT)} characters, waiting."
    publish(arguments, "plumbing", f"{about}\n\n{describe(rounds)}", rounds)
    return 0


def measure(site: Deployment, name: str, count: int) -> Round:
    """One turn of a contender."""
    site.subject = CONTENDERS[name]
    site.new_service()
    asyncio.run(write_requests(site, count))
    worker = site.start_worker()
    process = psutil.Process(worker.process.pid)
    most = before = 0.0
    deadline = time.monotonic() + DONE_WITHIN_S
    while (lag := asyncio.run(lag_of(site))) > 0:
        assert time.monotonic() < deadline, f"{lag} of {count} requests are not answered"
        assert worker.process.poll() is None, worker.log[-4000:]
        if lag == count:
            before = sum(process.cpu_times()[:2])
        most = max(most, process.memory_info().rss / 2**20)
        time.sleep(0.5)
    cpu_s = sum(process.cpu_times()[:2]) - before
    site.stop_worker(worker)
    counted = sorted(asyncio.run(response_times(site, count)))[int(WARM_UP * count) :]
    seconds = counted[-1] - counted[0]
    return Round(len(counted) / seconds, 1e6 * cpu_s / count, most)


async def write_requests(site: Deployment, count: int) -> None:
    """Write the requests, evenly over the partitions."""
    settings = site.settings
    producer = AIOKafkaProducer(
        bootstrap_servers=site.broker.address, linger_ms=20, max_batch_size=2**18
    )
    async with producer:
        partitions = sorted(await producer.partitions_for(settings.request_topic))
        sent = None
        for number in range(count):
            identifier = uuid.uuid4().hex
            value = orjson.dumps({"id": identifier, "text": TEXT.format(number=number)})
            sent = await producer.send(
                settings.request_topic,
                value,
                key=identifier.encode(),
                partition=partitions[number % len(partitions)],
            )
        await producer.flush()
        assert sent is not None
        await sent


async def lag_of(site: Deployment) -> int:
    """Requests that are not committed."""
    settings, servers = site.settings, site.broker.address
    admin = AIOKafkaAdminClient(bootstrap_servers=servers)
    await admin.start()
    try:
        async with AIOKafkaConsumer(bootstrap_servers=servers) as consumer:
            states = await partition_states(settings, consumer, admin)
    finally:
        await admin.close()
    return sum(state.lag for state in states)


async def response_times(site: Deployment, count: int) -> list[float]:
    """Unix seconds of every response; each request has one."""
    consumer = AIOKafkaConsumer(bootstrap_servers=site.broker.address, auto_offset_reset="earliest")
    found: dict[str, float] = {}
    async with consumer:
        consumer.assign(await partitions_of(consumer, site.settings.response_topic))
        while fetched := await consumer.getmany(timeout_ms=2000):
            for records in fetched.values():
                for record in records:
                    content = orjson.loads(record.value)
                    assert content["label"], content
                    assert content["id"] not in found, content
                    found[content["id"]] = record.timestamp / 1000
    assert len(found) == count
    return list(found.values())


def describe(rounds: dict[str, list[Round]]) -> str:
    """Medians with their range, and ratios to ours round by round."""
    first = next(iter(rounds))
    speeds = {name: [one.requests_per_s for one in done] for name, done in rounds.items()}
    return markdown(
        (
            "a model that does nothing",
            "requests/s",
            f"{CONTENDERS[first].title}: times as fast",
            "CPU µs for a request",
            "most memory, MiB",
        ),
        [
            (
                CONTENDERS[name].title,
                spread(speeds[name], 0),
                times(speeds[first], speeds[name]),
                spread([one.cpu_us for one in done], 0),
                f"{statistics.median(one.memory_mib for one in done):.0f}",
            )
            for name, done in rounds.items()
        ],
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plumbing", description=__doc__)
    parser.add_argument("--requests", type=int, default=REQUESTS)
    parser.add_argument("--contender", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--rounds", type=int, default=3)
    add_outputs(parser)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
