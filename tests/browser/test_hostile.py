"""What others write - labels, names, errors, documents - is shown as text, and never run."""

from __future__ import annotations

import http.client
import socket
from typing import Any

import pytest
from playwright.sync_api import Page, expect

IMAGE = "<img src=x onerror=document.title='stolen'>"
HOSTILE = (
    IMAGE,
    "\"'><script>document.title='stolen'</script>",
    "javascript:document.title='stolen'",
    "{{7*7}}${7*7}",
    "\u202eevil\u2066",
)
FIXED = {"state", "status", "task"}
"""What the page compares with words of its own."""


def spoilt(value: Any, text: str, name: str = "") -> Any:
    """The same with every string replaced, and every key that others choose."""
    if isinstance(value, dict):
        chosen = name in {"errors", "labels", "scores"}
        return {
            (f"{text}{key}" if chosen else key): spoilt(content, text, key)
            for key, content in value.items()
        }
    if isinstance(value, list):
        return [spoilt(content, text, name) for content in value]
    return text if isinstance(value, str) and name not in FIXED else value


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_of_the_status_runs(page: Page, site: Any, text: str) -> None:
    refused: list[str] = []
    page.on("console", lambda said: refused.append(said.text) if said.type == "error" else None)
    site.source.make_busy()
    site.source.values = spoilt(site.source.status(), text)
    page.goto(site.start())
    expect(page.locator("#connection")).to_have_text("Live")
    expect(page.locator("body")).to_contain_text(text)
    assert page.locator("[onerror], main script, a[href^='javascript']").count() == 0
    assert page.title() != "stolen"
    assert refused == [], "the page itself breaks its policy"


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_of_an_answer_runs(
    page: Page, site: Any, prediction: dict[str, Any], text: str
) -> None:
    hostile = spoilt(prediction, text)
    error = {"code": text, "message": text, "retryable": False}

    async def answer(request: dict[str, Any]) -> dict[str, Any]:
        if "refuse" in request["text"]:
            return {"id": text, "status": "error", "error": error, "source": hostile["source"]}
        return hostile

    site.answer = answer
    site.open(page)
    result = page.locator("#try-result")
    for document in (text, f"refuse {text}"):
        page.get_by_role("textbox", name="Document").fill(document)
        page.keyboard.press("Control+Enter")
        expect(result).to_contain_text(text)
        expect(result.locator("[onerror], script")).to_have_count(0)
    assert page.title() != "stolen"


def test_the_policy_stops_what_slips_through(page: Page, site: Any) -> None:
    """Were a text made into HTML after all, neither the making nor the script would pass."""
    site.open(page)
    for attempt in (
        "document.body.innerHTML = text",
        "document.body.setAttribute('onclick', 'document.title=\"stolen\"'), document.body.click()",
        "eval('document.title=\"stolen\"')",
    ):
        # In a task of its own: what the debugger runs itself is above the policy.
        outcome = page.evaluate(
            f"""text => new Promise(done => setTimeout(() => {{
              try {{ {attempt}; done("ran"); }} catch (error) {{ done(error.name); }}
            }}))""",
            IMAGE,
        )
        assert outcome in {"TypeError", "EvalError"} or "onclick" in attempt
    expect(page.locator("[onerror]")).to_have_count(0)
    assert page.title() != "stolen"


def test_a_connection_that_sends_nothing_whole_is_closed(site: Any) -> None:
    """Half a request, however long it is drawn out, holds no connection for ever."""
    url = site.start(idle_s=0.5)
    port = int(url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=20) as slow:
        slow.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: ")
        assert slow.recv(100) == b""
    healthy = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    healthy.request("GET", "/healthz")
    assert healthy.getresponse().status == 200


def test_what_is_no_http_is_not_logged(site: Any, caplog: pytest.LogCaptureFixture) -> None:
    """aiohttp would write its first line down, the token included."""
    caplog.set_level("DEBUG")
    url = site.start(token="sesame-c04d77-token")
    port = int(url.rpartition(":")[2])
    for line in (b"GET /?token=sesame-c04d77-token\x00 HTTP/1.1", b"GET /?token=sesame-c04d77 X"):
        with socket.create_connection(("127.0.0.1", port), timeout=20) as broken:
            broken.sendall(line + b"\r\nHost: 127.0.0.1\r\n\r\n")
            assert b" 400 " in broken.recv(100)
    assert "c04d77" not in caplog.text
