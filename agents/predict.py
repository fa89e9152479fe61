"""Requests in, outcomes out."""

from __future__ import annotations

from collections.abc import AsyncIterator

from faust.types import EventT

from app import app
from app.records import Job, Outcome
from app.streams import BatchStream


@app.agent(app.request_topic, name="predict", sink=[app.publisher.publish])
async def predict(stream: BatchStream) -> AsyncIterator[list[Outcome]]:
    """Answer every request; it is acknowledged when its outcome has been delivered."""
    # The pool waits for company, over all batches: none is waited for here.
    batches = stream.take(app.settings.batch_size, within=0.0)
    async for answers in app.pool.map(decoded(batches), Job.document):
        yield [Outcome.of(job, answer) for job, answer in answers]


async def decoded(batches: AsyncIterator[list[EventT]]) -> AsyncIterator[list[Job]]:
    """Read each record of each batch; one that is no request becomes a job with an error."""
    async for batch in batches:
        yield [Job.of(event, app.settings.max_text_bytes) for event in batch]
