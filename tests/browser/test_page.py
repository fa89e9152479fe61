"""The status page in Chromium, over a worker whose state the test sets."""

from __future__ import annotations

from typing import Any

from playwright.sync_api import Dialog, Page, expect

HOSTILE = "<img src=x onerror=alert(1)><script>alert(1)</script>"


def test_it_shows_the_whole_status(page: Page, site: Any) -> None:
    site.source.make_busy()
    site.open(page)

    expect(page.get_by_role("heading", level=1)).to_have_text("Ready")
    expect(page).to_have_title("Ready · bertstream")
    expect(page.locator("#worker-line")).to_contain_text(
        "laptop-4711-5e0c9a · group bertstream · up 2 h"
    )
    expect(page.locator("#documents-total")).to_have_text("1.2M in all")
    expect(page.locator("#lag-total")).to_have_text("3,138")
    expect(page.locator("#errors-note")).to_have_text("0.01 % of records")
    expect(page.locator("#pressure")).to_contain_text("Back-pressure")
    expect(page.locator("#lag li")).to_have_count(8)
    expect(page.locator("#lag li").nth(4)).to_contain_text("Partition 4desktop-815-b71f021,204")
    expect(page.locator("#labels li").first).to_contain_text("Sports401,20032.5 %")
    expect(page.locator("#errors li").first).to_contain_text("empty_text88")
    models = page.get_by_role("table", name="Models")
    for text in ("agnews", "3fa9c1d20b7e", "text-classification", "256 tokens", "22.7 M", "cpu"):
        expect(models).to_contain_text(text)
    workers = page.get_by_role("table", name="Workers of the group").get_by_role("row")
    expect(workers).to_have_count(3)
    expect(workers.nth(1)).to_contain_text("this one")
    expect(workers.nth(2)).to_contain_text("4–7")
    link = workers.nth(2).get_by_role("link", name="desktop-815-b71f02")
    expect(link).to_have_attribute("href", "http://127.0.0.1:6067")
    expect(page.locator("#facts")).to_contain_text("127.0.0.1:9092 (connected)")
    expect(page.locator("#facts")).to_contain_text("bert-dead-letters")


def test_charts_have_axes_units_and_words(page: Page, site: Any) -> None:
    site.source.make_busy()
    site.open(page)
    expect(page.get_by_role("img", name="Documents, last five minutes: now")).to_be_visible()
    latency = page.get_by_role("img", name="Latency, last five minutes: now p50")
    expect(latency.locator("text.y")).to_have_text(["0", "50 ms", "100 ms"])
    batch = page.get_by_role("img", name="Device batch, last five minutes: now documents")
    expect(batch.locator("path.line")).to_have_count(2)
    expect(page.get_by_role("table", name="Workers of the group")).to_contain_text("204 segments")
    rate = page.get_by_role("img", name="Documents, last five")
    expect(rate.locator("text").first).to_have_text("docs/s")
    expect(latency).to_contain_text("−5 min")
    paths = latency.locator("path.line")
    expect(paths).to_have_count(3)
    for n in range(3):
        assert paths.nth(n).get_attribute("d", timeout=5000).count("L") > 250  # type: ignore[union-attr]

    page.locator("#chart-documents > svg").hover(position={"x": 200, "y": 80})
    expect(page.locator("#chart-documents .when")).to_contain_text("min ago")
    page.mouse.move(5, 5)
    expect(page.locator("#chart-documents .when")).to_have_text("now")


def test_a_hole_in_the_history_stays_a_hole(page: Page, site: Any) -> None:
    site.source.make_busy()
    history = site.source.values["throughput"]["history"]
    del history[100:150]
    site.open(page)
    line = page.locator("#chart-documents path.line").get_attribute("d")
    assert line is not None
    assert line.count("M") == 2


def test_it_is_live_without_reloading(page: Page, site: Any) -> None:
    site.open(page)
    page.evaluate("window.sameDocument = true")
    expect(page.locator("#documents-rate")).to_have_text("0")
    site.source.make_busy()
    expect(page.locator("#documents-rate")).not_to_have_text("0")
    expect(page.get_by_role("link", name="desktop-815-b71f02")).to_be_visible()
    site.source.reasons = ["partitions are being assigned"]
    site.source.state = "rebalancing"
    expect(page.get_by_role("heading", level=1)).to_have_text("Rebalancing")
    expect(page.get_by_role("status")).to_contain_text("Partitions are being assigned.")
    assert page.evaluate("window.sameDocument") is True


def test_empty_states_say_what_to_do(page: Page, site: Any) -> None:
    site.open(page)
    expect(page.locator("#no-documents")).to_have_text(
        "No documents yet. Try one above or bertstream send FILE."
    )
    expect(page.locator("#labels")).to_have_text("No predictions yet.")
    expect(page.locator("#errors")).to_have_text("No errors.")
    site.source.make_busy()
    expect(page.locator("#no-documents")).to_be_hidden()


