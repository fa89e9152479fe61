"""Chromium, and the status page over a source that the test sets as it likes."""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from app.web.server import StatusServer

CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM_ARGS = [
    "--no-sandbox",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


# Chromium shares a small machine with Kafka and the models.
expect.set_options(timeout=20_000)


class Source:
    """A worker as the page sees it: alive since two hours, with two workers in its group."""

    def __init__(self) -> None:
        self.started_at = time.time() - 8000
        self.reasons: list[str] = []
        self.state = "ready"
        self.documents = 0
        self.values: dict[str, Any] = {}

    def readiness(self) -> list[str]:
        return self.reasons

    def metrics(self) -> bytes:
        return b"bertstream_documents_total 0\n"

    def status(self) -> dict[str, Any]:
        uptime_s = time.time() - self.started_at
        status = {
            "worker": {
                "name": "laptop-4711-5e0c9a",
                "version": "0.1.0",
                "pid": 4711,
                "started_at": self.started_at,
                "uptime_s": uptime_s,
                "state": self.state,
                "ready": not self.reasons,
                "reasons": self.reasons,
                "group": "bertstream",
                "delivery": "at-least-once",
                "python": "3.11.2",
                "torch": "2.13.0",
            },
            "broker": {
                "addresses": ["127.0.0.1:9092"],
                "connected": True,
                "topics": {
                    "requests": "bert-requests",
                    "responses": "bert-responses",
                    "dead_letters": "bert-dead-letters",
                    "throughput": "bert-throughput",
                },
            },
            "models": [MODEL],
            "throughput": {
                "interval_s": 1.0,
                "now": point(time.time(), 0),
                "history": [],
                "total": {"records": 0, "documents": 0, "tokens": 0, "errors": 0},
            },
            "errors": {},
            "labels": {},
            "dead_letters": {"records": 0, "latest": [], "recent": {}},
            "partitions": [
                {
                    "partition": n,
                    "committed": None,
                    "end": 0,
                    "lag": 0,
                    "worker": "laptop-4711-5e0c9a",
                }
                for n in range(8)
            ],
            "queue": {
                "documents": 0,
                "tokens": 0,
                "batches_in_flight": 0,
                "max_in_flight": 4,
                "awaiting_delivery": 0,
            },
            "workers": [worker("laptop-4711-5e0c9a", list(range(8)), time.time(), 0.0)],
        }
        return status | self.values

    def make_busy(self) -> None:
        """Five minutes of work on two workers."""
        now = time.time()
        rates = [900 + 250 * ((n * 37) % 17) / 17 + (n % 60) * 4 for n in range(300)]
        history = [point(now - 300 + n, rate) for n, rate in enumerate(rates)]
        self.values = {
            "throughput": {
                "interval_s": 1.0,
                "now": history[-1],
                "history": history,
                "total": {
                    "records": 1_234_700,
                    "documents": 1_234_567,
                    "tokens": 65_432_100,
                    "errors": 133,
                },
            },
            "errors": {"empty_text": 88, "invalid_json": 41, "text_too_large": 4},
            "dead_letters": {
                "records": 133,
                "latest": [dead_letter(n, now - 40 * n) for n in range(20)],
                "recent": {"empty_text": 17, "invalid_json": 3},
            },
            "labels": {
                "Sports": 401_200,
                "World": 350_100,
                "Business": 290_100,
                "Sci/Tech": 193_167,
            },
            "partitions": [
                {
                    "partition": n,
                    "committed": 150_000,
                    "end": 150_000 + lag,
                    "lag": lag,
                    "worker": "laptop-4711-5e0c9a" if n < 4 else "desktop-815-b71f02",
                }
                for n, lag in enumerate([120, 340, 0, 77, 1204, 980, 15, 402])
            ],
            "queue": {
                "documents": 731,
                "tokens": 38_004,
                "batches_in_flight": 4,
                "max_in_flight": 4,
                "awaiting_delivery": 256,
            },
            "workers": [
                worker("laptop-4711-5e0c9a", [0, 1, 2, 3], now, 612.0),
                worker("desktop-815-b71f02", [4, 5, 6, 7], now - 3, 540.0),
            ],
        }


MODEL = {
    "name": "agnews",
    "version": "3fa9c1d20b7e",
    "task": "text-classification",
    "takes_pairs": False,
    "labels": ["World", "Sports", "Business", "Sci/Tech"],
    "family": "bert",
    "parameters": 22_713_216,
    "window": 256,
    "aggregation": "mean",
    "device": "cpu",
    "dtype": "float32",
    "default": True,
    "path": "builtin",
}


def dead_letter(number: int, at: float) -> dict[str, Any]:
    """A request that ended in an error at this time; every third has been replayed."""
    return {
        "time": at,
        "code": "empty_text" if number % 5 else "invalid_json",
        "message": "'text' is blank" if number % 5 else "the value is no JSON: line 1 column 2",
        "id": f"ticket-{number}",
        "source": {"topic": "bert-requests", "partition": number % 8, "offset": 1200 + number},
        "place": {"topic": "bert-dead-letters", "partition": number % 4, "offset": number},
        "replays": number % 2,
        "replayed_at": None if number % 3 else at + 20,
        "value_bytes": 31,
        "omitted": False,
        "text": f'{{"id": "ticket-{number}", "text": " "}}',
    }


def point(at: float, documents_per_s: float) -> dict[str, Any]:
    latency = None
    if documents_per_s:
        p50 = 18 + documents_per_s / 100
        latency = {"p50": p50, "p95": p50 * 1.7 + at % 5, "p99": p50 * 2.4 + at % 11}
    return {
        "time": at,
        "records_per_s": documents_per_s,
        "documents_per_s": documents_per_s,
        "tokens_per_s": documents_per_s * 53,
        "errors_per_s": 0.0,
        "batch_size": min(256.0, documents_per_s / 6),
        "batch_segments": min(256.0, documents_per_s / 4),
        "latency_ms": latency,
    }


def worker(name: str, partitions: list[int], seen: float, rate: float) -> dict[str, Any]:
    return {
        "name": name,
        "host": name.partition("-")[0],
        "pid": int(name.split("-")[1]),
        "partitions": partitions,
        "documents_per_s": rate,
        "batch_size": rate / 4,
        "batch_segments": rate / 3,
        "latency_ms": {"p50": 22.0, "p95": 41.0, "p99": 66.0} if rate else None,
        "device": "cpu",
        "dtype": "float32",
        "models": ["agnews"],
        "page": f"http://127.0.0.1:{6066 if name.startswith('laptop') else 6067}",
        "last_seen": seen,
    }


PREDICTION = {
    "id": "a1",
    "status": "ok",
    "model": "agnews",
    "model_version": "3fa9c1d20b7e",
    "task": "text-classification",
    "label": "Sports",
    "score": 0.9731,
    "scores": {"Sports": 0.9731, "World": 0.0202, "Business": 0.0051, "Sci/Tech": 0.0016},
    "labels": None,
    "embedding": None,
    "segments": 2,
    "tokens": 311,
    "timings_ms": {"queued": 4.1, "inference": 9.8, "total": 15.2},
    "source": {"topic": "bert-requests", "partition": 3, "offset": 1207},
}


class Site:
    """The status page on a loopback port, in a thread with a loop of its own."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.asked: list[dict[str, Any]] = []
        self.answer: Callable[[dict[str, Any]], Awaitable[dict[str, Any]]] = self._predict
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server: StatusServer | None = None

    async def _predict(self, request: dict[str, Any]) -> dict[str, Any]:
        return PREDICTION

    async def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        self.asked.append(request)
        return await self.answer(request)

    def start(self, *, port: int = 0, token: str | None = None, **options: Any) -> str:
        """Listen, and give the page's address."""

        async def start() -> str:
            self._server = StatusServer(self.source, self._ask, port=port, token=token, **options)
            await self._server.start()
            return self._server.url

        url: str = self._run(start())
        return url

    def open(self, page: Page) -> str:
        """Listen, and wait until the page shows the status."""
        url = self.start()
        page.goto(url)
        expect(page.locator("#connection")).to_have_text("Live")
        expect(page.locator("#worker-line")).to_contain_text("group bertstream")
        return url

    def stop(self) -> None:
        if self._server is not None:
            self._run(self._server.stop())
            self._server = None

    def close(self) -> None:
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)


@pytest.fixture
def prediction() -> dict[str, Any]:
    """The response that the fake worker gives."""
    return PREDICTION


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def site(source: Source) -> Iterator[Site]:
    site = Site(source)
    yield site
    site.close()


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of a Chromium on this machine."""
    found = next(filter(None, map(shutil.which, CHROMIUM_NAMES)), None)
    if found is None:
        why = f"no Chromium on the PATH (looked for {', '.join(CHROMIUM_NAMES)})"
        if os.environ.get("CI") == "true":
            pytest.fail(why)
        pytest.skip(why)
    return found


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Browser]:
    """Chromium, for one module: while it is open, playwright's loop runs in the test's thread."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_ARGS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A desktop page; the test fails when the page's script does."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, locale="en-GB")
    page = context.new_page()
    page.set_default_timeout(20_000)
    failures: list[str] = []
    page.on("pageerror", lambda error: failures.append(str(error)))
    yield page
    context.close()
    assert failures == []
