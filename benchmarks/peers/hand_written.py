"""A consumer as one writes it by hand: poll, predict, produce, wait for the broker, then commit.

It skips what it cannot decode, leaves its group on SIGTERM, and lets any error of Kafka's end the
process: something has to start it again.
"""

from __future__ import annotations

import asyncio
import json
import logging
import signal
from concurrent.futures import ThreadPoolExecutor

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from app.settings import load_settings
from benchmarks.peers.model import MOST_RECORDS, predict

log = logging.getLogger(__name__)


async def main() -> None:
    settings = load_settings()
    loop = asyncio.get_running_loop()
    pool = ThreadPoolExecutor(max_workers=1)
    stopping = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopping.set)
    consumer = AIOKafkaConsumer(
        settings.request_topic,
        bootstrap_servers=settings.bootstrap_servers,
        group_id=settings.app_id,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
    )
    producer = AIOKafkaProducer(bootstrap_servers=settings.bootstrap_servers, acks="all")
    async with consumer, producer:
        log.info("ready")
        while not stopping.is_set():
            fetched = await consumer.getmany(timeout_ms=50, max_records=MOST_RECORDS)
            documents = []
            for record in (record for records in fetched.values() for record in records):
                try:
                    documents.append(json.loads(record.value))
                except ValueError:
                    log.warning("not JSON, skipped: offset %d", record.offset)
            if not fetched:
                continue
            texts = [document["text"] for document in documents]
            predictions = await loop.run_in_executor(pool, predict, texts)
            sent = [
                await producer.send(
                    settings.response_topic,
                    json.dumps({"id": document["id"], **prediction}).encode(),
                    key=document["id"].encode(),
                )
                for document, prediction in zip(documents, predictions, strict=True)
            ]
            await asyncio.gather(*sent)
            await consumer.commit()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    asyncio.run(main())
