"""`python -m benchmarks.through_kafka`: from request topic to response topic, beside others.

Every contender answers the same documents, sent at once, on the same broker and in one process, by
turns; the engine without Kafka takes its turn, too.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
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
from benchmarks.engine import (
    SHIPPED,
    THEIR_ENVIRONMENT,
    WAYS,
    fastest_dtype,
    in_a_process,
)
from benchmarks.faults.deployment import Deployment
from benchmarks.faults.subjects import (
    CONFLUENT,
    HAND_WRITTEN,
    OURS,
    PLAIN_FAUST,
    QUIX,
    SPARK,
    Subject,
)
from benchmarks.page import add_outputs, markdown, publish, spread, times

DOCUMENTS = 1000
WARM_UP_DOCUMENTS = 200
ALL_WITHIN_S = 300.0
DTYPE = fastest_dtype()
OFFLINE = f"ours-{DTYPE}"
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
        title=f"bertstream, {DTYPE}",
        settings={"model": "builtin", "device": "cpu", "dtype": "auto", "engine": "auto"},
    ),
    "hand-written": peer(
        HAND_WRITTEN,
        f"aiokafka by hand, batches of 32 by length out of 512 records, {DTYPE}",
        f"{DTYPE}-by-length",
        512,
    ),
    "hand-written-confluent": peer(
        CONFLUENT,
        f"confluent-kafka by hand, batches of 32 by length out of 512 records, {DTYPE}",
        f"{DTYPE}-by-length",
        512,
    ),
    "confluent": peer(CONFLUENT, "confluent-kafka, batches of 32 in order, float32", "float32", 32),
    "aiokafka": peer(HAND_WRITTEN, "aiokafka, batches of 32 in order, float32", "float32", 32),
    "quix": peer(
        QUIX, "Quix Streams, a batching sink, batches of 32 in order, float32", "float32", 32
    ),
    "spark": peer(
        SPARK,
        "Spark Structured Streaming, a pandas UDF, batches of 32 in order, float32",
        "float32",
        32,
    ),
    "plain-faust": peer(
        PLAIN_FAUST, "a plain Faust agent, batches of 32 in order, float32", "float32", 32
    ),
}
NEED_PACKAGES = frozenset({"hand-written-confluent", "confluent", "quix", "spark"})
"""Contenders that are left out where `PEER_PACKAGES` is not there."""
NEED_JAVA = frozenset({"spark"})
"""Those that are left out where there is no Java, 17 or later."""


@dataclass(frozen=True, slots=True)
class Round:
    """What one process has done."""

    documents_per_s: float
    cpu_s: tuple[float, float] | None = None
    """Of what answers, with the processes that it has started, and of the broker, for 1,000
    documents."""
    memory_mib: float | None = None
    """Of what answers when all was answered."""


def main() -> int:
    arguments = _arguments()
    texts = [json.loads(line)["text"] for line in arguments.data.read_text().splitlines()]
    contenders = []
    for name in arguments.contender:
        if name in NEED_PACKAGES and not PEER_PACKAGES.is_dir():
            print(f"without {name}: {PEER_PACKAGES} is not there", flush=True)
        elif name in NEED_JAVA and not (shutil.which("java") or os.environ.get("JAVA_HOME")):
            print(f"without {name}: there is no Java", flush=True)
        else:
            contenders.append(name)
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
    publish(arguments, f"through-kafka-{DTYPE}", f"{about}\n\n{describe(rounds)}", rounds)
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
    used = [_used(worker.process.pid), _used(site.broker.pid)]
    seconds = asyncio.run(answer(site, texts, DOCUMENTS))
    now = [_used(worker.process.pid), _used(site.broker.pid)]
    process, kafka = (
        1000 / DOCUMENTS * (after.cpu_s - before.cpu_s)
        for before, after in zip(used, now, strict=True)
    )
    return Round(DOCUMENTS / seconds, (process, kafka), now[0].memory_mib)


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
    if name in WAYS:
        return f"{WAYS[name].title}, the engine without Kafka"
    return CONTENDERS[name].title


@dataclass(frozen=True, slots=True)
class _Used:
    """What a process and those that it has started have taken."""

    cpu_s: float
    memory_mib: float


def _used(pid: int) -> _Used:
    process = psutil.Process(pid)
    family = [process, *process.children(recursive=True)]
    cpu = [one.cpu_times() for one in family]
    return _Used(
        sum(float(one.user + one.system) for one in cpu),
        sum(one.memory_info().rss for one in family) / 2**20,
    )


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
