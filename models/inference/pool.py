"""The inference pool: documents in, predictions out, while the device never waits.

::

    predict() ─┐        ┌────────────── the pool ───────────────┐
               ├─ room ─► encode stage ─► buffer ─► lane (device) ─► outcomes
    map() ─────┘        └───────────────────────────────────────┘

Everything inside is bounded: documents and bytes of text by the room that they wait for, tokens
by the encode stage, device batches by `max_in_flight`. The event loop only passes documents in
and outcomes out, one call for each device batch.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Sequence
from typing import Any, Protocol, TypeVar

import mode
import torch

from models.errors import InferenceError, InferenceFailed, PoolClosed
from models.inference.buffer import Buffer
from models.inference.encode_stage import EncodeStage
from models.inference.lane import BatchDone, Lane
from models.inference.room import Room
from models.inference.sinks import Many, Single
from models.inference.tasks import Document, Prediction
from models.inference.threads import Threads
from models.inference.ticket import Answer, Engine, Place, Refused, Sink, Ticket, summary
from models.inference.watch import Step, Watch

__all__ = ["BatchDone", "InferencePool"]

log = logging.getLogger(__name__)

T = TypeVar("T")

MEBIBYTE = 1024 * 1024
MOST_LEFT_BEHIND = 3
"""Threads of a lane that may hang at once; with one more it is no document that is to blame."""


class Models(Protocol):
    """Models by name, all on the same devices; `ModelRegistry` is one."""

    @property
    def devices(self) -> Sequence[torch.device]:
        """The devices, each with a replica of every model."""

    def engine(self, name: str | None = None) -> Engine:
        """The engine of a model; None: the default. Raises UnknownModel."""


class InferencePool(mode.Service):  # type: ignore[misc]
    """Predicts documents in batches formed over all that are inside, whoever put them there.

    A document that finds no room waits outside. If the pool stops or crashes, whoever waits for
    it gets `PoolClosed`; a document's own failure is its outcome and concerns nobody else.

    A device batch, or a call of the tokenizer, that takes longer than `batch_timeout_s` is given
    up: its documents get `InferenceFailed`, and a new thread goes on with everything else. The
    old one cannot be killed and is left behind; the pool crashes when more than
    `MOST_LEFT_BEHIND` hang at once, or as many times that as a CPU has lanes.
    """

    def __init__(
        self,
        models: Models,
        *,
        batch_size: int = 256,
        batch_tokens: int = 16384,
        batch_wait_s: float = 0.01,
        batch_timeout_s: float = 60.0,
        max_in_flight: int = 4,
        max_documents: int | None = None,
        max_waiting_tokens: int | None = None,
        max_text_bytes: int = 16 * MEBIBYTE,
        threads: int | None = None,
        cpu_lanes: int = 1,
        encode_threads: int | None = None,
        stop_timeout_s: float = 10.0,
        on_batch: Callable[[BatchDone], None] | None = None,
    ) -> None:
        """
        Args:
            batch_size: most segments of a device batch.
            batch_tokens: most tokens of a device batch, with what padding costs; a CPU is
                given less.
            batch_wait_s: longest that a document waits for company while the device is busy.
            batch_timeout_s: longest that a device batch, or a call of the tokenizer, may take.
            max_in_flight: device batches under way at once on each device.
            max_documents: inside at once, outcomes not yet taken included; None: enough for
                `max_in_flight` batches.
            max_waiting_tokens: encoded and waiting for a device; None: four times what is in
                flight.
            max_text_bytes: UTF-8 bytes of all texts inside; a longer text goes in alone.
            threads: of torch for a batch on a CPU; None leaves its own choice.
            cpu_lanes: batches that a CPU computes at once; they share `max_in_flight`.
            encode_threads: None: one, or two where there are more than four cores.
            stop_timeout_s: longest that a stop waits for a device batch under way.
            on_batch: called on the event loop after each device batch.
        """
        super().__init__()
        self.on_batch = on_batch
        devices = len(models.devices)
        self._models = models
        self._batch_size = batch_size
        self._batch_tokens = batch_tokens
        self._batch_wait_s = batch_wait_s
        self._batch_timeout_s = batch_timeout_s
        self._max_in_flight = max_in_flight
        self._max_waiting_tokens = max_waiting_tokens or 4 * batch_tokens * max_in_flight * devices
        self._torch_threads = threads
        self._cpu_lanes = min(cpu_lanes, max_in_flight)
        self._encode_threads = encode_threads or (2 if (os.cpu_count() or 1) > 4 else 1)
        self._stop_timeout_s = stop_timeout_s
        self._room = Room(
            documents=max_documents or batch_size * max_in_flight * devices,
            text_bytes=max_text_bytes,
        )
        self._sinks: set[Sink] = set()
        self._closed: str | None = "the inference pool is not running"
        self._open()

    def __repr__(self) -> str:
        # The inherited one shows `state`, which is a method here.
        return f"<{type(self).__name__}>"

    def state(self) -> dict[str, int]:
        """What is inside: documents (outcomes not yet taken included), tokens that wait for a
        device, and device batches under way; and threads left behind that still hang."""
        return {
            "documents": self._room.documents,
            "tokens": self._buffer.tokens,
            "batches_in_flight": sum(lane.in_flight for lane in self._lanes),
            "max_in_flight": sum(lane.max_in_flight for lane in self._lanes),
            "hanging_threads": len(self._threads.hanging()),
        }

    def _open(self) -> None:
        """Make the stages, empty."""
        self._buffer = Buffer()
        self._watch = Watch(self._batch_timeout_s)
        self._encode = EncodeStage(
            self._buffer,
            max_tokens=self._max_waiting_tokens,
            watch=self._watch,
            answer=self._answer,
        )
        self._lanes = [
            Lane(
                device,
                self._buffer,
                batch_size=self._batch_size,
                batch_tokens=self._batch_tokens,
                batch_wait_s=self._batch_wait_s,
                max_in_flight=self._max_in_flight // lanes,
                threads=self._torch_threads,
                watch=self._watch,
                answer=self._answer,
            )
            for device in self._models.devices
            for lanes in [self._cpu_lanes if device.type == "cpu" else 1]
            for _ in range(lanes)
        ]
        self._threads = Threads(self._thread_crashed)

    async def on_start(self) -> None:
        """Start the threads."""
        self._open()
        self._event_loop = asyncio.get_running_loop()
        for number in range(self._encode_threads):
            self._threads.start(f"encode-{number}", self._encode.run)
        started: Counter[torch.device] = Counter()
        for lane in self._lanes:
            number = started[lane.device]
            started[lane.device] += 1
            name = f"{lane.device}-{number}" if number else str(lane.device)
            self._threads.start(f"compute-{name}", lane.compute)
            self._threads.start(f"decode-{name}", lane.decode)
        self._closed = None
        self.add_future(self._give_up_overdue())

    async def on_stop(self) -> None:
        """Send everybody away and end the threads, within `stop_timeout_s`."""
        self._close("the inference pool has stopped")
        hanging = await asyncio.to_thread(self._threads.join, self._stop_timeout_s)
        if hanging:
            log.error("threads left behind, still busy: %s", ", ".join(hanging))

    async def predict(self, document: Document) -> Prediction:
        """Predict one document, waiting for room first.

        Raises:
            InferenceError: the document cannot be predicted.
            PoolClosed: the pool does not run, or stopped or crashed meanwhile.
        """
        self._check_running()
        sink = Single()
        place = self._place(document, sink, None)
        if isinstance(place, Refused):
            raise place.error
        await self._room.enter(place.text_bytes)
        self._sinks.add(sink)
        try:
            self._submit([place])
            return await sink.future
        finally:
            self._sinks.discard(sink)
            self._leave([place])

    async def map(
        self,
        batches: AsyncIterator[Sequence[T]],
        document: Callable[[T], Document | Exception],
    ) -> AsyncGenerator[list[tuple[T, Prediction | Exception]], None]:
        """Predict the documents of a stream of batches.

        The next batch is pulled as long as there is room, whatever becomes of the ones before.
        An item keeps its room until its outcome has been taken from here.

        Args:
            batches: the items; an asynchronous generator is closed when this ends.
            document: what to predict for an item, or its outcome if that is known already.

        Yields:
            Items with their outcomes, in no order, as device batches finish; the last of them
            wait for no next batch.

        Raises:
            PoolClosed: the pool does not run, or stopped or crashed meanwhile; items without
                an outcome get none.
            Exception: what `batches` or `document` raised; likewise.
        """
        self._check_running()
        sink: Many[T] = Many()
        self._sinks.add(sink)
        feed = asyncio.ensure_future(self._feed(batches, document, sink))
        feed.add_done_callback(lambda _: sink.changed.set())
        try:
            while sink.inside or not feed.done():
                await sink.changed.wait()
                sink.changed.clear()
                if sink.error is not None:
                    raise sink.error
                if feed.done():
                    feed.result()
                if answers := sink.take():
                    places = [place for place, _ in answers]
                    self._leave(places)
                    yield [(place.item, outcome) for place, outcome in answers]
        finally:
            self._sinks.discard(sink)
            feed.cancel()
            try:
                await asyncio.gather(feed, return_exceptions=True)
            finally:
                self._leave(sink.inside)

    def drop(self, unwanted: Callable[[Any], bool]) -> None:
        """Let go of items of `map` whose outcome is not wanted any more: they get none.

        What of them is on a device is computed in vain.
        """
        for sink in self._sinks:
            self._leave(sink.drop(unwanted))

    async def _feed(
        self,
        batches: AsyncIterator[Sequence[T]],
        document: Callable[[T], Document | Exception],
        sink: Many[T],
    ) -> None:
        """Put the items of a source into the pool, as far as there is room."""
        try:
            async for batch in batches:
                entered: list[Place] = []
                for item in batch:
                    place = self._place(document(item), sink, item)
                    if not self._room.try_enter(place.text_bytes):
                        self._submit(entered)
                        entered = []
                        await self._room.enter(place.text_bytes)
                    sink.inside.add(place)
                    entered.append(place)
                self._submit(entered)
        finally:
            if isinstance(batches, AsyncGenerator):
                await batches.aclose()

    def _place(self, document: Document | Exception, sink: Sink, item: Any) -> Ticket | Refused:
        if isinstance(document, Exception):
            return Refused(sink, item, 0, document)
        try:
            engine = self._models.engine(document.model)
        except InferenceError as error:
            return Refused(sink, item, 0, error)
        text_bytes = utf8_bytes(document.text) + utf8_bytes(document.text_pair or "")
        return Ticket(sink, item, text_bytes, document, engine)

    def _submit(self, places: Sequence[Place]) -> None:
        """Send what has entered on its way."""
        self._check_running()
        tickets = []
        for place in places:
            if isinstance(place, Ticket):
                tickets.append(place)
            elif isinstance(place, Refused):
                place.sink.resolve(place, place.error)
        self._encode.put(tickets)

    def _leave(self, places: Collection[Place]) -> None:
        """Give up the room of these, and what is still to be done for them."""
        self._room.leave(len(places), sum(place.text_bytes for place in places))
        unfinished = [place for place in places if isinstance(place, Ticket) and not place.over]
        for ticket in unfinished:
            ticket.over = True
        if unfinished:
            self._encode.drop_over()

    def _answer(self, answers: Sequence[Answer], done: BatchDone | None = None) -> None:
        """Hand outcomes to the event loop; called in a thread."""
        self._call_in_loop(self._deliver, answers, done)

    def _deliver(self, answers: Sequence[Answer], done: BatchDone | None) -> None:
        for ticket, outcome in answers:
            ticket.sink.resolve(ticket, outcome)
        if done is not None and self.on_batch is not None:
            self.on_batch(done)

    async def _give_up_overdue(self) -> None:
        """Give up whatever takes too long, until the pool closes."""
        try:
            while True:
                await self.sleep(self._watch.interval_s)
                if self._closed is not None:
                    return
                for step in self._watch.overdue():
                    self._give_up(step)
        except Exception as error:
            self._crash_with(error)

    def _give_up(self, step: Step) -> None:
        """Answer the documents of a step that takes too long, and go on without its thread."""
        tickets = step.give_up()
        log.error(
            "%s given up after %.1f s, its thread replaced thread=%s models=%s documents=%d",
            step.what,
            step.seconds,
            step.thread.name,
            ",".join(dict.fromkeys(ticket.engine.name for ticket in tickets)),
            len(tickets),
        )
        error = InferenceFailed(
            f"given up: {step.what} took longer than {self._watch.limit_s:g} s (BATCH_TIMEOUT_S)"
        )
        self._deliver([(ticket, error) for ticket in tickets], None)
        self._threads.replace(step.thread)
        hanging = self._threads.hanging()
        if len(hanging) > MOST_LEFT_BEHIND * len(self._lanes) // len(self._models.devices):
            raise TimeoutError(f"{len(hanging)} threads hang at once: {', '.join(hanging)}")

    def _thread_crashed(self, error: BaseException) -> None:
        """Crash, since a thread has; called in that thread."""
        self._call_in_loop(self._crash_with, error)

    def _crash_with(self, error: BaseException) -> None:
        log.error("the inference pool has crashed", exc_info=error)
        self._close(f"the inference pool has crashed: {summary(error)}")
        self.add_future(self.crash(error))

    def _call_in_loop(self, callback: Callable[..., None], *arguments: object) -> None:
        try:
            self._event_loop.call_soon_threadsafe(callback, *arguments)
        except RuntimeError:
            # The loop has been closed without a stop, so that nobody waits any more.
            log.debug("outcomes after the end of the event loop", exc_info=True)

    def _close(self, reason: str) -> None:
        """Take nothing more, send everybody away, and let the threads end."""
        if self._closed is None:
            self._closed = reason
            self._room.close(PoolClosed(reason))
            for sink in self._sinks:
                sink.fail(PoolClosed(reason))
            self._encode.close()
            for lane in self._lanes:
                lane.close()

    def _check_running(self) -> None:
        if self._closed is not None:
            raise PoolClosed(self._closed)


def utf8_bytes(text: str) -> int:
    """Length of a text in UTF-8."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
