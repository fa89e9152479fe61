"""A plain Faust agent, as Faust's own guide would have it: typed records, `take()`, `send()`.

Started like a worker: `python -m benchmarks.peers.plain_faust worker`.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import faust

from app.settings import load_settings
from benchmarks.peers.model import MOST_RECORDS, predict

settings = load_settings()

app = faust.App(
    settings.app_id,
    broker=settings.broker_urls,
    datadir=settings.data_dir / "faust",
    store="memory://",
    topic_partitions=settings.partitions,
    topic_disable_leader=True,
)
pool = ThreadPoolExecutor(max_workers=1)


class Request(faust.Record, serializer="json"):  # type: ignore[misc,call-arg]
    """A document to classify."""

    id: str
    text: str


requests = app.topic(settings.request_topic, key_type=bytes, value_type=Request)
responses = app.topic(settings.response_topic)


@app.agent(requests)  # type: ignore[untyped-decorator]
async def classify(stream: Any) -> None:
    """Answer batches of requests."""
    loop = asyncio.get_running_loop()
    async for batch in stream.take(MOST_RECORDS, within=0.05):
        texts = [request.text for request in batch]
        predictions = await loop.run_in_executor(pool, predict, texts)
        for request, prediction in zip(batch, predictions, strict=True):
            await responses.send(key=request.id, value={"id": request.id, **prediction})


if __name__ == "__main__":
    app.main()
