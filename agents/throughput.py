"""What workers did, into the tables."""

from __future__ import annotations

from app import app
from app.records import Throughput
from app.streams import BatchStream


@app.agent(app.throughput_topic, name="throughput")
async def throughput(stream: BatchStream) -> None:
    """Add each record to the table of its window and to the totals, once."""
    async for event in stream.events():
        record: Throughput = event.value
        app.throughput_tables.add(event.key, record.derive(offset=event.message.offset))