def test_it_waits_for_the_broker(page: Page, site: Any) -> None:
    site.source.state = "waiting for broker"
    site.source.reasons = ["waiting for broker", "the broker at 127.0.0.1:9092 does not answer"]
    site.source.values = {
        "throughput": None,
        "queue": {"awaiting_delivery": 0},
        "models": [],
        "workers": [],
        "partitions": [],
        "broker": {"addresses": ["127.0.0.1:9092"], "connected": False, "topics": {}},
    }
    site.open(page)
    expect(page.get_by_role("heading", level=1)).to_have_text("Waiting for the broker")
    expect(page.locator("#reasons li")).to_have_count(1)
    expect(page.locator("#no-documents")).to_be_hidden()
    expect(page.locator("#pressure")).to_have_text("Shown once the worker is ready.")
    expect(page.locator("#lag")).to_have_text("Shown once the broker answers.")
    expect(page.locator("#facts")).to_contain_text("(not connected)")
    page.get_by_role("textbox", name="Document").fill("A text.")
    page.get_by_role("button", name="Predict").click()
    expect(page.locator("#try-result .code")).to_have_text("not_ready")
    expect(page.locator("#try-result")).to_contain_text("does not answer")


def test_it_says_when_the_worker_is_gone_and_recovers(page: Page, site: Any) -> None:
    url = site.open(page)
    site.stop()
    expect(page.get_by_role("heading", level=1)).to_have_text("Worker not answering")
    expect(page.locator("#gone")).to_contain_text("keeps trying")
    expect(page.locator("#connection")).to_contain_text("No answer for")
    page.get_by_role("textbox", name="Document").fill("A text.")
    page.get_by_role("button", name="Predict").click()
    expect(page.locator("#try-result")).to_contain_text("did not answer")

    assert site.start(port=int(url.rpartition(":")[2])) == url
    expect(page.locator("#connection")).to_have_text("Live")
    expect(page.get_by_role("heading", level=1)).to_have_text("Ready")
    expect(page.locator("#gone")).to_be_hidden()


def test_a_failing_worker_is_not_called_gone_without_a_cause(page: Page, site: Any) -> None:
    site.open(page)
    site.source.values = {"worker": object()}  # no JSON: the server answers 500
    expect(page.locator("#gone")).to_contain_text("It answers with an error: HTTP 500.")
    site.source.values = {}
    expect(page.locator("#connection")).to_have_text("Live")


def test_nothing_that_is_shown_can_run(page: Page, site: Any, prediction: dict[str, Any]) -> None:
    dialogs: list[str] = []

    def note(dialog: Dialog) -> None:
        dialogs.append(dialog.message)
        dialog.dismiss()

    page.on("dialog", note)
    site.source.make_busy()
    values = site.source.values
    values["labels"] = {HOSTILE: 3}
    values["errors"] = {HOSTILE: 3}
    values["workers"] = [
        values["workers"][0] | {"name": HOSTILE, "host": HOSTILE, "page": "javascript:alert(1)"}
    ]
    values["models"] = [
        site.source.status()["models"][0] | {"name": HOSTILE, "labels": [HOSTILE], "task": HOSTILE}
    ]
    values["partitions"][0]["worker"] = HOSTILE
    site.source.reasons = [HOSTILE]

    async def answer(request: dict[str, Any]) -> dict[str, Any]:
        hostile = {"label": request["text"], "scores": {HOSTILE: 1.0}, "model": HOSTILE}
        return prediction | hostile

    site.answer = answer
    site.open(page)
    expect(page.locator("#labels li").first).to_contain_text(HOSTILE)
    expect(page.locator("#workers")).to_contain_text(HOSTILE)
    expect(page.locator("#workers a")).to_have_count(0)
    expect(page.locator("#models")).to_contain_text(HOSTILE)
    expect(page.locator("#reasons")).to_contain_text(HOSTILE)
    site.source.reasons = []
    expect(page.locator("#reasons li")).to_have_count(0)
    page.get_by_role("textbox", name="Document").fill(HOSTILE)
    page.keyboard.press("Control+Enter")
    expect(page.locator("#try-result .label")).to_have_text(HOSTILE)
    assert page.locator("main img, main script").count() == 0
    assert dialogs == []


def test_it_asks_nothing_of_any_other_address(page: Page, site: Any) -> None:
    seen: list[str] = []
    page.on("request", lambda request: seen.append(request.url))
    url = site.open(page)
    page.get_by_role("button", name="Use an example").click()
    page.keyboard.press("Control+Enter")
    expect(page.locator("#try-result .label")).to_be_visible()
    assert seen
    assert [address for address in seen if not address.startswith(f"{url}/")] == []
