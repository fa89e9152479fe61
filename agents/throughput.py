"""What workers did, into the tables."""

from __future__ import annotations

from app import app
from app.records import Throughput
from app.streams import BatchStream


@app.agent(app.throughput_topic, name="throughput")
async def throughput(stream: BatchStream) -> None:
    """Add each record to the table of its window and to the totals."""
    record: Throughput
    async for key, record in stream.items():
        app.throughput_tables.add(key, record)
