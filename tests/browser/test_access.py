"""Tokens, foreign pages and ports, with a real browser and real sockets."""

from __future__ import annotations

import socket
from typing import Any
from urllib.request import urlopen

import pytest
from playwright.sync_api import Browser, Page, expect

TOKEN = "open sésame/+&="


def test_the_token_is_asked_for_and_kept(page: Page, site: Any) -> None:
    page.goto(site.start(token=TOKEN))
    expect(page.get_by_role("heading", level=1)).to_have_text("This page needs a token")
    box = page.get_by_label("Token")
    expect(box).to_be_focused()
    box.fill("wrong")
    box.press("Enter")
    expect(page.get_by_role("alert")).to_have_text("This is not the token.")
    page.get_by_label("Token").fill(TOKEN)
    page.get_by_role("button").click()
    expect(page.locator("#connection")).to_have_text("Live")
    page.reload()
    expect(page.locator("#connection")).to_have_text("Live")
    page.get_by_role("textbox", name="Document").fill("A text.")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#try-result .label")).to_have_text("Sports")
    assert page.evaluate("document.cookie") == ""


def test_the_token_leaves_the_address(page: Page, site: Any) -> None:
    url = site.start(token="sesame")
    page.goto(f"{url}/?token=sesame")
    expect(page.locator("#connection")).to_have_text("Live")
    assert page.url == f"{url}/"


def test_a_page_whose_token_is_no_longer_good_asks_again(page: Page, site: Any) -> None:
    url = site.start(token="old")
    page.goto(f"{url}/?token=old")
    expect(page.locator("#connection")).to_have_text("Live")
    site.stop()
    site.start(port=int(url.rpartition(":")[2]), token="new")
    expect(page.get_by_role("heading", level=1)).to_have_text("This page needs a token")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_token_page_fits_a_phone(browser: Browser, site: Any, scheme: Any) -> None:
    context = browser.new_context(viewport={"width": 360, "height": 640}, color_scheme=scheme)
    page = context.new_page()
    page.goto(site.start(token=TOKEN))
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == {"light": "rgb(245, 246, 248)", "dark": "rgb(15, 18, 22)"}[scheme]
    context.close()


def test_a_foreign_page_can_neither_post_nor_read(page: Page, site: Any) -> None:
    url = site.start()
    # Another port of the same machine is another origin.
    with socket.create_server(("127.0.0.1", 0)) as other:
        foreign = f"http://127.0.0.1:{other.getsockname()[1]}/"
        page.route(
            foreign, lambda route: route.fulfill(body="<h1>foreign</h1>", content_type="text/html")
        )
        page.goto(foreign)
        body = '{"text": "a"}'
        for path, options in (
            ("predict", {"method": "POST", "body": body, "mode": "no-cors"}),
            (
                "predict",
                {"method": "POST", "body": body, "headers": {"Content-Type": "application/json"}},
            ),
            ("status", {}),
        ):
            read = page.evaluate(
                "([url, options]) => fetch(url, options).then(a => a.text(), () => '')",
                [f"{url}/api/{path}", options],
            )
            assert read == ""
        page.evaluate(
            """(action) => {
              const form = document.createElement("form");
              Object.assign(form, { method: "post", action, enctype: "text/plain" });
              const field = document.createElement("input");
              Object.assign(field, { name: '{"text": "a', value: '"}' });
              form.append(field);
              document.body.append(form);
              form.submit();
            }""",
            f"{url}/api/predict",
        )
        page.wait_for_url(f"{url}/api/predict")
        expect(page.locator("body")).to_contain_text("another web site")
    assert site.asked == []


def test_it_cannot_be_framed(page: Page, site: Any) -> None:
    url = site.start()
    with socket.create_server(("127.0.0.1", 0)) as other:
        foreign = f"http://127.0.0.1:{other.getsockname()[1]}/"
        frame = f"<iframe src='{url}'></iframe>"
        page.route(foreign, lambda route: route.fulfill(body=frame, content_type="text/html"))
        page.goto(foreign)
        expect(page.frame_locator("iframe").locator("#connection")).to_have_count(0)


def test_a_taken_port_gives_the_next_free_one(site: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        url = site.start(port=port)
        chosen = int(url.rpartition(":")[2])
        assert port < chosen < port + 100
        with urlopen(f"{url}/healthz", timeout=10) as answer:
            assert answer.status == 200


def test_static_files_come_with_their_type(site: Any) -> None:
    url = site.start()
    for name, kind in {
        "page.js": "javascript",
        "page.css": "text/css",
        "icon.svg": "image/svg+xml",
    }.items():
        with urlopen(f"{url}/static/{name}", timeout=10) as answer:
            assert kind in answer.headers["Content-Type"]
            assert answer.headers["Cache-Control"] == "no-cache"
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
