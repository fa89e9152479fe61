"""Threads that end with the pool."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Threads:
    """Threads that run until their work returns; a bug in one of them is told, never swallowed."""

    def __init__(self, crashed: Callable[[BaseException], None]) -> None:
        """
        Args:
            crashed: takes what ended a thread; called in that thread.
        """
        self._crashed = crashed
        self._threads: list[threading.Thread] = []

    def start(self, name: str, work: Callable[[], None]) -> None:
        """Start a thread. It does not keep the process alive: a device may hang for ever."""
        thread = threading.Thread(target=self._run, args=(work,), name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def join(self, timeout_s: float) -> list[str]:
        """Wait for all to end; returns the names of those that have not."""
        deadline = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return [thread.name for thread in self._threads if thread.is_alive()]

    def _run(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            self._crashed(error)
