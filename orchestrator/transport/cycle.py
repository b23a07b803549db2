"""One request and its answer: uvicorn's cycle, which takes a whole answer in one step.

That step is an extension of ASGI: a message in place of two, ``{"type": WHOLE_ANSWER, "status":
int, "headers": [...], "body": bytes}``, whose headers come without a ``content-length``. All else
is said as uvicorn says it.
"""

from __future__ import annotations

import asyncio
import functools
import re
import urllib.parse
from collections.abc import Coroutine, Iterable
from typing import Any, Final

import httptools
from starlette.types import ASGIApp, Message, Scope
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

WHOLE_ANSWER: Final = "zerogpu.answer"
EXTENSIONS: Final[dict[str, dict[str, Any]]] = {WHOLE_ANSWER: {}}

# What a name may be made of (RFC 9110 §5.6.2), in lower case, but "%".
_NAME: Final = re.compile(rb"[!#$&'*+\-.^_`|~0-9a-z]+")
# Names whose values say how the answer is sent.
_TELLING: Final = frozenset({b"connection", b"content-length", b"transfer-encoding"})
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


class Forgiving:
    """A transport that drops what is written to it once it is closed.

    uvloop's raises then, and tells of the loss of the connection only afterwards.
    """

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self._write = transport.write
        self.is_closing = transport.is_closing
        self.close = transport.close

    def write(self, raw: bytes) -> None:
        if not self.is_closing():
            self._write(raw)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class Cycle(RequestResponseCycle):
    """What a connection and the application share from a request's head to its answer."""

    # What most requests leave as it is.
    access_log = False
    disconnected = False
    more_body = True
    response_started = False
    response_complete = False
    chunked_encoding = None
    expected_content_length = 0
    _ends_by_closing = False
    _body: bytes | bytearray = b""

    def __init__(self, connection: HttpToolsProtocol, scope: Scope, *, keep_alive: bool) -> None:
        self.scope = scope  # type: ignore[assignment]
        self.transport = connection.transport
        self.flow = connection.flow
        self.logger = connection.logger
        self.default_headers = connection.server_state.default_headers
        self.message_event = asyncio.Event()
        self.on_response = connection.on_response_complete
        self.keep_alive = keep_alive
        self.waiting_for_100_continue = connection.expect_100_continue

    async def run(self, app: ASGIApp, tasks: set[asyncio.Task[None]]) -> None:
        """Have the application answer; this task leaves ``tasks`` when it has."""
        try:
            await app(self.scope, self.receive, self.send)  # type: ignore[arg-type]
        except BaseException as error:
            self.logger.error("Exception in ASGI application\n", exc_info=error)
            await self._give_up()
        else:
            if not (self.response_complete or self.disconnected):
                # Once an answer has begun, to return is how an application breaks it off; it has
                # said why where that is its operator's to know.
                if not self.response_started:
                    self.logger.error("ASGI callable returned without a response.")
                await self._give_up()
        finally:
            # The connection holds this: no cycle of the two.
            self.on_response = _nothing
            tasks.discard(asyncio.current_task())

    async def _give_up(self) -> None:
        if self.response_started:
            self.transport.close()
        else:
            await self.send_500_response()

    # ── the request's body ───────────────────────────────────────────────────────────────────────

    def hold(self, body: bytes) -> int:
        """Keep a piece of the body until the application asks; returns how much is kept."""
        held = self._body
        if not held:
            # Mostly the only one: nothing to copy.
            self._body = body
        else:
            if isinstance(held, bytes):
                held = self._body = bytearray(held)
            held += body
        self.message_event.set()
        return len(self._body)

    async def receive(self) -> Message:  # type: ignore[override]
        if self.waiting_for_100_continue and not self.transport.is_closing():
            self.transport.write(_CONTINUE)
            self.waiting_for_100_continue = False
        if not (self.disconnected or self.response_complete):
            self.flow.resume_reading()
            if not self.message_event.is_set():
                await self.message_event.wait()
            self.message_event.clear()
        if self.disconnected or self.response_complete:
            return {"type": "http.disconnect"}
        body, self._body = self._body, b""
        return {"type": "http.request", "body": bytes(body), "more_body": self.more_body}

    # ── the answer ───────────────────────────────────────────────────────────────────────────────

    def send(self, message: Message) -> Coroutine[Any, Any, None]:  # type: ignore[override]
        if message["type"] == WHOLE_ANSWER:
            return self._answer(message)
        if self.scope["http_version"] != "1.1":
            self._frame_by_closing(message)
        return super().send(message)  # type: ignore[arg-type]

    def _frame_by_closing(self, message: Message) -> None:
        """See to it that an answer of unknown length is not sent in chunks but until the close.

        Before HTTP/1.1 nobody reads chunks (RFC 9112 §6.1); no such connection is kept alive.
        """
        if message["type"] == "http.response.start":
            names = {name.lower() for name, _ in message.get("headers", ())}
            if b"content-length" not in names:
                self._ends_by_closing, self.chunked_encoding = True, False
        elif self._ends_by_closing:
            # uvicorn counts down to the end: every piece is all that is left.
            self.expected_content_length = len(message.get("body", b""))

    async def _answer(self, message: Message) -> None:
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        body: bytes = message["body"]
        head = self._head(message["status"], message["headers"], len(body))
        if head is None:
            for part in in_two(message):
                await super().send(part)  # type: ignore[arg-type]
            return
        self.response_started = True
        self.waiting_for_100_continue = False
        self.transport.write(head + body)
        self.response_complete = True
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()

    def _head(
        self, status: int, headers: Iterable[tuple[bytes, bytes]], body_bytes: int
    ) -> bytes | None:
        """Return an answer's status line and headers; None where uvicorn is to judge them."""
        if self.response_started or self.scope["method"] == "HEAD":
            return None
        names, values = zip(*self.default_headers, *headers, strict=True)
        form = _form_of(status, names, self.keep_alive)
        # No line's end is printable, nor any other control character.
        if form is None or not b"".join(values).decode("latin-1").isprintable():
            return None
        return form % (*values, body_bytes)


@functools.lru_cache(256)
def _form_of(status: int, names: tuple[bytes, ...], keep_alive: bool) -> bytes | None:
    """Return a head with places for the values of ``names`` and for the body's length.

    None where a name, or the status, asks for more than that.
    """
    if status < 200 or status in {204, 304} or not _TELLING.isdisjoint(names):
        return None
    if not all(map(_NAME.fullmatch, names)):
        return None
    lines = [b"%b: %%b\r\n" % name for name in names]
    if not keep_alive:
        lines.append(b"connection: close\r\n")
    return b"".join([STATUS_LINE[status], *lines, b"content-length: %d\r\n\r\n"])


def in_two(message: Message) -> tuple[Message, Message]:
    """Return the two messages of plain ASGI that say the same as a whole answer."""
    body = message["body"]
    headers = [(b"content-length", b"%d" % len(body)), *message["headers"]]
    return (
        {"type": "http.response.start", "status": message["status"], "headers": headers},
        {"type": "http.response.body", "body": body},
    )


def _nothing() -> None:
    pass


@functools.lru_cache(64)
def read_target(target: bytes) -> tuple[str, bytes, bytes]:
    """Return the path, the path as it was sent, and the query of a request's target."""
    parsed = httptools.parse_url(target)
    raw_path = parsed.path
    path = raw_path.decode("ascii")
    return urllib.parse.unquote(path) if "%" in path else path, raw_path, parsed.query or b""
