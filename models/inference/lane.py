"""The device stage of the pool: one lane for each device, or several that share a CPU."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from typing import TypedDict

import torch
from torch import Tensor

from models.errors import DeadlineExceeded
from models.inference.buffer import Buffer
from models.inference.device import most_tokens, to_host
from models.inference.ticket import Answer, Engine, Outcome, Row, Ticket, failure, summary
from models.inference.watch import Watch

log = logging.getLogger(__name__)

DEVICE_BATCH = "device batch"


@dataclass(frozen=True, slots=True)
class BatchDone:
    """What a device batch held and how long it took."""

    model: str
    documents: int
    """Documents that its segments are of; a long one is in many device batches."""
    segments: int
    seconds: float
    """From the start of the forward pass until its outputs were in the host's memory."""


@dataclass(eq=False, slots=True)
class DeviceBatch:
    """Segments of one model that a device computes together."""

    rows: list[Row]
    failed: bool = False
    """Whether its rows have failed before, in this batch or in a larger one."""
    started: float = 0.0
    """Monotonic time at which the device began."""

    @property
    def engine(self) -> Engine:
        """The model of all its rows."""
        return self.rows[0].ticket.engine

    @property
    def tickets(self) -> list[Ticket]:
        """The documents that its rows are of."""
        return list(dict.fromkeys(row.ticket for row in self.rows))

    def again(self) -> list[DeviceBatch]:
        """What to compute after a failure: halves, or a lone row once more, or nothing."""
        middle = len(self.rows) // 2
        if middle:
            return [DeviceBatch(self.rows[:middle], True), DeviceBatch(self.rows[middle:], True)]
        return [] if self.failed else [DeviceBatch(self.rows, True)]

    def done(self, seconds: float) -> BatchDone:
        """Tell what it was."""
        return BatchDone(self.engine.name, len(self.tickets), len(self.rows), seconds)


class Budget(TypedDict):
    """Most of a device batch, with what padding costs."""

    max_rows: int
    max_tokens: int


