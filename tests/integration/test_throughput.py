"""Statistics of a worker with a backlog, or whose throughput topic goes away, on a real broker."""

from __future__ import annotations

import sys
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient

from app.records import Throughput
from app.settings import Settings
from app.topics import ensure_topics
from benchmarks import slow_device
from tests.integration.conftest import StartWorker, Topics, run
from tests.integration.test_worker import requests
from tests.workers import eventually

BACKLOG = 20_000
"""Takes a slow device more than a minute."""
NOT_WRITTEN, AGAIN = "statistics are not written", "statistics are written again"


def test_statistics_do_not_wait_for_the_backlog(
    settings: Settings, start_worker: StartWorker, topics: Topics
) -> None:
    """They come by a topic of their own, which takes turns with that of the requests."""
    topics.write(settings.request_topic, requests(BACKLOG))
    slow = [sys.executable, "-m", slow_device.__name__, "-A", "app", "worker"]
    worker = start_worker(settings, command=slow)

    def shown() -> Any:
        status = worker.get("/api/status")[1]
        return status["workers"] and status["partitions"]

    assert sum(one["lag"] for one in eventually(shown)) > BACKLOG / 2
    worker.kill()


def test_a_worker_outlives_its_throughput_topic_and_loses_no_count(
    settings: Settings, start_worker: StartWorker, topics: Topics
) -> None:
    worker = start_worker(settings)

    def counted() -> int:
        return int(worker.get("/api/status")[1]["throughput"]["total"]["records"])

    async def delete() -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=settings.bootstrap_servers)
        await admin.start()
        await admin.delete_topics([settings.throughput_topic])
        await admin.close()

    topics.write(settings.request_topic, requests(10))
    eventually(lambda: counted() == 10, 20, "what came before is counted")
    run(delete())
    topics.write(settings.request_topic, requests(20, "meanwhile"))
    eventually(lambda: NOT_WRITTEN in worker.log, 60, "it is said")
    assert len(topics.responses(settings, 30)) == 30
    run(ensure_topics(settings))
    eventually(lambda: AGAIN in worker.log, 60, "they are written again")

    def written() -> int:
        records = topics.read(settings.throughput_topic, 1)
        return sum(Throughput.read(record.value).records for record in records)

    eventually(lambda: written() == 20, 30, "each is counted once")
    # A topic that was just made may go away for its clients once more.
    assert worker.log.count(NOT_WRITTEN) - worker.log.count(AGAIN) in {0, 1}
    assert worker.stop() == 0
