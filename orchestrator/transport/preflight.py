"""What a browser is told that asks whether its page may call: any may, as a key is what counts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from starlette.types import Scope, Send

from orchestrator.transport.headers import Header, header

_ALLOWED: Final[tuple[Header, ...]] = (
    (b"access-control-allow-origin", b"*"),
    (b"access-control-allow-methods", b"GET, POST, DELETE, OPTIONS"),
    (b"access-control-max-age", b"86400"),
    (b"vary", b"access-control-request-headers"),
)
_DEFAULT_HEADERS: Final = "authorization, content-type, x-api-key, x-project-id, idempotency-key"


def is_preflight(scope: Scope) -> bool:
    """Whether a browser asks if its page may call."""
    return scope["method"] == "OPTIONS" and (
        header(scope, b"access-control-request-method") is not None
    )


async def send_preflight(scope: Scope, send: Send, *, own: Iterable[Header]) -> None:
    """Answer 204 with what is allowed, and ``own`` headers beside it."""
    # OpenAI's clients send a dozen headers of their own, and a wildcard would not cover them all.
    wanted = header(scope, b"access-control-request-headers")
    allowed = (_DEFAULT_HEADERS if wanted is None else wanted).encode("latin-1")
    headers = [*_ALLOWED, (b"access-control-allow-headers", allowed), *own]
    await send({"type": "http.response.start", "status": 204, "headers": headers})
    await send({"type": "http.response.body", "body": b""})
