"""The HTTP server of a worker: status page, probes, metrics and one document at a time.

It needs nothing of Kafka to start, so the probes answer while the worker waits for its broker.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import orjson
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from mode import Service
from prometheus_client import CONTENT_TYPE_LATEST

from app.errors import (
    BrokerError,
    InvalidJSON,
    MissingField,
    RequestError,
    SettingsError,
    WrongType,
)
from app.exchange import NoAnswer
from app.settings import MAX_RECORD_BYTES
from app.web.guard import BODY_WITHIN_S, PAGES, Guard, Handler, add_headers, json_response, problem

log = logging.getLogger(__name__)


class _WellFormed(logging.Filter):
    """Drops what aiohttp logs of a request that is no HTTP: its first line, with a token in it."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if isinstance(record.exc_info, tuple) else record.exc_info
        return not isinstance(error, HttpProcessingError)


http_log = logging.getLogger(f"{__name__}.http")
http_log.addFilter(_WellFormed())

STATIC = Path(__file__).parent / "static"
MAX_BODY_BYTES = 17 * 1024 * 1024
"""Room for the largest record that Kafka takes."""
ENVELOPE_BYTES = 1024
"""What an id and Kafka add to a record."""
ANSWER_WITHIN_S = 30.0
IDLE_S = 30.0
"""How long a connection may stay open without a whole request; the page asks each second."""
PREDICTIONS_AT_ONCE = 16
"""Posted documents in memory at once; the bodies of others wait in their sockets."""
PORTS_TRIED = 100
CLOSE_WITHIN_S = 1.0
REQUEST_FIELDS = ("id", "text", "text_pair", "model", "top_k", "deadline_ms")

Predict = Callable[[dict[str, Any]], Awaitable[Mapping[str, Any]]]
"""Sends one request through Kafka and gives its response record.

Raises NoAnswer or TimeoutError where none came, BrokerError where it could not be sent,
RequestError where it is none."""


class StatusSource(Protocol):
    """What the server asks of the worker; each call is cheap and does not block."""

    def status(self) -> dict[str, Any]:
        """What the page shows, as JSON types."""

    def readiness(self) -> list[str]:
        """Reasons why the worker cannot take work; empty when it can."""

    def metrics(self) -> bytes:
        """The metrics in Prometheus' text format."""


