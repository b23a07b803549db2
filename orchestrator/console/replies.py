"""What the console answers with: JSON that no cache keeps, and errors that are sentences."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec
from starlette.types import Scope, Send

from orchestrator.transport.assets import send_reply
from orchestrator.transport.headers import Header, inert_headers

_NO_STORE: Final[Header] = (b"cache-control", b"no-store")
_JSON: Final[Header] = (b"content-type", b"application/json")


class Refusal(Exception):
    """A request that is answered with an error; the message is for the person at the page."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


async def reply(
    scope: Scope,
    send: Send,
    status: int,
    *,
    headers: Iterable[Header] = (),
    body: bytes = b"",
) -> None:
    """Answer with ``body``, which is JSON when there is one."""
    kind = [_JSON] if body else []
    await send_reply(
        scope,
        send,
        status=status,
        headers=[*inert_headers(), _NO_STORE, *kind, *headers],
        body=body,
    )


async def reply_json(scope: Scope, send: Send, value: object) -> None:
    """Answer 200 with a value."""
    await reply(scope, send, 200, body=msgspec.json.encode(value))


async def refuse(scope: Scope, send: Send, refusal: Refusal) -> None:
    """Answer with ``{"error": {code, message}}``."""
    error = {"error": {"code": refusal.code, "message": str(refusal)}}
    await reply(scope, send, refusal.status, body=msgspec.json.encode(error))


async def redirect(scope: Scope, send: Send, to: str, *, headers: Iterable[Header] = ()) -> None:
    """Send the browser on with a GET."""
    await reply(scope, send, 303, headers=[(b"location", to.encode()), *headers])
