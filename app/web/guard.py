"""Who may use the status page.

Without a token the page is for this machine and its network: a foreign web page that a user of
this machine happens to visit must neither read it (a rebound DNS name) nor post to it. With a
token everything but the two probes asks for it, as `Authorization: Bearer`, or once as `?token=`
or in a form, which leaves a cookie.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import socket
from base64 import b64encode
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from urllib.parse import urlsplit

import orjson
from aiohttp import web

PAGES = Path(__file__).parent / "pages"
PROBES = frozenset({"/healthz", "/readyz"})
COOKIE = "bertstream"
COOKIE_AGE_S = 30 * 24 * 3600
MAX_FORM_BYTES = 16 * 1024
BODY_WITHIN_S = 30.0
"""How long a client may take to send what it posts."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; "
        "frame-ancestors 'none'; require-trusted-types-for 'script'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


async def add_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Add the security headers to a response that does not set its own."""
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)


def json_response(value: object, *, status: int = 200) -> web.Response:
    """A JSON answer, which no cache keeps."""
    return web.Response(
        body=orjson.dumps(value),
        status=status,
        content_type="application/json",
        headers={"Cache-Control": "no-store"},
    )


def problem(status: int, code: str, message: str, *, retryable: bool = False) -> web.Response:
    """An error in the shape that a response record with an error has."""
    error = {"code": code, "message": message, "retryable": retryable}
    return json_response({"status": "error", "error": error}, status=status)


class Guard:
    """Admits or refuses each request before a handler sees it."""

    def __init__(self, *, host: str, token: str | None) -> None:
        self._token = token
        self._names = own_names(host)
        self._unlock_page = (PAGES / "unlock.html").read_text(encoding="utf-8")

    @web.middleware
    async def admit(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """The middleware: foreign pages, foreign names, then the token."""
        if request.path in PROBES:
            return await handler(request)
        if request.method not in {"GET", "HEAD"} and is_cross_site(request):
            return problem(403, "forbidden", "this comes from another web site")
        if self._token is None:
            if not is_own_name(request.headers.get("Host"), self._names):
                return problem(
                    403,
                    "forbidden",
                    "the page answers to IP addresses, localhost and the name of its machine; "
                    "to reach it by another name set BERTSTREAM_WEB_TOKEN",
                )
            return await handler(request)
        if self._has_token(request):
            return await handler(request)
        return await self._ask_for_token(request, self._token)

    def _has_token(self, request: web.Request) -> bool:
        assert self._token is not None
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer" and _same(given.strip(), self._token):
            return True
        # An address with the token in it is always answered by one without it.
        cookie = request.cookies.get(COOKIE, "") if "token" not in request.query else ""
        return _same(cookie, _cookie_value(self._token))

    async def _ask_for_token(self, request: web.Request, token: str) -> web.StreamResponse:
        given: object = request.query.get("token") if request.method != "POST" else None
        if request.path == "/" and request.method == "POST":
            async with asyncio.timeout(BODY_WITHIN_S):
                form = await request.clone(client_max_size=MAX_FORM_BYTES).post()
            given = form.get("token")
        if isinstance(given, str) and _same(given.strip(), token):
            return _keep_token(request, token)
        if request.path == "/" and "text/html" in request.headers.get("Accept", ""):
            return self._ask_in_browser(wrong=given is not None)
        answer = problem(
            401, "unauthorized", "send the header 'Authorization: Bearer' with BERTSTREAM_WEB_TOKEN"
        )
        answer.headers["WWW-Authenticate"] = 'Bearer realm="bertstream"'
        return answer

    def _ask_in_browser(self, *, wrong: bool) -> web.Response:
        page = self._unlock_page
        if wrong:
            page = page.replace(
                "<!-- wrong -->", '<p id="wrong" role="alert">This is not the token.</p>'
            )
        # Static files ask for the token too: this page carries its style, named by its hash.
        style = page.partition("<style>")[2].partition("</style>")[0]
        digest = b64encode(hashlib.sha256(style.encode()).digest()).decode()
        policy = HEADERS["Content-Security-Policy"].replace(
            "default-src 'self'", "default-src 'none'"
        )
        return web.Response(
            text=page,
            status=401,
            content_type="text/html",
            headers={
                "Content-Security-Policy": f"{policy}; style-src 'sha256-{digest}'",
                "Cache-Control": "no-store",
                "WWW-Authenticate": 'Bearer realm="bertstream"',
            },
        )


def own_names(host: str) -> frozenset[str]:
    """The host names under which a server bound to `host` is asked for by its own users."""
    machine = socket.gethostname().lower()
    first = machine.partition(".")[0]
    return frozenset({"localhost", host.lower(), machine, first, f"{first}.local"})


def is_own_name(header: str | None, names: Iterable[str]) -> bool:
    """Whether a `Host` header names this machine; an IP address cannot be a rebound name."""
    if header is None:
        return True  # no browser
    try:
        name = (urlsplit(f"//{header}").hostname or "").rstrip(".")
    except ValueError:
        return False
    if name in names or name.endswith(".localhost"):
        return True
    try:
        ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return False
    return True


def is_cross_site(request: web.Request) -> bool:
    """Whether a browser says that a page of another origin sent this request."""
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        return site not in {"same-origin", "none"}
    origin = request.headers.get("Origin")
    return origin is not None and origin.partition("://")[2].lower() != request.host.lower()


def _keep_token(request: web.Request, token: str) -> web.Response:
    """Set the cookie and send the browser to the same address without the token."""
    query = request.rel_url.without_query_params("token").query_string
    # Relative, so that it works below a proxy's prefix and cannot lead to another host.
    location = "./" + request.rel_url.raw_path.rpartition("/")[2] + (f"?{query}" if query else "")
    answer = web.Response(status=303, headers={"Location": location, "Cache-Control": "no-store"})
    answer.set_cookie(
        COOKIE,
        _cookie_value(token),
        max_age=COOKIE_AGE_S,
        httponly=True,
        samesite="Strict",
        secure=request.secure,
    )
    return answer


def _cookie_value(token: str) -> str:
    """What the cookie holds: every worker with the token knows it, and it is not the token."""
    return hmac.new(token.encode(), b"bertstream status page", hashlib.sha256).hexdigest()


def _same(given: str, expected: str) -> bool:
    """Compare in a time that does not tell how much of it is right."""
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), expected.encode())
