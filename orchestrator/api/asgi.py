"""The little of HTTP that the hot paths need: bodies in, JSON out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
import orjson
from starlette.types import Message, Receive, Scope, Send

from orchestrator.errors import (
    ApiError,
    MethodNotAllowed,
    PayloadTooLarge,
    Unauthorized,
    UnsupportedEncoding,
)
from orchestrator.transport.cycle import WHOLE_ANSWER, fields_of, in_two

Header = tuple[bytes, bytes]
# A whole number as a header has it, in a third of the time that `%d` takes.
digits: Final[Callable[[int], bytes]] = msgspec.json.Encoder().encode


class ClientGone(Exception):
    """The client closed the connection before its request was complete."""


async def read_body(
    receive: Receive, *, declared: bytes | None, limit: int, hold: Callable[[int], None]
) -> bytes:
    """Return the request body, reading no more of it than ``limit`` bytes.

    ``hold`` is told of every piece before it is kept and may refuse it by raising. Raises
    `PayloadTooLarge` from the declared length alone where there is one, `ClientGone`.
    """
    if declared is not None and declared.isdigit() and int(declared) > limit:
        raise _too_large(f"{int(declared):,} bytes", limit)
    message = await receive()
    body: bytes = message.get("body", b"")
    hold(len(body))
    if message["type"] == "http.request" and not message.get("more_body"):
        if len(body) > limit:
            raise _too_large(f"{len(body):,} bytes", limit)
        return body
    pieces, size = [body], len(body)
    while message["type"] == "http.request" and message.get("more_body"):
        message = await receive()
        piece = message.get("body", b"")
        size += len(piece)
        if size > limit:
            raise _too_large(f"more than {limit:,} bytes", limit)
        hold(len(piece))
        pieces.append(piece)
    if message["type"] != "http.request":
        raise ClientGone
    return b"".join(pieces)


def refuse_encoded(encoding: bytes | None) -> None:
    """Raise `UnsupportedEncoding` for a content-encoding that a body would have to be freed of."""
    if encoding is None or encoding.strip().lower() in {b"", b"identity"}:
        return
    raise UnsupportedEncoding(
        f"The body's content-encoding is {encoding[:40].decode('latin-1')!r}; bodies are read as"
        " they are: send it uncompressed, without that header."
    )


async def send_body(
    send: Send,
    status: int,
    body: bytes,
    headers: Sequence[Header] = (),
    *,
    lines: bytes = b"",
    content_type: bytes = b"application/json",
    scope: Scope | None = None,
) -> None:
    """Send a whole answer, in one step where ``scope`` says that the server takes it so.

    ``lines`` are more headers, as they are sent. A 304 tells nothing of the body that it does not
    have.
    """
    if status == 304:
        headers = [*headers, *fields_of(lines)]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b""})
        return
    answer: Message = {
        "type": WHOLE_ANSWER,
        "status": status,
        "headers": [(b"content-type", content_type), *headers],
        "lines": lines,
        "body": body,
    }
    if scope is not None and WHOLE_ANSWER in scope.get("extensions", ()):
        await send(answer)
        return
    for part in in_two(answer):
        await send(part)


def error_headers(error: ApiError) -> list[Header]:
    """Return the headers that belong to ``error`` by HTTP's own rules."""
    headers: list[Header] = []
    if error.retry_after_s is not None:
        seconds = max(1, math.ceil(error.retry_after_s))
        headers.append((b"retry-after", b"%d" % seconds))
    if isinstance(error, MethodNotAllowed):
        headers.append((b"allow", error.allowed.encode()))
    if isinstance(error, UnsupportedEncoding):
        headers.append((b"accept-encoding", b"identity"))
    if isinstance(error, Unauthorized):
        headers.append((b"www-authenticate", b"Bearer"))
    return headers


def error_body(error: ApiError) -> bytes:
    return orjson.dumps(error.envelope())


def _too_large(size: str, limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(
        f"The body has {size}; at most {limit:,} are taken. Split it into several requests."
    )
