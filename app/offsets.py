"""Which offset of a partition may be committed."""

from __future__ import annotations

from collections import deque


class OffsetTracker:
    """Follows the records of one partition from their hand-over to their acknowledgement.

    Only the records that were handed over count, in the order of their offsets: offsets that the
    topic does not hold (compacted away, transaction markers) need no acknowledgement of their own.

    Arguments:
        generation: Generation of the consumer group in which the partition was assigned. What
            belongs to another generation is not for this tracker.
    """

    def __init__(self, generation: int | None) -> None:
        self.generation = generation
        self._open: deque[int] = deque()
        self._finished: set[int] = set()
        self._next: int | None = None
        self._last: int | None = None
        self._taken: int | None = None
        self.committed: int | None = None

    def __len__(self) -> int:
        """Records handed over and not yet acknowledged, or acknowledged out of order."""
        return len(self._open)

    def begin(self, offset: int) -> None:
        """Note that the record at `offset` was handed over; a repeated hand-over is no new one."""
        if self._last is None or offset > self._last:
            self._open.append(offset)
            self._last = offset

    def take(self, offset: int) -> bool:
        """Note that the record at `offset` is taken up; False where it already was."""
        if self._taken is not None and offset <= self._taken:
            return False
        self._taken = offset
        return True

    def finish(self, offset: int) -> None:
        """Note that the record at `offset` has been answered, in whatever order."""
        if not self._open or offset < self._open[0] or offset > self._open[-1]:
            return
        self._finished.add(offset)
        while self._open and self._open[0] in self._finished:
            done = self._open.popleft()
            self._finished.discard(done)
            self._next = done + 1

    @property
    def committable(self) -> int | None:
        """Offset to commit, the next to be read; None where nothing new can be committed."""
        if self._next is None or self._next == self.committed:
            return None
        return self._next
