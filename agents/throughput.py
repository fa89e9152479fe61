"""What workers did, into the tables."""

from __future__ import annotations

from app import app
from app.streams import BatchStream


@app.agent(app.throughput_topic, name="throughput")
async def throughput(stream: BatchStream) -> None:
    """Add each record of this group to the table of its window and to the totals, once.

    Groups share the topic; what cannot be read is None.
    """
    async for event in stream.events():
        record = event.value
        if record is not None and record.is_of(app.settings.app_id):
            app.throughput_tables.add(record.derive(offset=event.message.offset))
