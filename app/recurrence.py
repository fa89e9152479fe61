"""Whether something that may happen now and then happens again and again."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable


class Recurrence:
    """Counts how often something happened lately.

    Arguments:
        most: how often it may happen.
        within_s: seconds in which that counts.
    """

    def __init__(
        self, most: int, within_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._most = most
        self._within_s = within_s
        self._clock = clock
        self._times: deque[float] = deque()

    def happened(self) -> bool:
        """Note that it happened; True where that is too often."""
        now = self._clock()
        self._times.append(now)
        while now - self._times[0] > self._within_s:
            self._times.popleft()
        return len(self._times) > self._most
