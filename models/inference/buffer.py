"""Encoded documents that wait for the device."""

from __future__ import annotations

import threading
import time
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Iterable

from models.inference.batching import window
from models.inference.tasks import EncodedDocument
from models.inference.ticket import Engine, Row, Ticket


class Queue:
    """The rows of one model, by length; rows of one length by arrival."""

    def __init__(self) -> None:
        self.lengths: list[int] = []
        self.rows: list[Row] = []

    def add(self, row: Row) -> None:
        length = len(row.segment)
        place = bisect_right(self.lengths, length)
        self.lengths.insert(place, length)
        self.rows.insert(place, row)

    def find(self, row: Row) -> int:
        return self.rows.index(row, bisect_left(self.lengths, len(row.segment)))

    def cut(self, first: int, end: int) -> list[Row]:
        rows = self.rows[first:end]
        del self.lengths[first:end], self.rows[first:end]
        return rows

    def drop_over(self) -> list[Row]:
        """Drop the rows of documents that are over, and return them."""
        dropped = [row for row in self.rows if row.ticket.over]
        self.rows = [row for row in self.rows if not row.ticket.over]
        self.lengths = [len(row.segment) for row in self.rows]
        return dropped


class Buffer:
    """Encoded documents by model and length, and the device batches formed of them.

    A batch is formed over everything that waits, around the document whose turn is the oldest.
    A document with segments left takes its next turn after those that came meanwhile, so neither
    a long document nor an odd length starves another.

    Shared by threads: whoever calls `put`, `take`, `end` or `drop_over` holds `changed`.
    """

    def __init__(self) -> None:
        self.changed = threading.Condition()
        """Notified when documents come, go, or have been computed."""
        self.small_tokens = 0
        """Tokens of small documents that wait."""
        self.large_tokens = 0
        """Tokens of large documents that wait."""
        self._queues: dict[Engine, Queue] = {}
        self._turns: deque[Ticket] = deque()

    def __bool__(self) -> bool:
        """Whether anything waits."""
        return bool(self._turns)

    @property
    def tokens(self) -> int:
        """Tokens that wait."""
        return self.small_tokens + self.large_tokens

    @property
    def oldest(self) -> float:
        """Monotonic time since which the document has waited whose turn is next."""
        return self._turns[0].waiting_since

    def fills(self, *, max_rows: int, max_tokens: int) -> bool:
        """Whether a whole device batch waits."""
        return (
            self.tokens >= max_tokens
            or sum(len(queue.rows) for queue in self._queues.values()) >= max_rows
        )

    def put(self, ticket: Ticket, encoded: EncodedDocument) -> None:
        """Let an encoded document wait for its turn."""
        ticket.encoded = encoded
        ticket.rows = [Row(ticket, segment) for segment in encoded.segments]
        ticket.missing = len(ticket.rows)
        ticket.waiting_since = time.monotonic()
        queue = self._queues.setdefault(ticket.engine, Queue())
        for row in ticket.rows:
            queue.add(row)
            self._count(row, +1)
        self._turns.append(ticket)

    def take(self, *, max_rows: int, max_tokens: int) -> tuple[list[Row], list[Ticket]]:
        """Form the next device batch.

        Args:
            max_rows: most segments.
            max_tokens: most tokens, with what padding costs, unless one segment alone has more.

        Returns:
            The rows of one model, shortest first (none if nothing waits), and the documents found
            to be past their deadline, which are over and not in the batch.
        """
        late: list[Ticket] = []
        rows: list[Row] = []
        while self._turns and not rows:
            turn = self._turns.popleft()
            for row in self._gather(turn, max_rows, max_tokens):
                if not row.ticket.over and row.ticket.late:
                    row.ticket.over = True
                    late.append(row.ticket)
                if not row.ticket.over:
                    rows.append(row)
            if turn.waits:
                self._turns.append(turn)
            self._skip_empty_turns()
        if late:
            self.drop_over()
        return rows, late

    def end(self, tickets: Iterable[Ticket]) -> list[Ticket]:
        """Let documents be over, and drop what waits of them; returns those that were not yet."""
        ended = []
        for ticket in tickets:
            if not ticket.over:
                ticket.over = True
                ended.append(ticket)
        if ended:
            self.drop_over()
        return ended

    def drop_over(self) -> None:
        """Drop what waits of documents that are over."""
        for engine, queue in list(self._queues.items()):
            for row in queue.drop_over():
                self._leave(row)
            if not queue.rows:
                del self._queues[engine]
        self._turns = deque(ticket for ticket in self._turns if ticket.waits)

    def _gather(self, ticket: Ticket, max_rows: int, max_tokens: int) -> list[Row]:
        """Cut out the rows of a device batch around the first of the document's that waits."""
        queue = self._queues[ticket.engine]
        anchor = next(row for row in ticket.rows if row.waits)
        first, end = window(
            queue.lengths,
            queue.find(anchor),
            max_rows=max_rows,
            max_tokens=max_tokens,
            padding_free=ticket.engine.padding_free,
        )
        rows = queue.cut(first, end)
        if not queue.rows:
            del self._queues[ticket.engine]
        for row in rows:
            self._leave(row)
        return rows

    def _leave(self, row: Row) -> None:
        row.waits = False
        self._count(row, -1)

    def _count(self, row: Row, sign: int) -> None:
        if row.ticket.large:
            self.large_tokens += sign * len(row.segment)
        else:
            self.small_tokens += sign * len(row.segment)

    def _skip_empty_turns(self) -> None:
        """Bring a document that waits to the front: batches of others took many along."""
        while self._turns and not self._turns[0].waits:
            self._turns.popleft()
