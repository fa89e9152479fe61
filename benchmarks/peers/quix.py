"""Quix Streams, as its guide for sinks has it: batches of a partition, written at each checkpoint.

A sink is the way of Quix to see more than one record at a time without a window by key.
"""

from __future__ import annotations

import json
import logging

from confluent_kafka import Producer
from quixstreams import Application
from quixstreams.sinks import BatchingSink, SinkBatch

from app.settings import load_settings
from benchmarks.peers.model import MOST_RECORDS, predict

settings = load_settings()
log = logging.getLogger(__name__)


class Predictions(BatchingSink):  # type: ignore[misc]
    """Answers what was gathered since the last checkpoint."""

    def __init__(self) -> None:
        super().__init__()
        self._producer = Producer(
            {"bootstrap.servers": ",".join(settings.bootstrap_servers), "acks": "all"}
        )

    def write(self, batch: SinkBatch) -> None:
        """Predict, produce, and wait for the broker: then the offsets are committed."""
        for items in batch.iter_chunks(n=MOST_RECORDS):
            documents = [item.value for item in items]
            predictions = predict([document["text"] for document in documents])
            for document, prediction in zip(documents, predictions, strict=True):
                self._producer.produce(
                    settings.response_topic,
                    json.dumps({"id": document["id"], **prediction}).encode(),
                    key=document["id"].encode(),
                )
        self._producer.flush()


def main() -> None:
    application = Application(
        broker_address=",".join(settings.bootstrap_servers),
        consumer_group=settings.app_id,
        auto_offset_reset="earliest",
        auto_create_topics=False,
        commit_every=8 * MOST_RECORDS,
        commit_interval=0.5,
        loglevel="INFO",
        state_dir=str(settings.data_dir / "quix"),
    )
    requests = application.topic(settings.request_topic, value_deserializer="json")
    application.dataframe(requests).sink(Predictions())
    application.run()


if __name__ == "__main__":
    main()
