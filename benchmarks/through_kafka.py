"""`python -m benchmarks.through_kafka`: from request topic to response topic, beside others.

Every contender answers the same documents, sent at once, on the same broker and in one process, by
turns; the engine without Kafka takes its turn, too.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import orjson
import psutil
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from app.kafka import partitions_of
from benchmarks.engine import SHIPPED, THEIR_ENVIRONMENT, WAYS, in_a_process
from benchmarks.faults.deployment import Deployment
from benchmarks.faults.subjects import (
    CONFLUENT,
    HAND_WRITTEN,
    OURS,
    PLAIN_FAUST,
    QUIX,
    Subject,
)
from benchmarks.page import add_outputs, markdown, publish, spread, times

DOCUMENTS = 1000
WARM_UP_DOCUMENTS = 200
ALL_WITHIN_S = 300.0
OFFLINE = "ours-bfloat16"


PEER_PACKAGES = Path(sys.prefix) / "peers"
"""Where `make bench` puts the packages of peers, out of the way of ours."""


def peer(subject: Subject, title: str, model: str, records: int) -> Subject:
    """A peer with the built-in classifier, as transformers computes it."""
    variables = {
        "PEER_MODEL": model,
        "PEER_RECORDS": str(records),
        "PYTHONPATH": str(PEER_PACKAGES),
        **THEIR_ENVIRONMENT,
    }
    return replace(subject, title=title, variables=variables)


CONTENDERS = {
    "ours": replace(
        OURS,
        title="bertstream, bfloat16",
        settings={"model": "builtin", "device": "cpu", "dtype": "bfloat16", "engine": "auto"},
    ),
    "hand-written": peer(
        HAND_WRITTEN,
        "aiokafka by hand, batches of 32 by length out of 512 records, bfloat16",
        "bfloat16-by-length",
        512,
    ),
    "hand-written-confluent": peer(
        CONFLUENT,
        "confluent-kafka by hand, batches of 32 by length out of 512 records, bfloat16",
        "bfloat16-by-length",
        512,
    ),
    "confluent": peer(CONFLUENT, "confluent-kafka, batches of 32 in order, float32", "float32", 32),
    "aiokafka": peer(HAND_WRITTEN, "aiokafka, batches of 32 in order, float32", "float32", 32),
    "quix": peer(
        QUIX, "Quix Streams, a batching sink, batches of 32 in order, float32", "float32", 32
    ),
    "plain-faust": peer(
        PLAIN_FAUST, "a plain Faust agent, batches of 32 in order, float32", "float32", 32
    ),
}
NEED_PACKAGES = frozenset({"hand-written-confluent", "confluent", "quix"})
"""Contenders that are left out where `PEER_PACKAGES` is not there."""


@dataclass(frozen=True, slots=True)
class Round:
    """What one process has done."""

    documents_per_s: float
    cpu_s: tuple[float, float] | None = None
    """Of the process that answers and of the broker, for 1,000 documents."""
    memory_mib: float | None = None
    """Of the process when all was answered."""


def main() -> int:
    arguments = _arguments()
    texts = [json.loads(line)["text"] for line in arguments.data.read_text().splitlines()]
    contenders = [
        name for name in arguments.contender if name not in NEED_PACKAGES or PEER_PACKAGES.is_dir()
    ]
    if missing := set(arguments.contender) - set(contenders):
        print(f"without {', '.join(sorted(missing))}: {PEER_PACKAGES} is not there", flush=True)
    rounds: dict[str, list[Round]] = {name: [] for name in (*contenders, OFFLINE)}
    with (
        tempfile.TemporaryDirectory(prefix="bertstream-through-kafka-") as scratch,
        Deployment(Path(scratch)) as site,
    ):
        for turn in range(arguments.rounds):
            for name, done in rounds.items():
                done.append(measure(site, name, texts, arguments.data))
                print(f"round {turn + 1}, {name}: {done[-1]}", flush=True)
    about = f"{DOCUMENTS:,} documents of `{arguments.data.name}` ({len(texts):,} documents)."
    publish(arguments, "through-kafka", f"{about}\n\n{describe(rounds)}", rounds)
    return 0


def measure(site: Deployment, name: str, texts: Sequence[str], data: Path) -> Round:
    """One turn of a contender, or of the engine alone."""
    if name == OFFLINE:
        for worker in site.workers[:]:
            site.kill_worker(worker)
        return Round(in_a_process(name, data).documents_per_s)
    site.subject = CONTENDERS[name]
    site.new_service()
    [worker] = site.have_workers(1)
    asyncio.run(answer(site, texts, WARM_UP_DOCUMENTS))
    processes = psutil.Process(worker.process.pid), psutil.Process(site.broker.pid)
    before = [_cpu_s(process) for process in processes]
    seconds = asyncio.run(answer(site, texts, DOCUMENTS))
    process, kafka = (
        1000 / DOCUMENTS * (_cpu_s(process) - then)
        for process, then in zip(processes, before, strict=True)
    )
    memory_mib = processes[0].memory_info().rss / 2**20
    return Round(DOCUMENTS / seconds, (process, kafka), memory_mib)


async def answer(site: Deployment, texts: Sequence[str], count: int) -> float:
    """Send documents, all at once; seconds from then until all are answered, in any order."""
    settings, servers = site.settings, site.broker.address
    consumer = AIOKafkaConsumer(bootstrap_servers=servers)
    async with consumer, AIOKafkaProducer(bootstrap_servers=servers) as producer:
        consumer.assign(await partitions_of(consumer, settings.response_topic))
        await consumer.seek_to_end()
        missing = {uuid.uuid4().hex for _ in range(count)}
        began = time.monotonic()
        sent = [
            await producer.send(
                settings.request_topic,
                orjson.dumps({"id": one, "text": texts[number % len(texts)]}),
                key=one.encode(),
            )
            for number, one in enumerate(missing)
        ]
        await asyncio.gather(*sent)
        while missing:
            assert time.monotonic() - began < ALL_WITHIN_S, f"{len(missing)} are not answered"
            for records in (await consumer.getmany(timeout_ms=100)).values():
                for record in records:
                    content = orjson.loads(record.value)
                    assert content["label"], content
                    missing.remove(content["id"])
        return time.monotonic() - began


def describe(rounds: dict[str, list[Round]]) -> str:
    """Medians with their range, and ratios to ours round by round."""
    first = next(iter(rounds))
    speeds = {name: [one.documents_per_s for one in done] for name, done in rounds.items()}
    rows = []
    for name, done in rounds.items():
        used = [one.cpu_s for one in done if one.cpu_s]
        cpu = [spread(column, 1) for column in zip(*used, strict=True)] if used else ["", ""]
        memory = [one.memory_mib for one in done if one.memory_mib]
        rows.append(
            [
                _title(name),
                spread(speeds[name], 0),
                times(speeds[first], speeds[name]),
                *cpu,
                f"{statistics.median(memory):.0f}" if memory else "",
            ]
        )
    return markdown(
        (
            "from topic to topic",
            "documents/s",
            f"{CONTENDERS[first].title}: times as fast",
            "CPU s for 1,000 documents: the process",
            "and Kafka",
            "memory, MiB",
        ),
        rows,
    )


def _title(name: str) -> str:
    if name == OFFLINE:
        return f"{WAYS[name].title}, the engine without Kafka"
    return CONTENDERS[name].title


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.through_kafka", description=__doc__)
    parser.add_argument(
        "--data", type=Path, default=SHIPPED, metavar="FILE", help="documents, as .jsonl"
    )
    parser.add_argument("--contender", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--rounds", type=int, default=3)
    add_outputs(parser)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
