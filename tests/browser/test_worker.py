"""The page of real workers on a real Kafka."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from aiokafka import AIOKafkaProducer
from playwright.sync_api import Dialog, Page, expect

from app.client import Client
from app.settings import Settings
from tests.workers import StartedWorker, eventually, service_settings

TOPICS = {"World", "Sports", "Business", "Sci/Tech"}
DOCUMENTS = 60


@pytest.fixture(scope="module")
def settings(bootstrap_servers: str, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    names = f"page-{time.time_ns():x}"
    return service_settings(bootstrap_servers, names, tmp_path_factory.mktemp(names))


@pytest.fixture(scope="module")
def workers(settings: Settings) -> Iterator[tuple[StartedWorker, StartedWorker]]:
    """Two workers of one group, both ready."""
    started: list[StartedWorker] = []
    try:
        for name in ("first", "second"):
            log = settings.data_dir / f"{name}.log"
            started.append(StartedWorker(settings, log))
            started[-1].wait_until_ready()
        started[0].wait_until_ready()  # again: the second one's arrival moves partitions
        yield started[0], started[1]
        for worker in started:
            assert worker.stop() == 0, worker.log
    finally:
        for worker in started:
            worker.kill()


@pytest.fixture
def first(page: Page, workers: tuple[StartedWorker, StartedWorker]) -> Page:
    """The page of the first worker."""
    assert workers[0].url is not None
    page.goto(workers[0].url)
    expect(page.get_by_role("heading", level=1)).to_have_text("Ready", timeout=60_000)
    return page


def test_a_document_that_is_tried_goes_through_kafka(first: Page, settings: Settings) -> None:
    first.get_by_role("textbox", name="Document").fill("The striker scored twice in the final.")
    first.keyboard.press("Control+Enter")
    result = first.get_by_role("region", name="Prediction")
    expect(result.locator(".label")).to_have_text("Sports", timeout=40_000)
    expect(result.locator(".bars li")).to_have_count(4)
    expect(result.locator(".times")).to_contain_text("Segments1")
    expect(result).to_contain_text(f"{settings.request_topic}, partition")
    expect(first.locator("#labels")).to_contain_text("Sports")
    expect(first.locator("#documents-total")).not_to_have_text("0 in all")


def test_a_refused_document_shows_why(first: Page) -> None:
    first.get_by_role("textbox", name="Document").fill("x" * 1_100_000)
    first.keyboard.press("Control+Enter")
    result = first.get_by_role("region", name="Prediction")
    expect(result.locator(".code")).to_have_text("text_too_large", timeout=40_000)
    expect(first.locator("#errors")).to_contain_text("text_too_large")


def test_both_workers_are_shown_with_their_partitions(
    first: Page, page: Page, workers: tuple[StartedWorker, StartedWorker], settings: Settings
) -> None:
    rows = first.get_by_role("table", name="Workers of the group").locator("tbody tr")
    expect(rows).to_have_count(2)
    expect(rows.get_by_text("this one")).to_have_count(1)
    expect(first.locator("#lag li")).to_have_count(settings.partitions)
    owners = first.locator("#lag .note")
    for number in range(settings.partitions):
        expect(owners.nth(number)).not_to_have_text("no worker")
    assert len(set(owners.all_inner_texts())) == 2

    other = workers[1].url
    assert other is not None
    rows.get_by_role("link").and_(first.locator(f"a[href^='{other}']")).click()
    expect(page).to_have_url(f"{other}/")
    expect(page.get_by_role("heading", level=1)).to_have_text("Ready")


def test_lag_and_throughput_move(
    first: Page, workers: tuple[StartedWorker, StartedWorker], settings: Settings
) -> None:
    expect(first.locator("#lag-total")).to_have_text("0")
    before = documents_in_all(first)
    # A worker that stands still for a moment leaves its partitions waiting.
    workers[1].process.send_signal(signal.SIGSTOP)
    try:
        send_documents(settings)
        expect(first.locator("#lag-total")).not_to_have_text("0")
    finally:
        workers[1].process.send_signal(signal.SIGCONT)
    expect(first.locator("#lag-total")).to_have_text("0", timeout=60_000)
    eventually(lambda: documents_in_all(first) >= before + DOCUMENTS)
    assert first.locator("#chart-documents path.line").get_attribute("d")


def test_a_dead_letter_is_shown_and_cannot_run(first: Page, settings: Settings) -> None:
    dialogs: list[str] = []

    def note(dialog: Dialog) -> None:
        dialogs.append(dialog.message)
        dialog.dismiss()

    first.on("dialog", note)
    value = """{"id": "<script>alert(1)</script>", "x": "'\\" onfocus=alert(1) autofocus>"}"""
    produce(settings, value.encode())
    panel = first.get_by_role("region", name="Dead letters")
    row = panel.locator("tbody tr").filter(has_text="missing_field")
    expect(row).to_contain_text("The field 'text' is missing.")
    expect(row).to_contain_text("<script>alert(1)</script>")
    expect(row.locator(".snippet")).to_have_text(value)
    expect(panel.get_by_role("listitem").filter(has_text="missing_field")).to_be_visible()
    assert panel.locator("script, [onfocus], [autofocus]").count() == 0
    assert dialogs == []


def documents_in_all(page: Page) -> int:
    return int(page.locator("#documents-total").inner_text().split()[0].replace(",", ""))


def produce(settings: Settings, value: bytes) -> None:
    """Write one record to the request topic, byte for byte."""

    async def send() -> None:
        async with AIOKafkaProducer(bootstrap_servers=settings.bootstrap_servers) as producer:
            await producer.send_and_wait(settings.request_topic, value)

    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, send()).result()


def send_documents(settings: Settings) -> None:
    async def send() -> None:
        async with Client(settings) as client:
            await client.send(f"Report {number} on shares." for number in range(DOCUMENTS))

    # In a thread of its own: the browser has a loop in this one.
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, send()).result()
