"""The dead letters on the page: the bytes of anybody, in Chromium."""

from __future__ import annotations

import time
from typing import Any

import pytest
from playwright.sync_api import Dialog, Page, expect

HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '" onmouseover="alert(1)" autofocus onfocus="alert(1)',
    "'><svg onload=alert(1)>",
    "</td></tr></table><iframe srcdoc='<script>alert(1)</script>'>",
    "javascript:alert(1)",
    "{{constructor.constructor('alert(1)')()}} ${alert(1)}",
]


def test_the_latest_are_shown_with_counts_by_code(page: Page, site: Any) -> None:
    site.source.make_busy()
    site.open(page)
    panel = page.get_by_role("region", name="Dead letters")
    rows = panel.get_by_role("row")
    expect(rows).to_have_count(7)
    panel.get_by_role("button", name="Show all 20").click()
    expect(rows).to_have_count(21)
    newest = rows.nth(1)
    for text in (
        *("invalid_json", "The value is no JSON: line 1 column 2."),
        *("partition 0, offset 1200", "ticket-0"),
        *('{"id": "ticket-0", "text": " "}', "31 bytes"),
    ):
        expect(newest).to_contain_text(text)
    expect(rows.nth(4)).to_contain_text("came back 1 time")
    expect(rows.nth(4)).to_contain_text("replayed 1 min ago")
    panel.get_by_role("button", name="Show fewer").click()
    expect(rows).to_have_count(7)
    expect(panel).to_contain_text("The latest 20 of 133 records on bert-dead-letters")
    expect(panel.get_by_role("listitem")).to_have_text(["empty_text 17", "invalid_json 3"])


def test_they_come_and_go_without_reloading(page: Page, site: Any) -> None:
    site.open(page)
    panel = page.get_by_role("region", name="Dead letters")
    expect(panel).to_contain_text("None, no request has ended in an error.")
    site.source.make_busy()
    expect(panel.get_by_role("row")).to_have_count(7)
    shown = site.source.values["dead_letters"]
    shown["latest"] = [
        shown["latest"][0]
        | {"omitted": True, "value_bytes": None, "id": None, "time": time.time()},
        shown["latest"][1] | {"value_bytes": None, "text": ""},
    ]
    expect(panel.get_by_role("row")).to_have_count(3)
    expect(panel.get_by_role("button")).to_have_count(0)
    expect(panel.get_by_role("row").nth(1)).to_contain_text("omitted: too large")
    expect(panel.get_by_role("row").nth(2)).to_contain_text("no value")
    site.source.values["dead_letters"] = {"records": None, "latest": None, "recent": {}}
    expect(panel).to_contain_text("Being read.")
    expect(panel.get_by_role("row")).to_have_count(0)


def test_no_document_can_run(page: Page, site: Any) -> None:
    dialogs: list[str] = []

    def note(dialog: Dialog) -> None:
        dialogs.append(dialog.message)
        dialog.dismiss()

    page.on("dialog", note)
    site.source.make_busy()
    shown = site.source.values["dead_letters"]
    shown["recent"] = dict.fromkeys(HOSTILE, 1)
    shown["latest"] = [
        letter | {"code": text, "message": text, "id": text, "text": text}
        for letter, text in zip(shown["latest"], HOSTILE, strict=False)
    ]
    site.open(page)
    panel = page.get_by_role("region", name="Dead letters")
    rows = panel.locator("tbody tr")
    panel.get_by_role("button", name="Show all 7").click()
    expect(rows).to_have_count(len(HOSTILE))
    for row, text in zip(rows.all(), HOSTILE, strict=True):
        expect(row.locator("strong")).to_have_text(text)
        expect(row.locator(".snippet")).to_have_text(text)
        row.hover()
        row.click()
    tags = panel.evaluate(
        "node => [...new Set([...node.querySelectorAll('*')].map(n => n.tagName))]"
    )
    assert {"SCRIPT", "IMG", "SVG", "IFRAME", "svg", "A"}.isdisjoint(tags)
    assert panel.locator("[onmouseover], [onfocus], [autofocus]").count() == 0
    assert dialogs == []


@pytest.mark.parametrize("width", [360, 1280])
def test_a_long_value_stays_within_its_place(page: Page, site: Any, width: int) -> None:
    site.source.make_busy()
    letter = site.source.values["dead_letters"]["latest"][0]
    letter |= {"code": "c" * 120, "id": "i" * 120, "message": "m" * 300, "text": "x" * 160}
    page.set_viewport_size({"width": width, "height": 800})
    site.open(page)
    expect(page.locator(".snippet").first).to_have_text("x" * 160)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
