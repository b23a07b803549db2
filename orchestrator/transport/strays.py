"""What a program is told that asked for something that is not here: mostly the API, a little off.

People get a page to read; a client of the API gets the API's own kind of error, which it can show.
"""

from __future__ import annotations

import secrets
from typing import Final

import orjson
from starlette.types import Scope, Send

from orchestrator.errors import ApiError, MethodNotAllowed, NotFound
from orchestrator.transport.assets import send_reply
from orchestrator.transport.headers import Header, header, inert_headers

READING: Final = frozenset({"GET", "HEAD"})
_METHOD_CHARS: Final = 16
_PATH_CHARS: Final = 100
# To pages elsewhere, too: a client of the API may run in one.
_HEADERS: Final[tuple[Header, ...]] = (
    (b"content-type", b"application/json"),
    (b"cache-control", b"no-store"),
    (b"access-control-allow-origin", b"*"),
    (b"access-control-expose-headers", b"x-request-id"),
)


def is_program(scope: Scope) -> bool:
    """Whether who asks would rather have JSON than a page to read."""
    if scope["method"] not in READING:
        return True
    accept = (header(scope, b"accept") or "").strip().lower()
    if accept.startswith("application/json"):
        return True
    # A browser sends credentials as well, of a proxy in between.
    return "text/html" not in accept and any(
        header(scope, name) is not None for name in (b"authorization", b"x-api-key")
    )


async def send_nothing_here(scope: Scope, send: Send) -> None:
    """Answer 404 as the API would, with what may be wrong about the address."""
    method, path = scope["method"][:_METHOD_CHARS], scope["path"][:_PATH_CHARS]
    error = NotFound(
        f"There is no {method} {path} here. The base URL of an OpenAI client must end in /v1, and"
        " paths are written as in /openapi.json: in lower case, without a second slash or one at"
        " the end."
    )
    await _send(scope, send, error)


async def send_only_read(scope: Scope, send: Send) -> None:
    """Answer 405 as the API would: what is here can only be read."""
    method, path = scope["method"][:_METHOD_CHARS], scope["path"][:_PATH_CHARS]
    allowed = "GET, HEAD"
    error = MethodNotAllowed(
        f"{path} takes {allowed}, not {method}: it is no operation of the API. Those are in"
        " /openapi.json.",
        allowed=allowed,
    )
    await _send(scope, send, error, (b"allow", allowed.encode()))


async def _send(scope: Scope, send: Send, error: ApiError, *headers: Header) -> None:
    number = secrets.token_hex(12).encode()
    await send_reply(
        scope,
        send,
        status=error.status,
        headers=[*inert_headers(), *_HEADERS, (b"x-request-id", b"req_" + number), *headers],
        body=orjson.dumps(error.envelope()),
    )
