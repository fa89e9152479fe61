"""Record batches as any producer may write them.

The name of a header is a string, but Kafka itself does not look at it, and producers on librdkafka
take any bytes. aiokafka fails at a name that is no UTF-8, and fetches the same batch for ever: one
such record would end the reading of its partition. Here a name is read as far as it is UTF-8, with
`\\xff` for what is not.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import islice
from typing import Any, SupportsIndex

from aiokafka.consumer import fetcher
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.memory_records import MemoryRecords

LENGTH = struct.Struct(">8xi")
"""Base offset and length, with which a batch of every version begins."""


class Batches:
    """Stands in for aiokafka's `MemoryRecords`: the batches of a response to a fetch."""

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)
        self._batches = MemoryRecords(data)
        self._position = 0

    def size_in_bytes(self) -> int:
        """Size of all batches."""
        size: int = self._batches.size_in_bytes()
        return size

    def has_next(self) -> bool:
        """Whether there is another whole batch."""
        return bool(self._batches.has_next())

    def next_batch(self) -> Batch | None:
        """The next batch; None behind the last whole one."""
        batch = self._batches.next_batch()
        if batch is None:
            return None
        (length,) = LENGTH.unpack_from(self._data, self._position)
        begin = self._position
        self._position += LENGTH.size + length
        return Batch(batch, self._data[begin : self._position])


class Batch:
    """One of aiokafka's batches, read once more by ourselves where aiokafka fails at a name."""

    def __init__(self, batch: Any, data: memoryview) -> None:
        self._batch = batch
        self._data = data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def __next__(self) -> Any:
        return next(self._batch)

    def __iter__(self) -> Iterator[Any]:
        read = 0
        try:
            for record in self._batch:
                yield record
                read += 1
        except UnicodeDecodeError:
            yield from islice(_TolerantBatch(self._data), read, None)


class _TolerantBatch(_DefaultRecordBatchPy):  # type: ignore[misc]
    """aiokafka's batch in Python, which is slow."""

    _buffer: bytearray

    def _maybe_uncompress(self) -> None:
        super()._maybe_uncompress()
        self._buffer = _Names(self._buffer)


class _Names(bytearray):
    """Bytes in which nothing but the name of a header is decoded."""

    def __getitem__(self, index: SupportsIndex | slice) -> Any:
        found = super().__getitem__(index)
        return _Names(found) if isinstance(found, bytearray) else found

    def decode(self, encoding: str = "utf-8", errors: str = "backslashreplace") -> str:
        return super().decode(encoding, "backslashreplace")


def accept_any_header_name() -> None:
    """Have every consumer of this process read its batches so; again does nothing."""
    fetcher.MemoryRecords = Batches
