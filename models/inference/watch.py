"""What each thread of the pool is at, so that one that takes too long can be given up."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from models.inference.ticket import Ticket

LOOKS = 8
"""How often a step is looked at within the limit."""
LONGEST_INTERVAL_S = 1.0


class GivenUp(BaseException):
    """Ends a thread whose step has been given up: nobody waits for what it found."""


@dataclass(eq=False, slots=True)
class Step:
    """Something that a thread is busy with, and that may never end."""

    what: str
    thread: threading.Thread
    give_up: Callable[[], Sequence[Ticket]]
    """Forgets the step, and ends the documents that it leaves without an outcome."""
    began: float
    seconds: float = 0.0
    """How long it has taken, up to the last look."""
    given_up: bool = False


class Watch:
    """Looks how long the steps of all threads take, and gives up those beyond a limit.

    A thread cannot be killed. One whose step is given up goes on as long as it likes; when the
    step ends after all, with a result or an error, `GivenUp` takes the place of either. Nothing
    helps against a step that keeps the interpreter's lock.

    Time in which nobody looks does not count: a process that was stopped for a while finds its
    steps no older than they were.
    """

    def __init__(self, limit_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.limit_s = limit_s
        self.interval_s = min(limit_s / LOOKS, LONGEST_INTERVAL_S)
        """Time between two calls of `overdue`."""
        self._clock = clock
        self._looked = clock()
        self._lock = threading.Lock()
        self._steps: set[Step] = set()

    @contextmanager
    def step(self, what: str, give_up: Callable[[], Sequence[Ticket]]) -> Iterator[None]:
        """Watch what the calling thread does in the body.

        Args:
            what: for the log and for the documents' senders.
            give_up: called by whoever gives the step up, in another thread.

        Raises:
            GivenUp: at the end of the body, if it was given up meanwhile.
        """
        step = Step(what, threading.current_thread(), give_up, self._clock())
        with self._lock:
            self._steps.add(step)
        try:
            yield
        finally:
            with self._lock:
                self._steps.discard(step)
            if step.given_up:
                raise GivenUp from None

    def overdue(self) -> list[Step]:
        """Look at all steps; those beyond the limit are given up and returned."""
        now, before = self._clock(), self._looked
        self._looked = now
        with self._lock:
            for step in self._steps:
                step.seconds += min(now - max(step.began, before), 2 * self.interval_s)
            overdue = [step for step in self._steps if step.seconds >= self.limit_s]
            for step in overdue:
                step.given_up = True
            self._steps.difference_update(overdue)
        return overdue
