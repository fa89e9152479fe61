"""How the page looks, and how it is used without a mouse or without eyes."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect


def test_changing_numbers_move_nothing(page: Page, site: Any) -> None:
    site.source.make_busy()
    site.open(page)

    def places() -> list[float]:
        found: list[float] = page.evaluate(
            "[...document.querySelectorAll('h2, h3, dt, svg')]"
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
    site.open(page)
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
    site.open(page)
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
    site.open(page)
    for role in ("banner", "main", "contentinfo"):
        expect(page.get_by_role(role)).to_have_count(1)
    for name in (
        "Try a document",
        "Lag by partition",
        "Queue",
        "Labels",
        "Errors by code",
        "Dead letters",
    ):
        expect(page.get_by_role("region", name=name)).to_be_visible()
    levels = page.evaluate("[...document.querySelectorAll('h1, h2, h3')].map(h => +h.tagName[1])")
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))

    reached = []
    for _ in range(6):
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate("document.activeElement.id || document.activeElement.textContent")
        )
    assert reached[0].startswith("Skip to")
    assert reached[1:4] == ["try-text", "try-send", "try-example"]
    assert reached[4] == "dead-letters-more"
    assert "laptop-4711-5e0c9a" in reached[5]


def test_the_focus_survives_updates(page: Page, site: Any) -> None:
    site.source.make_busy()
    site.open(page)
    page.get_by_role("link", name="desktop-815-b71f02").focus()
    with page.expect_response("**/api/status"):
        pass
    with page.expect_response("**/api/status"):
        pass
    expect(page.get_by_role("link", name="desktop-815-b71f02")).to_be_focused()
    site.source.values["workers"].pop(0)
    expect(page.get_by_role("link", name="laptop-4711-5e0c9a")).to_be_hidden()
    expect(page.get_by_role("link", name="desktop-815-b71f02")).to_be_focused()
