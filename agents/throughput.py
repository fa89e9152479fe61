"""What workers did, into the tables."""

from __future__ import annotations

from app import app
from app.streams import BatchStream


@app.agent(app.throughput_topic, name="throughput")
async def throughput(stream: BatchStream) -> None:
    """Add each record that can be read to the table of its window and to the totals, once."""
    async for event in stream.events():
        if event.value is not None:
            app.throughput_tables.add(event.value.derive(offset=event.message.offset))
