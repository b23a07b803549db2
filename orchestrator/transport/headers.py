"""Security headers and the Host check, as plain ASGI: nothing here buffers or delays a stream.

A page may run our scripts and nothing else, and must go through a named Trusted Types policy to
start a worker. A worker obeys the policy of its own script's response: it may compile WebAssembly
and start threads, and has no DOM to protect, so Trusted Types are left out (ONNX Runtime's thread
pool and Pyodide both assign plain strings).
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterable
from typing import Final

import orjson
from starlette.requests import cookie_parser
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from orchestrator.errors import BadRequest
from orchestrator.transport.origins import Origins

Header = tuple[bytes, bytes]

# The one policy a page may use to start a worker; `static/js/lib/worker.js` creates it.
WORKER_POLICY: Final = "node-worker"

_PAGE_CSP: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "font-src 'self'; connect-src 'self'; worker-src 'self'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'; require-trusted-types-for 'script'; "
    "trusted-types {policies}"
)
_WORKER_CSP: Final = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; connect-src 'self'; "
    "worker-src 'self'"
)
_INERT_CSP: Final = "default-src 'none'; frame-ancestors 'none'"

_HOSTS_KEPT: Final = 256
_NOT_OURS: Final = b"This server does not answer to that name. Add it with ZEROGPU_ALLOWED_HOSTS.\n"

_COMMON: Final[tuple[Header, ...]] = (
    (b"x-content-type-options", b"nosniff"),
    # Not "no-referrer": under it a browser sends a form of ours with the Origin "null".
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
_ISOLATED: Final[tuple[Header, ...]] = (
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-embedder-policy", b"require-corp"),
)
_PERMISSIONS: Final[Header] = (
    b"permissions-policy",
    b"camera=(), display-capture=(), geolocation=(), microphone=(), midi=(), payment=(), usb=()",
)


def page_headers(*, isolated: bool) -> tuple[Header, ...]:
    """Headers of an HTML page; ``isolated`` ones start workers and get `crossOriginIsolated`."""
    csp = _PAGE_CSP.format(policies=WORKER_POLICY if isolated else "'none'").encode()
    opener = _ISOLATED if isolated else _ISOLATED[:1]
    return (*_COMMON, (b"content-security-policy", csp), _PERMISSIONS, *opener)


def worker_headers() -> tuple[Header, ...]:
    """Headers of whatever a worker is started from, nested threads included."""
    return (*_COMMON, (b"content-security-policy", _WORKER_CSP.encode()), *_ISOLATED)


def inert_headers() -> tuple[Header, ...]:
    """Headers of styles, fonts, pictures, models and JSON: nothing in them may run."""
    return (*_COMMON, (b"content-security-policy", _INERT_CSP.encode()))


def header(scope: Scope, name: bytes) -> str | None:
    """Return a request header's first value; ``name`` in lower case."""
    value = _first(scope["headers"], name)
    return None if value is None else value.decode("latin-1")


def _first(headers: Iterable[Header], name: bytes) -> bytes | None:
    for key, value in headers:
        if key == name:
            return value
    return None


def read_cookie(scope: Scope, name: str) -> str | None:
    """Return a cookie's value. Other programs on this host set odd cookies: they are skipped."""
    return cookie_parser(header(scope, b"cookie") or "").get(name)


class HostCheck:
    """Answers requests that name another host, or not one; everything else goes to ``app``.

    To another host the answer is 421. To more than one, or none in HTTP/1.1, it is 400 (RFC 9112
    §3.2): whoever stands before this server may have taken another of them for the one.
    """

    def __init__(self, app: ASGIApp, *, origins: Origins) -> None:
        self._app = app
        self._origins = origins
        # Nearly all requests name one of few hosts. What does not serve is not kept.
        self._known: set[bytes] = set()

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] == "lifespan":
            return self._app(scope, receive, send)
        hosts = [value for name, value in scope["headers"] if name == b"host"]
        if len(hosts) == 1 and self._serves(hosts[0]):
            return self._app(scope, receive, send)
        if scope["type"] == "websocket":
            return send({"type": "websocket.close", "code": 1008})
        if len(hosts) > 1 or (not hosts and scope["http_version"] == "1.1"):
            error = BadRequest(f"A request has one Host header; this one has {len(hosts)}.")
            return _turn_away(send, 400, b"application/json", orjson.dumps(error.envelope()))
        return _turn_away(send, 421, b"text/plain; charset=utf-8", _NOT_OURS)

    def _serves(self, host: bytes) -> bool:
        if host in self._known:
            return True
        if not self._origins.serves(host.decode("latin-1")):
            return False
        if len(self._known) >= _HOSTS_KEPT:
            self._known.clear()
        self._known.add(host)
        return True


async def _turn_away(send: Send, status: int, content_type: bytes, body: bytes) -> None:
    start: Message = {
        "type": "http.response.start",
        "status": status,
        "headers": [
            (b"content-type", content_type),
            (b"content-length", str(len(body)).encode()),
            *inert_headers(),
        ],
    }
    await send(start)
    await send({"type": "http.response.body", "body": body})
