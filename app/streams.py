"""Streams whose batches are acknowledged by whoever delivers their outcomes."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator
from typing import Any

from faust.streams import Stream
from faust.types import EventT
from mode.utils.queues import FlowControlEvent


class FlowControl(FlowControlEvent):  # type: ignore[misc]
    """Faust's gate between consumer and streams, which loses nothing when it opens.

    Faust's own throws away what is queued, also what was fetched after the last seek and so is
    not read again. Nothing needs throwing away: streams pass over records of an old generation,
    and take up none twice.
    """

    def resume(self) -> None:
        """Open the gate."""
        self._suspend.clear()
        self._resume.set()


class BatchStream(Stream):  # type: ignore[misc]
    """Faust's stream with a `take()` that acknowledges nothing by itself.

    Faust's own acknowledges a batch when the body is done with it, also when the body raised,
    and before a pool that the batch was handed to has answered. Here the events of a batch stay
    unacknowledged until `ack()` is called for each of them, in any order.
    """

    def __aiter__(self) -> AsyncIterator[Any]:
        """Iterate over single values, each acknowledged after the body.

        Faust's compiled iterator writes its acknowledgements past `Consumer.ack()`.
        """
        values = self._py_aiter()
        self._active_agens.add(values)
        return values  # type: ignore[no-any-return]

    async def take(self, max_: int, within: float) -> AsyncIterator[list[EventT]]:
        """Yield batches of one to `max_` events.

        Arguments:
            max_: Most events of a batch.
            within: Seconds that the first event of a batch waits for company; 0: it goes with
                whatever is there.

        Raises:
            Exception: whatever was thrown into the stream's channel.
        """
        await self.maybe_start()
        queue = self.channel.queue
        try:
            while not self.should_stop:
                batch: list[EventT] = []
                closes_at = math.inf
                while len(batch) < max_:
                    # Nothing is waited for but here: whoever gives up a stream, as an agent that
                    # raises, leaves no one behind who takes an event in vain.
                    if queue.empty():
                        patience = closes_at - time.monotonic() if batch else None
                        if patience is not None and patience <= 0:
                            break
                        try:
                            async with asyncio.timeout(patience):
                                event = await queue.get()
                        except TimeoutError:
                            break
                    else:
                        event = queue.get_nowait()
                    if self._is_current(event) and self.app.consumer.take(event.message):
                        if not batch:
                            closes_at = time.monotonic() + within
                        batch.append(event)
                if batch:
                    self.events_total += len(batch)
                    yield batch
        except StopAsyncIteration:
            return  # thrown into the channel when the stream is stopped
        finally:
            self._channel_stop_iteration(self.channel)

    def _is_current(self, event: EventT) -> bool:
        """Whether the partition is still ours; a record of an old assignment is read again."""
        message = event.message
        ours: bool = message.generation_id == self.app.consumer_generation_id
        return ours and bool(self.app.flow_control.is_active())
