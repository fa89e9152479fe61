"""Threads that end with the pool."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from models.inference.watch import GivenUp


class Threads:
    """Threads that run until their work returns; a bug in one of them is told, never swallowed.

    Belongs to the thread that starts them.
    """

    def __init__(self, crashed: Callable[[BaseException], None]) -> None:
        """
        Args:
            crashed: takes what ended a thread; called in that thread.
        """
        self._crashed = crashed
        self._work: dict[threading.Thread, Callable[[], None]] = {}
        self._left_behind: list[threading.Thread] = []

    def start(self, name: str, work: Callable[[], None]) -> None:
        """Start a thread. It does not keep the process alive: a device may hang for ever."""
        thread = threading.Thread(target=self._run, args=(work,), name=name, daemon=True)
        self._work[thread] = work
        thread.start()

    def replace(self, thread: threading.Thread) -> None:
        """Leave a thread behind that hangs, and start another for its work."""
        self._left_behind.append(thread)
        self.start(thread.name, self._work.pop(thread))

    def hanging(self) -> list[str]:
        """The names of those left behind that still run."""
        self._left_behind = [thread for thread in self._left_behind if thread.is_alive()]
        return [thread.name for thread in self._left_behind]

    def join(self, timeout_s: float) -> list[str]:
        """Wait for all but those left behind; returns the names of all that still run."""
        deadline = time.monotonic() + timeout_s
        for thread in self._work:
            thread.join(max(0.0, deadline - time.monotonic()))
        return [thread.name for thread in self._work if thread.is_alive()] + self.hanging()

    def _run(self, work: Callable[[], None]) -> None:
        try:
            work()
        except GivenUp:
            pass  # Another thread has taken over.
        except BaseException as error:
            self._crashed(error)
