"""The same by hand with librdkafka's client: consume a batch, predict, produce, flush, commit.

It skips what it cannot decode, and leaves its group on SIGTERM. Kafka's errors are left to
librdkafka, which goes on by itself; what could not be produced ends the process.
"""

from __future__ import annotations

import json
import logging
import signal

from confluent_kafka import Consumer, KafkaError, Message, Producer

from app.settings import load_settings
from benchmarks.peers.model import MOST_RECORDS, predict

POLL_S = 0.05

log = logging.getLogger(__name__)


def main() -> None:
    settings = load_settings()
    servers = {"bootstrap.servers": ",".join(settings.bootstrap_servers)}
    consumer = Consumer(
        {
            **servers,
            "group.id": settings.app_id,
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
        }
    )
    producer = Producer({**servers, "acks": "all"})
    running = True

    def stop(*_: object) -> None:
        nonlocal running
        running = False

    def delivered(error: KafkaError | None, _: Message) -> None:
        if error is not None:
            raise RuntimeError(f"not delivered: {error}")

    signal.signal(signal.SIGTERM, stop)
    consumer.subscribe([settings.request_topic], on_assign=lambda *_: log.info("ready"))
    while running:
        documents = []
        for record in consumer.consume(MOST_RECORDS, timeout=POLL_S):
            if record.error():
                continue
            try:
                documents.append(json.loads(record.value()))
            except ValueError:
                log.warning("not JSON, skipped: offset %d", record.offset())
        if not documents:
            continue
        predictions = predict([document["text"] for document in documents])
        for document, prediction in zip(documents, predictions, strict=True):
            producer.produce(
                settings.response_topic,
                json.dumps({"id": document["id"], **prediction}).encode(),
                key=document["id"].encode(),
                on_delivery=delivered,
            )
        producer.flush()
        consumer.commit(asynchronous=False)
    consumer.close()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    main()
