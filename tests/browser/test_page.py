"""The status page in Chromium, over a worker whose state the test sets."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

HOSTILE = "<img src=x onerror=alert(1)><script>alert(1)</script>"


def status_requests(page: Page) -> list[str]:
    seen: list[str] = []
    page.on("request", lambda request: seen.append(request.url))
    return seen


def open_live(page: Page, url: str) -> None:
    page.goto(url)
    expect(page.locator("#connection")).to_have_text("Live")
    expect(page.locator("#worker-line")).to_contain_text("group bertstream")


def test_it_shows_the_whole_status(page: Page, site: Any) -> None:
    site.source.make_busy()
    open_live(page, site.start())

    expect(page.get_by_role("heading", level=1)).to_have_text("Ready")
    expect(page).to_have_title("Ready · bertstream")
    expect(page.locator("#worker-line")).to_contain_text("laptop-4711 · group bertstream · up 2 h")
    expect(page.locator("#documents-total")).to_have_text("1.2M in all")
    expect(page.locator("#lag-total")).to_have_text("3,138")
    expect(page.locator("#errors-note")).to_have_text("0.01 % of records")
    expect(page.locator("#pressure")).to_contain_text("Back-pressure")
    expect(page.locator("#lag li")).to_have_count(8)
    expect(page.locator("#lag li").nth(4)).to_contain_text("Partition 4desktop-8151,204")
    expect(page.locator("#labels li").first).to_contain_text("Sports401,20032.5 %")
    expect(page.locator("#errors li").first).to_contain_text("empty_text88")
    models = page.get_by_role("table", name="Models")
    for text in ("agnews", "3fa9c1d20b7e", "text-classification", "256 tokens", "22.7 M", "cpu"):
        expect(models).to_contain_text(text)
    workers = page.get_by_role("table", name="Workers of the group").get_by_role("row")
    expect(workers).to_have_count(3)
    expect(workers.nth(1)).to_contain_text("this one")
    expect(workers.nth(2)).to_contain_text("4–7")
    link = workers.nth(2).get_by_role("link", name="desktop-815")
    expect(link).to_have_attribute("href", "http://127.0.0.1:6067")
    expect(page.locator("#facts")).to_contain_text("127.0.0.1:9092 (connected)")
    expect(page.locator("#facts")).to_contain_text("bert-dead-letters")


def test_charts_have_axes_units_and_words(page: Page, site: Any) -> None:
    site.source.make_busy()
    open_live(page, site.start())
    expect(page.get_by_role("img", name="Documents, last five minutes: now")).to_be_visible()
    latency = page.get_by_role("img", name="Latency, last five minutes: now p50")
    expect(latency.locator("text").first).to_have_text("ms")
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
    open_live(page, site.start())
    line = page.locator("#chart-documents path.line").get_attribute("d")
    assert line is not None
    assert line.count("M") == 2


def test_it_is_live_without_reloading(page: Page, site: Any) -> None:
    open_live(page, site.start())
    page.evaluate("window.sameDocument = true")
    expect(page.locator("#documents-rate")).to_have_text("0")
    site.source.make_busy()
    expect(page.locator("#documents-rate")).not_to_have_text("0")
    expect(page.get_by_role("link", name="desktop-815")).to_be_visible()
    site.source.reasons = ["partitions are being assigned"]
    site.source.state = "rebalancing"
    expect(page.get_by_role("heading", level=1)).to_have_text("Rebalancing")
    expect(page.get_by_role("status")).to_contain_text("Partitions are being assigned.")
    assert page.evaluate("window.sameDocument") is True


def test_empty_states_say_what_to_do(page: Page, site: Any) -> None:
    open_live(page, site.start())
    expect(page.locator("#no-documents")).to_have_text(
        "No documents yet. Try one above or bertstream send FILE."
    )
    expect(page.locator("#labels")).to_have_text("No predictions yet.")
    expect(page.locator("#errors")).to_have_text("No errors.")
    site.source.make_busy()
    expect(page.locator("#no-documents")).to_be_hidden()


def test_it_waits_for_the_broker(page: Page, site: Any) -> None:
    site.source.state = "waiting for broker"
    site.source.reasons = ["the broker at 127.0.0.1:9092 does not answer"]
    site.source.values = {
        "models": [],
        "workers": [],
        "partitions": [],
        "broker": {"addresses": ["127.0.0.1:9092"], "connected": False, "topics": {}},
    }
    open_live(page, site.start())
    expect(page.get_by_role("heading", level=1)).to_have_text("Waiting for the broker")
    expect(page.locator("#reasons li")).to_have_count(1)
    expect(page.locator("#lag")).to_have_text("Shown once the broker answers.")
    expect(page.locator("#facts")).to_contain_text("(not connected)")
    page.get_by_role("textbox", name="Document").fill("A text.")
    page.get_by_role("button", name="Predict").click()
    expect(page.locator("#try-result .code")).to_have_text("not_ready")
    expect(page.locator("#try-result")).to_contain_text("does not answer")


def test_it_says_when_the_worker_is_gone_and_recovers(page: Page, site: Any) -> None:
    url = site.start()
    open_live(page, url)
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
    open_live(page, site.start())
    site.source.values = {"worker": object()}  # no JSON: the server answers 500
    expect(page.locator("#gone")).to_contain_text("It answers with an error: HTTP 500.")
    site.source.values = {}
    expect(page.locator("#connection")).to_have_text("Live")


def test_a_document_is_tried_from_the_keyboard(page: Page, site: Any) -> None:
    open_live(page, site.start())
    page.get_by_role("textbox", name="Document").fill("The home side scored twice.")
    page.keyboard.press("Control+Enter")
    result = page.get_by_role("region", name="Prediction")
    expect(result.locator(".label")).to_have_text("Sports")
    expect(result.locator(".bars li").first).to_have_text("Sports97.3 %")
    fill = result.locator(".fill").first
    assert fill.evaluate("bar => bar.style.width") == "97.31%"
    for text in ("Total15 ms", "Queued4.1 ms", "Inference9.8 ms", "Segments2", "Tokens311"):
        expect(result.locator(".times")).to_contain_text(text)
    expect(result).to_contain_text("bert-requests, partition 3, offset 1207")
    assert site.asked == [{"text": "The home side scored twice."}]
    expect(page.get_by_role("textbox", name="Document")).to_be_focused()


def test_an_example_can_be_tried(page: Page, site: Any) -> None:
    open_live(page, site.start())
    page.get_by_role("button", name="Use an example").click()
    page.get_by_role("button", name="Predict").click()
    expect(page.locator("#try-result .label")).to_have_text("Sports")
    assert len(site.asked[0]["text"]) > 40


def test_a_blank_document_is_not_sent(page: Page, site: Any) -> None:
    open_live(page, site.start())
    page.get_by_role("textbox", name="Document").fill("  \n")
    page.get_by_role("button", name="Predict").click()
    expect(page.locator("#try-result")).to_have_text("Write or paste a document first.")
    expect(page.get_by_role("textbox", name="Document")).to_be_focused()
    assert site.asked == []


def test_one_document_at_a_time(page: Page, site: Any, prediction: dict[str, Any]) -> None:
    async def slow(request: dict[str, Any]) -> dict[str, Any]:
        await asyncio.sleep(1)
        return prediction

    site.answer = slow
    open_live(page, site.start())
    page.get_by_role("textbox", name="Document").fill("A text.")
    for _ in range(3):
        page.keyboard.press("Control+Enter")
    expect(page.locator("#try-send")).to_have_text("Predicting…")
    expect(page.locator("#try-result .label")).to_have_text("Sports")
    expect(page.locator("#try-send")).to_have_text("Predict")
    assert len(site.asked) == 1


def test_an_error_shows_its_code_and_message(page: Page, site: Any) -> None:
    async def refuse(request: dict[str, Any]) -> dict[str, Any]:
        error = {"code": "out_of_memory", "message": "the device is full", "retryable": True}
        return {"id": "a", "status": "error", "error": error}

    site.answer = refuse
    open_live(page, site.start())
    page.get_by_role("textbox", name="Document").fill("A text.")
    page.keyboard.press("Control+Enter")
    result = page.locator("#try-result")
    expect(result.locator(".code")).to_have_text("out_of_memory")
    expect(result).to_contain_text("The device is full.")
    expect(result).to_contain_text("It may work when tried again.")


@pytest.mark.parametrize(
    ("task", "fields", "shown"),
    [
        ("multi-label-classification", {"labels": ["a", "b"], "label": None}, "a, b"),
        (
            "multi-label-classification",
            {"labels": [], "label": None},
            "No label above its threshold",
        ),
        ("regression", {"label": None, "scores": None, "score": 3.25}, "3.2500"),
        (
            "embedding",
            {"label": None, "scores": None, "score": None, "embedding": [0.5] * 384},
            "384 numbers",
        ),
    ],
)
def test_other_tasks(
    page: Page,
    site: Any,
    prediction: dict[str, Any],
    task: str,
    fields: dict[str, Any],
    shown: str,
) -> None:
    async def answer(request: dict[str, Any]) -> dict[str, Any]:
        return prediction | {"task": task} | fields

    site.answer = answer
    open_live(page, site.start())
    page.get_by_role("textbox", name="Document").fill("A text.")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#try-result .label")).to_have_text(shown)


def test_a_model_can_be_chosen(page: Page, site: Any) -> None:
    first = site.source.status()["models"][0]
    pairs = first | {"name": "pairs", "task": "sentence-pair", "default": False}
    site.source.values = {"models": [first, pairs]}
    open_live(page, site.start())
    choice = page.get_by_label("Model", exact=True)
    expect(choice.locator("option")).to_have_text(["agnews (default)", "pairs"])
    expect(page.get_by_label("Second text")).to_be_hidden()
    choice.select_option("pairs")
    page.get_by_label("Second text").fill("Two.")
    page.get_by_role("textbox", name="Document").fill("One.")
    page.get_by_role("button", name="Predict").click()
    expect(page.locator("#try-result .label")).to_be_visible()
    assert site.asked == [{"text": "One.", "text_pair": "Two.", "model": "pairs"}]


def test_nothing_that_is_shown_can_run(page: Page, site: Any, prediction: dict[str, Any]) -> None:
    dialogs: list[str] = []
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
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
    open_live(page, site.start())
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
    seen = status_requests(page)
    url = site.start()
    open_live(page, url)
    page.get_by_role("button", name="Use an example").click()
    page.keyboard.press("Control+Enter")
    expect(page.locator("#try-result .label")).to_be_visible()
    assert seen
    assert [address for address in seen if not address.startswith(f"{url}/")] == []


def test_changing_numbers_move_nothing(page: Page, site: Any) -> None:
    site.source.make_busy()
    open_live(page, site.start())

    def places() -> list[float]:
        found: list[float] = page.evaluate(
            "[...document.querySelectorAll('h2, h3, dt, .axes')]"
            ".map(node => node.getBoundingClientRect()).flatMap(box => [box.left, box.top])"
        )
        return found

    before = places()
    now = site.source.values["throughput"]["now"]
    now |= {"documents_per_s": 8.0, "tokens_per_s": 5.5}
    now["latency_ms"] = {"p50": 1200.0, "p95": 2500.0, "p99": 12_400.0}
    site.source.values["queue"]["tokens"] = 7
    expect(page.locator("#queue-tokens")).to_have_text("7")
    expect(page.locator("#latency-p99")).to_have_text("12.4 s")
    assert places() == before


WIDE = "a-very-long-name-without-any-place-to-break-it-" * 3


@pytest.mark.parametrize("state", ["empty", "busy", "wide"])
@pytest.mark.parametrize("width", [360, 390, 768, 1280])
def test_no_width_scrolls_sideways(page: Page, site: Any, width: int, state: str) -> None:
    if state != "empty":
        site.source.make_busy()
    if state == "wide":
        values = site.source.values
        values["labels"] = {WIDE: 3}
        values["models"] = [site.source.status()["models"][0] | {"name": WIDE, "labels": [WIDE]}]
        values["workers"] = [
            values["workers"][0] | {"name": WIDE, "partitions": list(range(0, 99, 2))}
        ]
        values["partitions"] = [part | {"worker": WIDE} for part in values["partitions"]]
        site.source.reasons = [WIDE]
    page.set_viewport_size({"width": width, "height": 800})
    open_live(page, site.start())
    assert page.evaluate("document.documentElement.scrollWidth") <= width


# The contrast of every text with what lies behind it, by WCAG's formula.
CONTRAST = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (color) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const luminance = (color) => {
    const [r, g, b] = rgba(color).slice(0, 3).map((part) => {
      const share = part / 255;
      return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (node) => {
    for (let place = node; place; place = place.parentElement) {
      const color = getComputedStyle(place).backgroundColor;
      if (rgba(color)[3] === 255) return color;
    }
    return "white";
  };
  const poor = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const node = walk.currentNode.parentElement;
    if (!walk.currentNode.data.trim() || !node.checkVisibility()) continue;
    const style = getComputedStyle(node);
    const color = node instanceof SVGElement ? style.fill : style.color;
    const [light, dark] = [luminance(color), luminance(behind(node))].sort((a, b) => b - a);
    const ratio = (light + 0.05) / (dark + 0.05);
    if (ratio < 4.5) poor.push(`${walk.currentNode.data.trim()}: ${ratio.toFixed(2)}`);
  }
  return poor;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast(browser: Browser, site: Any, scheme: Any) -> None:
    context = browser.new_context(color_scheme=scheme)
    page = context.new_page()
    site.source.make_busy()
    url = site.start()
    open_live(page, url)
    page.get_by_role("button", name="Use an example").click()
    page.keyboard.press("Control+Enter")
    page.get_by_role("button", name="Predict").click()
    expect(page.locator("#try-result .label")).to_be_visible()
    assert page.evaluate(CONTRAST) == []

    site.source.values = {}
    site.source.reasons = ["the model is warming up"]
    expect(page.locator("#reasons li")).to_have_count(1)
    page.get_by_role("button", name="Predict").click()
    expect(page.locator("#try-result .code")).to_be_visible()
    assert page.evaluate(CONTRAST) == []
    site.stop()
    expect(page.locator("#gone")).to_be_visible()
    assert page.evaluate(CONTRAST) == []
    context.close()


def test_landmarks_names_and_the_order_of_the_keyboard(page: Page, site: Any) -> None:
    site.source.make_busy()
    open_live(page, site.start())
    for role in ("banner", "main", "contentinfo"):
        expect(page.get_by_role(role)).to_have_count(1)  # type: ignore[arg-type]
    for name in ("Try a document", "Lag by partition", "Queue", "Labels", "Errors by code"):
        expect(page.get_by_role("region", name=name)).to_be_visible()
    levels = page.evaluate("[...document.querySelectorAll('h1, h2, h3')].map(h => +h.tagName[1])")
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))

    reached = []
    for _ in range(5):
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate("document.activeElement.id || document.activeElement.textContent")
        )
    assert reached[0].startswith("Skip to")
    assert reached[1:4] == ["try-text", "try-send", "try-example"]
    assert "laptop-4711" in reached[4]


def test_the_focus_survives_updates(page: Page, site: Any) -> None:
    site.source.make_busy()
    open_live(page, site.start())
    page.get_by_role("link", name="desktop-815").focus()
    with page.expect_response("**/api/status"):
        pass
    with page.expect_response("**/api/status"):
        pass
    expect(page.get_by_role("link", name="desktop-815")).to_be_focused()
