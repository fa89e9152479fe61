"""HTTP with an aiohttp application in memory: real requests and answers as bytes, no socket."""

from __future__ import annotations

import asyncio
import http.client
import io
import json
from dataclasses import dataclass
from typing import Any

from aiohttp import web


@dataclass
class Answer:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        return str(self.json["error"]["code"])


class Wire(asyncio.Transport):
    """The server's end of a connection: what it writes is kept."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.closed = asyncio.Event()

    def write(self, data: Any) -> None:
        self.written += data

    def writelines(self, list_of_data: Any) -> None:
        for data in list_of_data:
            self.write(data)

    def is_closing(self) -> bool:
        return self.closed.is_set()

    def close(self) -> None:
        self.closed.set()

    abort = close

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


class _Received:
    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, mode: str) -> io.BytesIO:
        return io.BytesIO(self._data)


async def exchange(application: web.Application, head: str, body: bytes) -> Answer:
    """Send a request whose head says `Connection: close`, and read the answer."""
    runner = web.AppRunner(application, access_log=None, lingering_time=0.1)
    await runner.setup()
    assert runner.server is not None
    wire, connection = Wire(), runner.server()
    connection.connection_made(wire)
    connection.data_received(head.encode("utf-8", "surrogateescape"))
    for start in range(0, len(body), 1 << 20):
        connection.data_received(body[start : start + (1 << 20)])
    await asyncio.wait_for(wire.closed.wait(), 30)
    connection.connection_lost(None)
    await runner.cleanup()
    received = http.client.HTTPResponse(_Received(bytes(wire.written)))  # type: ignore[arg-type]
    received.begin()
    return Answer(received.status, received.headers, received.read())
