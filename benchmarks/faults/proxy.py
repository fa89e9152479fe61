"""A TCP proxy that throttles, delays and cuts connections, in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from types import TracebackType

CHUNK_BYTES = 16 * 1024


class Proxy:
    """Passes connections on to a port of this machine, as badly as it is told to.

    All three faults may be set and changed at any time, from any thread.
    """

    def __init__(self, host: str = "127.0.0.1") -> None:
        self.target_port = 0
        """Where connections go; may change, as when a broker comes back elsewhere."""
        self.bytes_per_s: float | None = None
        """Most bytes a second and direction of each connection; None: no bound."""
        self.delay_s = 0.0
        """How long every chunk is held back."""
        self.port = 0
        self._host = host
        self._open: set[asyncio.WriteTransport] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy")

    def __enter__(self) -> Proxy:
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result()
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def cut(self) -> int:
        """Reset every connection that is open, new ones are accepted; how many there were."""

        async def cut() -> int:
            for transport in self._open:
                transport.abort()
            return len(self._open)

        return asyncio.run_coroutine_threadsafe(cut(), self._loop).result()

    async def _listen(self) -> asyncio.Server:
        return await asyncio.start_server(self._accept, self._host, 0)

    async def _close(self) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._open.add(writer.transport)
        upstream: asyncio.StreamWriter | None = None
        try:
            answers, upstream = await asyncio.open_connection(self._host, self.target_port)
            ways = {
                asyncio.create_task(self._pass(reader, upstream)),
                asyncio.create_task(self._pass(answers, writer)),
            }
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
        except (OSError, asyncio.CancelledError):
            pass  # the client sees its connection end
        finally:
            self._tasks.discard(task)
            self._open.discard(writer.transport)
            for end in (writer, upstream):
                if end is not None:
                    end.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while chunk := await reader.read(CHUNK_BYTES):
                held_s = self.delay_s
                if self.bytes_per_s is not None:
                    held_s += len(chunk) / self.bytes_per_s
                if held_s:
                    await asyncio.sleep(held_s)
                writer.write(chunk)
                await writer.drain()
