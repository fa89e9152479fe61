"""The encoding stage of the pool: texts become segments, many documents a call."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain

from models.errors import InferenceError
from models.inference.buffer import Buffer
from models.inference.tasks import EncodedDocument
from models.inference.ticket import Answer, Ticket, failure
from models.inference.watch import Watch

Encoded = tuple[Ticket, EncodedDocument | InferenceError]

ENCODE_DOCUMENTS = 64
"""Most documents of one call of the tokenizer."""
ENCODE_BYTES = 256 * 1024
"""Most bytes of text of one call of the tokenizer, unless one document alone has more."""


class EncodeStage:
    """Tokenizes ahead of the device, but never far.

    Small documents are encoded while fewer than `max_tokens` tokens of theirs wait for the
    device, large ones alone and by a count of their own, in turn with the small: memory stays
    bounded by what waits and one call more, and small documents go past large ones.
    """

    def __init__(
        self,
        buffer: Buffer,
        *,
        max_tokens: int,
        watch: Watch,
        answer: Callable[[Sequence[Answer]], None],
    ) -> None:
        """
        Args:
            buffer: takes the encoded documents.
            max_tokens: that may wait there before the next call, of each kind of document.
            watch: shared with the lanes; what it gives up is left to be answered.
            answer: takes the documents that cannot be encoded, with their errors.
        """
        self._buffer = buffer
        self._changed = buffer.changed
        self._max_tokens = max_tokens
        self._watch = watch
        self._answer = answer
        self._small: deque[Ticket] = deque()
        self._large: deque[Ticket] = deque()
        self._large_was_last = False
        self._closed = False

    def run(self) -> None:
        """Encode until closed; several threads may."""
        while tickets := self._next():
            with self._watch.step("encoding", partial(self._give_up, tickets)):
                results = encode(tickets)
            with self._changed:
                for ticket, encoded in results:
                    if isinstance(encoded, EncodedDocument) and not ticket.over:
                        self._buffer.put(ticket, encoded)
                self._changed.notify_all()
            self._refuse(results)

    def put(self, tickets: Sequence[Ticket]) -> None:
        """Queue documents, in order."""
        with self._changed:
            for ticket in tickets:
                (self._large if ticket.large else self._small).append(ticket)
            self._changed.notify_all()

    def drop_over(self) -> None:
        """Drop the documents that are over, also those that are encoded already."""
        with self._changed:
            self._small = deque(ticket for ticket in self._small if not ticket.over)
            self._large = deque(ticket for ticket in self._large if not ticket.over)
            self._buffer.drop_over()
            self._changed.notify_all()

    def close(self) -> None:
        """End `run` after the call that it is in."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _refuse(self, results: Sequence[Encoded]) -> None:
        errors = [(ticket, error) for ticket, error in results if isinstance(error, Exception)]
        for ticket, _ in errors:
            ticket.over = True
        if errors:
            self._answer(errors)

    def _give_up(self, tickets: Sequence[Ticket]) -> list[Ticket]:
        """End documents whose encoding takes too long; returns those to answer."""
        with self._changed:
            return self._buffer.end(tickets)

    def _next(self) -> list[Ticket]:
        """Wait for documents to encode; none once closed."""
        with self._changed:
            while not self._closed:
                may_small = self._small and self._buffer.small_tokens < self._max_tokens
                may_large = self._large and self._buffer.large_tokens < self._max_tokens
                if may_large and not (may_small and self._large_was_last):
                    self._large_was_last = True
                    return [self._large.popleft()]
                if may_small:
                    self._large_was_last = False
                    return self._chunk()
                self._changed.wait()
            return []

    def _chunk(self) -> list[Ticket]:
        tickets: list[Ticket] = []
        size = 0
        while self._small and len(tickets) < ENCODE_DOCUMENTS and size < ENCODE_BYTES:
            tickets.append(self._small.popleft())
            size += tickets[-1].text_bytes
        return tickets


def encode(tickets: Sequence[Ticket]) -> list[Encoded]:
    """Encode documents, one call for each model among them; an error concerns its document."""
    results: list[Encoded] = []
    for engine in dict.fromkeys(ticket.engine for ticket in tickets):
        company = [ticket for ticket in tickets if ticket.engine is engine]
        try:
            encoded = engine.encode([ticket.document for ticket in company])
        except Exception as error:
            if len(company) > 1:
                results += chain.from_iterable(encode([ticket]) for ticket in company)
            else:
                results.append((company[0], failure(error)))
        else:
            results += zip(company, encoded, strict=True)
    return results
