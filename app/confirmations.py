"""What the broker has not confirmed: how long it waits, and how much of it goes at once."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

from aiokafka.errors import KafkaError

from app.records import Source

log = logging.getLogger(__name__)

STALLED_AFTER_S = 5.0


class Confirmations:
    """How long what was handed to the broker has waited for it, and what is wrong."""

    def __init__(self) -> None:
        self._waiting = 0
        self._failing = 0
        self._since = 0.0
        self._problem: str | None = None

    def expect(self) -> None:
        """Something was handed to the broker."""
        if not self._waiting:
            self._since = time.monotonic()
        self._waiting += 1

    def arrived(self, count: int = 1) -> None:
        """The broker has confirmed something."""
        self._waiting -= count
        self._since = time.monotonic()

    def given_up(self, count: int = 1) -> None:
        """Something is not waited for any more."""
        self._waiting -= count

    @contextmanager
    def retries(self, source: Source) -> Iterator[Callable[[str], None]]:
        """What is tried in the block until it is done; call what this gives after each failure.

        Said once for all that fail at a time, not for each record.
        """
        failing = False

        def failed(problem: str) -> None:
            nonlocal failing
            self._problem = problem
            if failing:
                return
            failing = True
            self._failing += 1
            if self._failing == 1:
                log.warning(
                    "not delivered, trying again until it is: topic=%s partition=%d offset=%d: %s",
                    *(source.topic, source.partition, source.offset, problem),
                )

        try:
            yield failed
        finally:
            self._failing -= failing
            if failing and not self._failing:
                self._problem = None
                log.info("everything is delivered again")

    @property
    def stalled(self) -> str | None:
        """What is wrong, where nothing was confirmed for `STALLED_AFTER_S`."""
        waited_s = time.monotonic() - self._since
        if not self._waiting or waited_s < STALLED_AFTER_S:
            return None
        reason = f": {self._problem}" if self._problem else ""
        return f"no response could be delivered for {waited_s:.0f} s{reason}"


class Turns:
    """Lets many deliveries go at once, but one at a time while they fail.

    Thousands that ask for a topic which is away keep the event loop, and the broker, busy.
    """

    def __init__(self, at_once: int) -> None:
        self._most = self._at_once = at_once
        self._under_way = 0
        self._waiting: dict[asyncio.Event, None] = {}
        """In the order in which they came."""

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for a turn; an error of Kafka that leaves the block is a failure."""
        while self._under_way >= self._at_once:
            free = asyncio.Event()
            self._waiting[free] = None
            try:
                await free.wait()
            except asyncio.CancelledError:
                self._waiting.pop(free, None)
                self._wake()  # this one may have been woken already, in vain
                raise
        self._under_way += 1
        try:
            yield
        except KafkaError:
            self._at_once = 1
            raise
        else:
            self._at_once = min(self._most, 2 * self._at_once)
        finally:
            self._under_way -= 1
            self._wake()

    def _wake(self) -> None:
        """Let as many go on as there are turns."""
        for _ in range(min(len(self._waiting), self._at_once - self._under_way)):
            free = next(iter(self._waiting))
            del self._waiting[free]
            free.set()
