"""The server of the status page: requests and answers as bytes, without a socket."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Mapping
from typing import Any

import pytest

from app.errors import BrokerError, InvalidJSON, MissingField, TextTooLarge, WrongType
from app.exchange import NoAnswer
from app.settings import MAX_RECORD_BYTES
from app.web.guard import COOKIE, is_own_name, own_names
from app.web.server import MAX_BODY_BYTES, StatusServer, read_request
from tests.wire import Answer, exchange

OUTCOME = {"id": "a1", "status": "ok", "label": "Sports", "score": 0.9}
REFUSED = {
    "id": "a2",
    "status": "error",
    "error": {"code": "empty_text", "message": "'text' is blank", "retryable": False},
}


class Worker:
    """A worker as the server sees it."""

    def __init__(self) -> None:
        self.reasons: list[str] = []
        self.asked: list[dict[str, Any]] = []
        self.answer: Mapping[str, Any] | Exception | None = OUTCOME

    def status(self) -> dict[str, Any]:
        return {"worker": {"name": "laptop-4711"}}

    def readiness(self) -> list[str]:
        return self.reasons

    def metrics(self) -> bytes:
        return b"bertstream_documents_total 7.0\n"

    async def predict(self, request: dict[str, Any]) -> Mapping[str, Any]:
        self.asked.append(request)
        if isinstance(self.answer, Exception):
            raise self.answer
        if self.answer is None:
            await asyncio.Event().wait()
        assert self.answer is not None
        return self.answer


def ask(
    worker: Worker,
    method: str,
    path: str,
    *,
    body: bytes = b"",
    headers: Mapping[str, str] | None = None,
    token: str | None = None,
    answer_within_s: float = 30.0,
) -> Answer:
    server = StatusServer(worker, worker.predict, token=token, answer_within_s=answer_within_s)
    lines = {"Host": "127.0.0.1:6066", "Connection": "close", **(headers or {})}
    if body:
        lines["Content-Length"] = str(len(body))
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return asyncio.run(
        exchange(server.application(), f"{method} {path} HTTP/1.1\r\n{head}\r\n", body)
    )


def predict(worker: Worker, body: Any, **options: Any) -> Answer:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Content-Type": "application/json", **options.pop("headers", {})}
    path = options.pop("path", "/api/predict")
    return ask(worker, "POST", path, body=raw, headers=headers, **options)


@pytest.fixture
def worker() -> Worker:
    return Worker()


def test_probes_say_whether_it_lives_and_whether_it_takes_work(worker: Worker) -> None:
    assert ask(worker, "GET", "/healthz").status == 200
    ready = ask(worker, "GET", "/readyz")
    assert (ready.status, ready.json) == (200, {"ready": True, "reasons": []})

    worker.reasons = ["the broker does not answer"]
    waiting = ask(worker, "GET", "/readyz")
    assert (waiting.status, waiting.json["reasons"]) == (503, worker.reasons)
    assert ask(worker, "GET", "/healthz").status == 200


def test_status_and_metrics_are_what_the_worker_gives(worker: Worker) -> None:
    status = ask(worker, "GET", "/api/status")
    assert status.json == worker.status()
    assert status.headers["Cache-Control"] == "no-store"
    metrics = ask(worker, "GET", "/metrics")
    assert metrics.body == worker.metrics()
    assert metrics.headers["Content-Type"].startswith("text/plain; version=")


def test_every_answer_carries_the_security_headers(worker: Worker) -> None:
    for path in ("/healthz", "/api/status", "/nothing-here"):
        headers = ask(worker, "GET", path).headers
        assert "default-src 'self'" in headers["Content-Security-Policy"]
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"


def test_errors_of_the_server_itself_are_json(worker: Worker) -> None:
    assert ask(worker, "GET", "/nothing-here").code == "not_found"
    answer = ask(worker, "GET", "/api/predict")
    assert (answer.status, answer.headers["Allow"]) == (405, "POST")


def test_a_failure_is_answered_and_logged(worker: Worker, caplog: pytest.LogCaptureFixture) -> None:
    worker.answer = RuntimeError("secret detail")
    answer = predict(worker, {"text": "x"})
    assert (answer.status, answer.code) == (500, "internal_error")
    assert b"secret detail" not in answer.body
    assert "secret detail" in caplog.text


def test_a_document_is_sent_and_its_answer_comes_back(worker: Worker) -> None:
    answer = predict(worker, {"text": "a", "top_k": 2, "model": None, "unknown": 1})
    assert (answer.status, answer.json) == (200, OUTCOME)
    assert worker.asked == [{"text": "a", "top_k": 2}]


def test_an_error_answer_is_passed_through(worker: Worker) -> None:
    worker.answer = REFUSED
    answer = predict(worker, {"text": " "})
    assert (answer.status, answer.json) == (422, REFUSED)


@pytest.mark.parametrize(
    ("body", "error", "said"),
    [
        (b"{", InvalidJSON, "JSON"),
        (b"\xff", InvalidJSON, "JSON"),
        (b'{"text": NaN}', InvalidJSON, "JSON"),
        (b'{"text": "\\ud800"}', InvalidJSON, "JSON"),
        (b"[" * 100_000, InvalidJSON, "JSON"),
        (b'["text"]', InvalidJSON, "object"),
        (b'{"txt": "a"}', MissingField, "'text'"),
        (b'{"text": 5}', WrongType, "'text'"),
        (b'{"text": null}', WrongType, "'text'"),
        (b'{"text": "a", "id": 5}', WrongType, "'id'"),
        (b'{"text": "a", "id": ""}', WrongType, "'id'"),
    ],
)
def test_what_is_no_request_is_refused_at_once(
    worker: Worker, body: bytes, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        read_request(body)
    answer = predict(worker, body)
    assert (answer.status, answer.code) == (400, error.code)  # type: ignore[attr-defined]
    assert worker.asked == []


def test_a_body_over_the_limit_is_refused(worker: Worker) -> None:
    text = b'{"text": "' + b"x" * MAX_BODY_BYTES + b'"}'
    answer = predict(worker, text)
    assert (answer.status, answer.code) == (413, "too_large")


def test_what_kafka_would_not_take_is_refused(worker: Worker) -> None:
    answer = predict(worker, {"text": "x" * MAX_RECORD_BYTES})
    assert (answer.status, answer.code) == (413, "too_large")
    assert worker.asked == []


def test_a_packed_body_cannot_grow_over_the_limit(worker: Worker) -> None:
    packed = gzip.compress(b'{"text": "' + b"x" * (2 * MAX_BODY_BYTES) + b'"}')
    answer = predict(worker, packed, headers={"Content-Encoding": "gzip"})
    assert answer.status in {400, 413}
    assert worker.asked == []


def test_a_worker_that_is_not_ready_says_why(worker: Worker) -> None:
    worker.reasons = ["the model is warming up"]
    answer = predict(worker, {"text": "a"})
    assert (answer.status, answer.code) == (503, "not_ready")
    assert "warming up" in answer.json["error"]["message"]
    assert worker.asked == []


@pytest.mark.parametrize(
    ("outcome", "status", "code"),
    [
        (None, 504, "no_answer"),
        (TimeoutError(), 504, "no_answer"),
        (NoAnswer("nothing was heard"), 504, "no_answer"),
        (BrokerError("the broker went away"), 503, "broker_unavailable"),
        (TextTooLarge("the record is too large"), 422, "text_too_large"),
    ],
)
def test_what_kafka_does_not_answer(
    worker: Worker, outcome: Exception | None, status: int, code: str
) -> None:
    worker.answer = outcome
    answer = predict(worker, {"text": "a"}, answer_within_s=0.05)
    assert (answer.status, answer.code) == (status, code)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        # What `curl -d` says of any body; the form of a foreign page also says where it is from.
        ({"Content-Type": "application/x-www-form-urlencoded"}, 200),
        ({"Content-Type": "text/plain", "Origin": "https://evil.example"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "http://127.0.0.1:9999"}, 403),
        ({"Origin": "null"}, 403),
        ({"Host": "evil.example:6066", "Origin": "http://evil.example:6066"}, 403),
        ({"Host": "evil.example:6066", "Sec-Fetch-Site": "same-origin"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"Origin": "http://127.0.0.1:6066"}, 200),
        ({"Content-Type": "application/json; charset=utf-8"}, 200),
    ],
)
def test_foreign_pages_cannot_post(worker: Worker, headers: dict[str, str], status: int) -> None:
    assert predict(worker, {"text": "a"}, headers=headers).status == status
    assert bool(worker.asked) == (status == 200)


def test_a_rebound_name_cannot_read_the_page(worker: Worker) -> None:
    answer = ask(worker, "GET", "/api/status", headers={"Host": "evil.example"})
    assert (answer.status, answer.code) == (403, "forbidden")
    assert "BERTSTREAM_WEB_TOKEN" in answer.json["error"]["message"]
    assert ask(worker, "GET", "/healthz", headers={"Host": "evil.example"}).status == 200


@pytest.mark.parametrize(
    ("header", "own"),
    [
        ("localhost:6066", True),
        ("LOCALHOST", True),
        ("page.localhost:80", True),
        ("127.0.0.1:6066", True),
        ("[::1]:6066", True),
        ("192.168.1.20:6066", True),
        ("bert.lan:6066", True),
        (None, True),
        ("evil.example", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("[::1", False),
        ("", False),
    ],
)
def test_own_names(header: str | None, own: bool) -> None:
    assert is_own_name(header, own_names("bert.lan")) is own


TOKEN = "open sésame/+&="


def test_a_token_is_asked_for_by_all_but_the_probes(worker: Worker) -> None:
    for path in ("/", "/api/status", "/metrics", "/static/page.js", "/nothing-here"):
        answer = ask(worker, "GET", path, token=TOKEN)
        assert (answer.status, answer.code) == (401, "unauthorized"), path
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    assert predict(worker, {"text": "a"}, token=TOKEN).status == 401
    assert worker.asked == []
    assert ask(worker, "GET", "/healthz", token=TOKEN).status == 200
    assert ask(worker, "GET", "/readyz", token=TOKEN).status == 200


@pytest.mark.parametrize(
    ("given", "status"),
    [
        (f"Bearer {TOKEN}", 200),
        (f"bearer {TOKEN}", 200),
        ("Bearer wrong", 401),
        ("Bearer ", 401),
        (TOKEN, 401),
        ("Bearer \udcff", 401),
    ],
)
def test_the_token_as_a_header(worker: Worker, given: str, status: int) -> None:
    headers = {"Authorization": given, "Host": "bert.example"}
    assert ask(worker, "GET", "/api/status", headers=headers, token=TOKEN).status == status


def test_the_token_in_the_address_becomes_a_cookie(worker: Worker) -> None:
    path = "/api/status?a=1&token=open%20s%C3%A9same/%2B%26%3D"
    answer = ask(worker, "GET", path, token=TOKEN)
    assert (answer.status, answer.headers["Location"]) == (303, "./status?a=1")
    cookie = answer.headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert "same" not in cookie.partition(";")[0]

    kept = {"Cookie": cookie.partition(";")[0]}
    assert ask(worker, "GET", "/api/status", headers=kept, token=TOKEN).status == 200
    assert ask(worker, "GET", "/api/status", headers=kept, token="another").status == 401
    assert predict(worker, {"text": "a"}, token="t", path="/api/predict?token=t").status == 401
    # An address with the token in it is never left standing.
    assert ask(worker, "GET", path, headers=kept, token=TOKEN).status == 303


def test_the_redirect_stays_on_this_host(worker: Worker) -> None:
    answer = ask(worker, "GET", "//evil.example/?token=t", token="t")
    assert answer.headers["Location"] == "./"


def test_wrong_tokens_and_cookies(worker: Worker) -> None:
    assert ask(worker, "GET", "/api/status?token=wrong", token=TOKEN).status == 401
    for value in ("", "wrong", TOKEN.partition(" ")[0]):
        headers = {"Cookie": f"{COOKIE}={value}"}
        assert ask(worker, "GET", "/api/status", headers=headers, token=TOKEN).status == 401


def test_a_browser_is_asked_for_the_token_on_a_page(worker: Worker) -> None:
    browser = {"Accept": "text/html,*/*"}
    page = ask(worker, "GET", "/", headers=browser, token=TOKEN)
    assert page.status == 401
    assert b"needs a token" in page.body
    assert b"This is not the token" not in page.body
    assert "'unsafe-inline'" not in page.headers["Content-Security-Policy"]

    form = {**browser, "Content-Type": "application/x-www-form-urlencoded"}
    wrong = ask(worker, "POST", "/", body=b"token=wrong", headers=form, token=TOKEN)
    assert wrong.status == 401
    assert b"This is not the token" in wrong.body
    right = ask(
        worker, "POST", "/", body=b"token=open+s%C3%A9same%2F%2B%26%3D", headers=form, token=TOKEN
    )
    assert (right.status, right.headers["Location"]) == (303, "./")
    assert COOKIE in right.headers["Set-Cookie"]


def test_a_form_without_a_token_is_read_only_in_part(worker: Worker) -> None:
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    answer = ask(worker, "POST", "/", body=b"token=" + b"x" * 100_000, headers=form, token=TOKEN)
    assert answer.status == 413


def test_a_body_that_does_not_come_is_not_waited_for(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.web.server.BODY_WITHIN_S", 0.05)
    answer = ask(worker, "POST", "/api/predict", headers={"Content-Length": "1000"})
    assert (answer.status, answer.code) == (408, "request_timeout")
    monkeypatch.setattr("app.web.guard.BODY_WITHIN_S", 0.05)
    form = {"Content-Type": "application/x-www-form-urlencoded", "Content-Length": "1000"}
    answer = ask(worker, "POST", "/", headers=form, token=TOKEN)
    assert (answer.status, answer.code) == (408, "request_timeout")


@pytest.mark.parametrize("path", ["/?token=t", "/api/status?token=t"])
def test_no_referrer_and_no_cache_keep_a_token(worker: Worker, path: str) -> None:
    answer = ask(worker, "GET", path, token="t")
    assert "token" not in answer.headers["Location"]
    assert answer.headers["Referrer-Policy"] == "same-origin"
    assert answer.headers["Cache-Control"] == "no-store"
    assert "Access-Control-Allow-Origin" not in answer.headers