class Lane:
    """A device, or a part of a CPU. One thread forms device batches and computes them, one decodes.

    A batch that takes either of them too long is given up, and another thread goes on in the
    place of that one; what else is in the lane does not notice.

    A batch is formed when the device is idle, of whatever waits then. Where a forward pass
    returns before the device has computed it, further batches are formed behind it, up to
    `max_in_flight`, but only full ones and such whose first document has waited `batch_wait_s`.
    """

    def __init__(
        self,
        device: torch.device,
        buffer: Buffer,
        *,
        batch_size: int,
        batch_tokens: int,
        batch_wait_s: float,
        max_in_flight: int,
        threads: int | None,
        watch: Watch,
        answer: Callable[[Sequence[Answer], BatchDone | None], None],
    ) -> None:
        """
        Args:
            buffer: shared with the other lanes.
            batch_tokens: most of a device batch; on a CPU it has less.
            threads: of torch, if the device is a CPU; None leaves its own choice.
            watch: shared with the other lanes; what it gives up is left to be answered.
            answer: takes outcomes, and the device batch that they are of.
        """
        self.device = device
        self._buffer = buffer
        self._changed = buffer.changed
        self._budget = Budget(max_rows=batch_size, max_tokens=most_tokens(device, batch_tokens))
        self._batch_wait_s = batch_wait_s
        self.max_in_flight = max_in_flight
        self._torch_threads = threads
        self._watch = watch
        self._answer = answer
        self._under_way: set[DeviceBatch] = set()
        self._again: deque[DeviceBatch] = deque()
        self._computed: SimpleQueue[tuple[DeviceBatch, Callable[[], Tensor]] | None]
        self._computed = SimpleQueue()
        self._closed = False

    @property
    def in_flight(self) -> int:
        """Device batches under way, from formed to decoded."""
        return len(self._under_way)

    def compute(self) -> None:
        """Form device batches and compute them, until closed; for one thread."""
        if self._torch_threads is not None and self.device.type == "cpu":
            torch.set_num_threads(self._torch_threads)
        while (batch := self._next()) is not None:
            batch.started = time.monotonic()
            try:
                with self._watch.step(DEVICE_BATCH, partial(self._give_up, batch)):
                    segments = [row.segment for row in batch.rows]
                    outputs = to_host(batch.engine.forward(segments, self.device))
            except Exception as error:
                self._fail(batch, error)
            else:
                self._computed.put((batch, outputs))
                del outputs

    def decode(self) -> None:
        """Decode what was computed, until closed; for one thread."""
        while (computed := self._computed.get()) is not None:
            batch, outputs = computed
            try:
                with self._watch.step(DEVICE_BATCH, partial(self._give_up, batch)):
                    rows = outputs()  # (n_segments, width); waits for the device
            except Exception as error:
                self._fail(batch, error)
            else:
                self._finish(batch, rows)
            del computed, outputs

    def close(self) -> None:
        """End both threads, after the batch that each is at; what is under way is dropped."""
        with self._changed:
            self._closed = True
            self._under_way.clear()
            self._changed.notify_all()
        self._computed.put(None)

    def _next(self) -> DeviceBatch | None:
        """Wait for a device batch; None once closed."""
        while True:
            with self._changed:
                while not self._closed and not self._is_due():
                    self._changed.wait(self._patience())
                if self._closed:
                    return None
                batch, late = self._form()
                # The encode stage may have waited for this.
                self._changed.notify_all()
            if late:
                error = DeadlineExceeded("the deadline passed before the model could begin")
                self._answer([(ticket, error) for ticket in late], None)
            if batch is not None:
                return batch

    def _is_due(self) -> bool:
        """Whether a batch closes now."""
        if self.in_flight >= self.max_in_flight:
            return False
        if self._again:
            return True
        return bool(self._buffer) and (
            self._is_idle() or self._buffer.fills(**self._budget) or self._patience() == 0.0
        )

    def _is_idle(self) -> bool:
        # A CPU has computed a batch when `forward` returns.
        return self.device.type == "cpu" or not self.in_flight

    def _patience(self) -> float | None:
        """Seconds until a batch closes without further company; None if nothing may."""
        if not self._buffer or self.in_flight >= self.max_in_flight:
            return None
        return max(0.0, self._buffer.oldest + self._batch_wait_s - time.monotonic())

    def _form(self) -> tuple[DeviceBatch | None, list[Ticket]]:
        """Form a device batch of what failed before, else of what waits; and the late ones."""
        late: list[Ticket] = []
        failed = bool(self._again)
        if failed:
            rows = [row for row in self._again.popleft().rows if not row.ticket.over]
        else:
            rows, late = self._buffer.take(**self._budget)
        if not rows:
            return None, late
        batch = DeviceBatch(rows, failed)
        self._under_way.add(batch)
        return batch, late

    def _fail(self, batch: DeviceBatch, error: Exception) -> None:
        """Have a failed batch computed again in halves; answer a row that failed alone."""
        if not batch.failed:
            log.warning(
                "device batch failed, halving it device=%s model=%s segments=%d error=%s",
                self.device,
                batch.engine.name,
                len(batch.rows),
                summary(error),
            )
        again = batch.again()
        with self._changed:
            self._under_way.discard(batch)
            self._again.extendleft(reversed(again))
            # Another of its rows may have been a culprit too, in another batch under way.
            culprits = [] if again else self._buffer.end([batch.rows[0].ticket])
            self._changed.notify_all()
        if culprits:
            self._answer([(culprit, failure(error)) for culprit in culprits], None)

    def _finish(self, batch: DeviceBatch, outputs: Tensor) -> None:
        """Keep outputs (n_segments, width), and answer the documents that are complete."""
        seconds = time.monotonic() - batch.started
        with self._changed:
            complete = [
                row.ticket
                for row, output in zip(batch.rows, outputs.chunk(len(batch.rows)), strict=True)
                if row.completes(output)
            ]
            self._under_way.discard(batch)
            self._changed.notify_all()
        with self._watch.step("decoding", partial(self._end, complete)):
            answers = [(ticket, decode(ticket, 1000 * seconds)) for ticket in complete]
        for ticket in complete:
            ticket.over = True
        self._answer(answers, batch.done(seconds))

    def _give_up(self, batch: DeviceBatch) -> list[Ticket]:
        """Forget a batch that takes too long; returns the documents to answer in its place."""
        with self._changed:
            self._under_way.discard(batch)
        return self._end(batch.tickets)

    def _end(self, tickets: Sequence[Ticket]) -> list[Ticket]:
        with self._changed:
            ended = self._buffer.end(tickets)
            self._changed.notify_all()
        return ended


def decode(ticket: Ticket, inference_ms: float) -> Outcome:
    """Decode a document all of whose segments have been computed."""
    assert ticket.encoded is not None
    outputs = [row.output for row in ticket.rows if row.output is not None]
    # Rows and ticket refer to each other: without this they would wait for the collector.
    ticket.rows = []
    try:
        rows = outputs[0] if len(outputs) == 1 else torch.cat(outputs)  # (n_segments, width)
        return ticket.engine.decode(ticket.encoded, rows, inference_ms)
    except Exception as error:
        return failure(error)
