"""How much may be inside the pool."""

from __future__ import annotations

import asyncio
from collections import deque


class Room:
    """Room for documents and for bytes of text; whoever finds none waits in line.

    Text larger than all the room enters when nothing else is inside. Belongs to the event loop:
    not thread-safe, and neither method but `enter` waits.
    """

    def __init__(self, *, documents: int, text_bytes: int) -> None:
        self.max_documents = documents
        self.max_text_bytes = text_bytes
        self.documents = 0
        """Documents inside."""
        self.text_bytes = 0
        """UTF-8 bytes of their texts."""
        self._line: deque[tuple[asyncio.Future[None], int]] = deque()

    def try_enter(self, text_bytes: int) -> bool:
        """Take room for a document if there is some and nobody waits for it."""
        if self._line or not self._has(text_bytes):
            return False
        self._take(text_bytes)
        return True

    async def enter(self, text_bytes: int) -> None:
        """Take room for a document, waiting in line for it."""
        if self.try_enter(text_bytes):
            return
        turn = asyncio.get_running_loop().create_future()
        self._line.append((turn, text_bytes))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._admit()
            elif turn.exception() is None:
                self.leave(1, text_bytes)
            raise

    def leave(self, documents: int, text_bytes: int) -> None:
        """Give room back, and let in those who wait for it."""
        self.documents -= documents
        self.text_bytes -= text_bytes
        self._admit()

    def close(self, error: BaseException) -> None:
        """Send everybody in line away with this error."""
        while self._line:
            turn, _ = self._line.popleft()
            if not turn.done():
                turn.set_exception(error)

    def _has(self, text_bytes: int) -> bool:
        return not self.documents or (
            self.documents < self.max_documents
            and self.text_bytes + text_bytes <= self.max_text_bytes
        )

    def _take(self, text_bytes: int) -> None:
        self.documents += 1
        self.text_bytes += text_bytes

    def _admit(self) -> None:
        while self._line:
            turn, text_bytes = self._line[0]
            if not turn.done():
                if not self._has(text_bytes):
                    return
                self._take(text_bytes)
                turn.set_result(None)
            self._line.popleft()