class StatusServer(Service):  # type: ignore[misc]  # mode ships no types
    """Serves the status page at `url`, on `port` or the next free one (0: any).

    Raises (at start):
        SettingsError: the address is not of this machine, or no port is free.
    """

    url: str = ""
    """Where the page is; empty until the service has started."""

    def __init__(
        self,
        source: StatusSource,
        predict: Predict,
        *,
        host: str = "127.0.0.1",
        port: int = 6066,
        token: str | None = None,
        answer_within_s: float = ANSWER_WITHIN_S,
        idle_s: float = IDLE_S,
        **kwargs: Any,
    ) -> None:
        self._source = source
        self._predict = predict
        self._host = host
        self._port = port
        self._token = token
        self._answer_within_s = answer_within_s
        self._idle_s = idle_s
        self._predictions = asyncio.Semaphore(PREDICTIONS_AT_ONCE)
        self._runner: web.AppRunner | None = None
        super().__init__(**kwargs)

    async def on_start(self) -> None:
        """Listen; the page answers when this returns."""
        # No access log: it would write down tokens, and a line a second for every open page.
        self._runner = web.AppRunner(
            self.application(),
            access_log=None,
            logger=http_log,
            keepalive_timeout=self._idle_s,
            shutdown_timeout=CLOSE_WITHIN_S,
        )
        await self._runner.setup()
        try:
            port = await self._listen(self._runner)
        except BaseException:
            await self._runner.cleanup()
            raise
        self.url = page_url(self._host, port)
        if self._port not in {0, port}:
            log.warning("port %d is taken: the status page is at %s", self._port, self.url)
        else:
            log.info("the status page is at %s", self.url)

    async def on_stop(self) -> None:
        """Close the port and the connections."""
        if self._runner is not None:
            await self._runner.cleanup()

    def application(self) -> web.Application:
        """The routes, behind the guard."""
        guard = Guard(host=self._host, token=self._token)
        app = web.Application(
            middlewares=[errors_as_json, guard.admit], client_max_size=MAX_BODY_BYTES
        )
        app.on_response_prepare.append(add_headers)
        app.router.add_get("/", self._page)
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/api/status", self._status)
        app.router.add_post("/api/predict", self._predict_one)
        app.router.add_static("/static", STATIC)
        return app

    async def _listen(self, runner: web.AppRunner) -> int:
        last = min(self._port + PORTS_TRIED, 65536)
        for port in range(self._port, last) if self._port else (0,):
            try:
                await web.TCPSite(runner, self._host, port).start()
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    continue
                raise SettingsError(
                    f"the status page cannot listen on {self._host} port {port}: "
                    f"{error.strerror or error}; set BERTSTREAM_WEB_HOST and BERTSTREAM_WEB_PORT"
                ) from error
            return int(runner.addresses[0][1])
        raise SettingsError(
            f"no port from {self._port} to {last - 1} is free for the status page; "
            "set BERTSTREAM_WEB_PORT, or 0 for any"
        )

    async def _page(self, request: web.Request) -> web.StreamResponse:
        return web.FileResponse(PAGES / "index.html")

    async def _healthz(self, request: web.Request) -> web.Response:
        return json_response({"alive": True})

    async def _readyz(self, request: web.Request) -> web.Response:
        reasons = self._source.readiness()
        return json_response(
            {"ready": not reasons, "reasons": reasons}, status=503 if reasons else 200
        )

    async def _metrics(self, request: web.Request) -> web.Response:
        return web.Response(
            body=self._source.metrics(),
            headers={"Content-Type": CONTENT_TYPE_LATEST, "Cache-Control": "no-store"},
        )

    async def _status(self, request: web.Request) -> web.Response:
        return json_response(self._source.status())

    async def _predict_one(self, request: web.Request) -> web.Response:
        async with self._predictions:
            return await self._predict_posted(request)

    async def _predict_posted(self, request: web.Request) -> web.Response:
        async with asyncio.timeout(BODY_WITHIN_S):
            body = await request.read()
        try:
            document = read_request(body)
        except RequestError as error:
            return problem(400, error.code, str(error))
        if len(orjson.dumps(document)) > MAX_RECORD_BYTES - ENVELOPE_BYTES:
            return too_large(f"the record is larger than {MAX_RECORD_BYTES >> 20} MiB")
        if reasons := self._source.readiness():
            return problem(503, "not_ready", "; ".join(reasons), retryable=True)
        try:
            async with asyncio.timeout(self._answer_within_s):
                answer = await self._predict(document)
        except (TimeoutError, NoAnswer):
            return problem(
                504,
                "no_answer",
                f"no answer came within {self._answer_within_s:g} s; "
                "the document may still be predicted",
                retryable=True,
            )
        except BrokerError as error:
            return problem(503, "broker_unavailable", str(error), retryable=True)
        except RequestError as error:
            return problem(422, error.code, str(error), retryable=error.retryable)
        return json_response(answer, status=422 if answer.get("status") == "error" else 200)


def read_request(body: bytes) -> dict[str, Any]:
    """The request that a posted JSON object makes; unknown fields are left out.

    Raises:
        RequestError: no JSON object, no `text`, or a `text` or `id` that cannot be sent.
    """
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidJSON(f"the body is not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise InvalidJSON("the body is not a JSON object")
    if "text" not in fields:
        raise MissingField("the field 'text' is missing")
    if not isinstance(fields["text"], str):
        raise WrongType("the field 'text' is not a string")
    if "id" in fields and not (isinstance(fields["id"], str) and fields["id"]):
        raise WrongType("the field 'id' is not a non-empty string")
    return {name: fields[name] for name in REQUEST_FIELDS if fields.get(name) is not None}


def too_large(message: str) -> web.Response:
    """The answer to more than Kafka takes."""
    return problem(413, "too_large", message)


@web.middleware
async def errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer what a handler raises in the shape of every other error."""
    try:
        return await handler(request)
    except web.HTTPRequestEntityTooLarge:
        return too_large(f"the body is larger than {MAX_BODY_BYTES >> 20} MiB")
    except TimeoutError:
        return problem(408, "request_timeout", "the body did not come in time", retryable=True)
    except web.HTTPException as error:
        answer = problem(error.status, error.reason.lower().replace(" ", "_"), error.reason)
        if "Allow" in error.headers:
            answer.headers["Allow"] = error.headers["Allow"]
        return answer
    except Exception:
        log.exception("%s %s failed", request.method, request.path)
        return problem(500, "internal_error", "this failed; the worker's log says why")


def page_url(host: str, port: int) -> str:
    """Address of a page that listens there; a wildcard is reached by the machine's name."""
    if host in {"0.0.0.0", "::", ""}:
        host = socket.gethostname()
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
