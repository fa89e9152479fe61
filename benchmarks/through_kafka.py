"""`python -m benchmarks.through_kafka`: from request topic to response topic, beside others.

Every contender answers the same documents, sent at once, on the same broker and in one process, by
turns; the engine without Kafka takes its turn, too.
"""

from __future__ import annotations

import argparse
import asyncio
import json
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
from benchmarks.faults.subjects import HAND_WRITTEN, OURS, PLAIN_FAUST, Subject
from benchmarks.page import markdown, spread, times, write_figures

DOCUMENTS = 2000
WARM_UP_DOCUMENTS = 200
ALL_WITHIN_S = 300.0
OFFLINE = "ours-bfloat16"


def peer(subject: Subject, title: str, model: str, records: int) -> Subject:
    """A peer with the built-in classifier, as transformers computes it."""
    variables = {"PEER_MODEL": model, "PEER_RECORDS": str(records), **THEIR_ENVIRONMENT}
    return replace(subject, title=title, variables=variables)


CONTENDERS = {
    "ours": replace(
        OURS,
        title="bertstream, bfloat16",
        settings={"model": "builtin", "device": "cpu", "dtype": "bfloat16", "engine": "auto"},
    ),
    "hand-written": peer(
        HAND_WRITTEN,
        "a hand-written consumer, batches of 32 by length out of 512 records, bfloat16",
        "bfloat16-by-length",
        512,
    ),
    "plain-faust": peer(
        PLAIN_FAUST, "a plain Faust agent, batches of 32 in order, float32", "float32", 32
    ),
}


@dataclass(frozen=True, slots=True)
class Round:
    """What one process has done."""

    documents_per_s: float
    cpu_s: tuple[float, float] | None = None
    """Of the process that answers and of the broker, for 1,000 documents."""


def main() -> int:
    arguments = _arguments()
    texts = [json.loads(line)["text"] for line in arguments.data.read_text().splitlines()]
    rounds: dict[str, list[Round]] = {name: [] for name in (*arguments.contender, OFFLINE)}
    with (
        tempfile.TemporaryDirectory(prefix="bertstream-through-kafka-") as scratch,
        Deployment(Path(scratch)) as site,
    ):
        for turn in range(arguments.rounds):
            for name, done in rounds.items():
                done.append(measure(site, name, texts, arguments.data))
                print(f"round {turn + 1}, {name}: {done[-1]}", flush=True)
    table = describe(rounds)
    print(f"\n{table}")
    if arguments.write:
        about = f"{DOCUMENTS:,} documents of `{arguments.data.name}` ({len(texts):,} documents)."
        write_figures(arguments.write, "through-kafka", f"{about}\n\n{table}")
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
    return Round(DOCUMENTS / seconds, (process, kafka))


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
        rows.append(
            [_title(name), spread(speeds[name], 0), times(speeds[first], speeds[name]), *cpu]
        )
    return markdown(
        (
            "from topic to topic",
            "documents/s",
            f"{CONTENDERS[first].title}: times as fast",
            "CPU s for 1,000 documents: the process",
            "and Kafka",
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
    parser.add_argument("--write", type=Path, metavar="PAGE", help="page that holds the figures")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
