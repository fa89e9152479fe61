"""`python -m benchmarks.through_kafka`: from request topic to response topic, beside others.

Every subject answers the same documents, which lie on the request topic when the time begins, on
the same broker, one process each, by turns; the engine without Kafka takes its turn, too.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import orjson
import psutil
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from app.kafka import partitions_of
from benchmarks.engine import SHIPPED, SUBJECTS, THEIR_ENVIRONMENT, in_a_process
from benchmarks.faults.deployment import Deployment
from benchmarks.faults.subjects import HAND_WRITTEN, OURS, PLAIN_FAUST, Subject
from benchmarks.page import spread, write_figures

WARM_UP_DOCUMENTS = 200
ALL_WITHIN_S = 300.0
OFFLINE = "ours-bfloat16"


def peer(subject: Subject, title: str, model: str, records: int) -> Subject:
    """A peer with the built-in classifier, as transformers computes it."""
    variables = {"PEER_MODEL": model, "PEER_RECORDS": str(records), **THEIR_ENVIRONMENT}
    return replace(subject, title=title, variables=variables)


CONTENDERS = {
    "ours": (OURS, 3000),
    "hand-written": (
        peer(
            HAND_WRITTEN,
            "a hand-written consumer, batches of 32 by length out of 512 records, bfloat16",
            "bfloat16-by-length",
            512,
        ),
        3000,
    ),
    "plain-faust": (
        peer(
            PLAIN_FAUST, "a plain Faust agent, batches of 32 as they come, float32", "float32", 32
        ),
        1000,
    ),
}
"""Whom to measure, and on how many documents: the slow ones get fewer."""


@dataclass(frozen=True, slots=True)
class Round:
    """What one process has done."""

    documents_per_s: float
    worker_cpu_s: float = 0.0
    """Of the process that answers, for 1,000 documents."""
    kafka_cpu_s: float = 0.0
    """Of the broker, for 1,000 documents."""


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
        write_figures(arguments.write, "through-kafka", table)
    return 0


def measure(site: Deployment, name: str, texts: Sequence[str], data: Path) -> Round:
    """One turn of a contender, or of the engine alone."""
    if name == OFFLINE:
        for worker in site.workers[:]:
            site.kill_worker(worker)
        return Round(in_a_process(name, data).documents_per_s)
    site.subject, count = CONTENDERS[name]
    site.new_service()
    [worker] = site.have_workers(1)
    asyncio.run(answer(site, texts, WARM_UP_DOCUMENTS))
    processes = psutil.Process(worker.process.pid), psutil.Process(site.broker.pid)
    before = [_cpu_s(process) for process in processes]
    seconds = asyncio.run(answer(site, texts, count, already=WARM_UP_DOCUMENTS))
    used = [_cpu_s(process) - then for process, then in zip(processes, before, strict=True)]
    return Round(count / seconds, *(1000 * cpu_s / count for cpu_s in used))


async def answer(site: Deployment, texts: Sequence[str], count: int, already: int = 0) -> float:
    """Send documents, all at once; seconds from then until all were answered, in any order."""
    settings, servers = site.settings, site.broker.address
    consumer = AIOKafkaConsumer(bootstrap_servers=servers)
    async with consumer, AIOKafkaProducer(bootstrap_servers=servers) as producer:
        partitions = await partitions_of(consumer, settings.response_topic)
        consumer.assign(partitions)
        await consumer.seek_to_beginning(*partitions)
        began = time.monotonic()
        sent = [
            await producer.send(
                settings.request_topic,
                orjson.dumps({"id": f"{already}-{n}", "text": texts[n % len(texts)]}),
                key=f"{already}-{n}".encode(),
            )
            for n in range(count)
        ]
        await asyncio.gather(*sent)
        missing = already + count
        while missing:
            fetched = await consumer.getmany(timeout_ms=100)
            missing -= sum(map(len, fetched.values()))
            assert missing >= 0, "answered twice"
            assert time.monotonic() - began < ALL_WITHIN_S, f"{missing} are not answered"
        return time.monotonic() - began


def describe(rounds: dict[str, list[Round]]) -> str:
    """Medians with their range, and ratios to ours round by round."""
    lines = [
        "| from topic to topic | documents/s | bertstream is faster by | "
        "CPU s for 1,000 documents: the process | and Kafka |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    ours = next(iter(rounds.values()))
    for name, done in rounds.items():
        title = (
            f"{SUBJECTS[name].title}, the engine without Kafka"
            if name == OFFLINE
            else CONTENDERS[name][0].title
        )
        ratio = [
            mine.documents_per_s / one.documents_per_s for mine, one in zip(ours, done, strict=True)
        ]
        cells = [spread([one.documents_per_s for one in done], 0), spread(ratio, 2)]
        if name == OFFLINE:
            cells += ["", ""]
        else:
            cells.append(spread([one.worker_cpu_s for one in done], 1))
            cells.append(spread([one.kafka_cpu_s for one in done], 2))
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


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
