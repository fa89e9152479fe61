"""Streams whose batches are acknowledged by whoever delivers their outcomes."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Collection, Iterable
from typing import Any

from faust.streams import Stream
from faust.types import EventT
from mode.utils.queues import FlowControlEvent, ThrowableQueue


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


class EventQueue(ThrowableQueue):  # type: ignore[misc]
    """Faust's queue between consumer and stream, which also takes and gives many at once."""

    def put_many(self, events: Collection[EventT]) -> None:
        """Add events, whether or not there is room."""
        self._queue.extend(events)
        self._unfinished_tasks += len(events)
        self._finished.clear()
        self._wakeup_next(self._getters)

    def get_many(self, most: int) -> list[EventT]:
        """Take what is there, at most so many.

        Raises:
            Exception: whatever was thrown into the queue.
        """
        if self._errors:
            raise self._errors.popleft()
        waiting = self._queue
        return [waiting.popleft() for _ in range(min(most, len(waiting)))]


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
                                events = [await queue.get()]
                        except TimeoutError:
                            break
                    else:
                        events = queue.get_many(max_ - len(batch))
                    if taken := self._take_up(events):
                        if not batch:
                            closes_at = time.monotonic() + within
                        batch += taken
                if batch:
                    self.events_total += len(batch)
                    yield batch
        except StopAsyncIteration:
            return  # thrown into the channel when the stream is stopped
        finally:
            self._channel_stop_iteration(self.channel)

    def _take_up(self, events: Iterable[EventT]) -> list[EventT]:
        """Those whose partition is still ours; what is of an old assignment is read again."""
        if not self.app.flow_control.is_active():
            return []
        ours, take = self.app.consumer_generation_id, self.app.consumer.take
        return [
            event for event in events if event.message.generation_id == ours and take(event.message)
        ]
