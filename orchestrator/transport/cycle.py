"""One request and its answer, between a connection and the application (ASGI 3, HTTP spec 2.3).

There is one extension: a whole answer in one message in place of two, ``{"type": WHOLE_ANSWER,
"status": int, "headers": [...], "lines": bytes, "body": bytes}``, whose headers come without a
``content-length``. ``lines`` are more of them as they are sent, for which the application alone
answers: nobody looks at them.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import re
import urllib.parse
from collections.abc import Iterable, Sequence
from http import HTTPStatus
from typing import Any, Final

import httptools
from starlette.types import ASGIApp, Message, Scope

from orchestrator.transport.wire import Wire

WHOLE_ANSWER: Final = "zerogpu.answer"
EXTENSIONS: Final[dict[str, dict[str, Any]]] = {WHOLE_ANSWER: {}}

Header = tuple[bytes, bytes]

# What a name may be made of (RFC 9110 §5.6.2), in lower case, but "%".
_NAME: Final = re.compile(rb"[!#$&'*+\-.^_`|~0-9a-z]+")
# What breaks a head apart wherever it stands in a name, or in a value.
_NOT_IN_NAMES: Final = re.compile(rb'[\x00-\x20\x7f()<>@,;:\[\]={}\\"]')
_NOT_IN_VALUES: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
# Names whose values say how the answer is sent.
_TELLING: Final = frozenset({b"connection", b"content-length", b"transfer-encoding"})
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"

log = logging.getLogger("uvicorn.error")


def _status_line(status: int) -> bytes:
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    return f"HTTP/1.1 {status} {phrase}\r\n".encode()


STATUS_LINE: Final = {status: _status_line(status) for status in range(100, 600)}


class Cycle:
    """What a connection and the application share from a request's head to its answer.

    ``on_answered`` is called when the answer is complete; ``default_headers`` go before its own.
    """

    def __init__(
        self,
        wire: Wire,
        scope: Scope,
        default_headers: Sequence[Header],
        on_answered: Any,
        expects_100_continue: Any,
        keep_alive: Any,
    ) -> None:
        self.wire = wire
        self.scope = scope
        self.task: asyncio.Task[None] | None = None
        self.keep_alive = keep_alive
        self.waiting_for_100_continue = expects_100_continue
        self._default_headers = default_headers
        self._on_answered = on_answered
        self._is_head = scope["method"] == "HEAD"
        # Nobody is there to hear the answer.
        self.disconnected = False
        self.more_body = True
        self.response_started = False
        self.response_complete = False
        # How the end of the answer's body is told: in chunks, by its length, or by closing.
        self._chunked = False
        self._ends_by_closing = False
        self._left_bytes = 0
        # Of the request's body, what the application has not asked for yet.
        self._body: bytes | bytearray = b""
        # Whether `receive` has something to tell, and who waits for that.
        self._news = False
        self._told: asyncio.Event | None = None

    async def run(self, app: ASGIApp, tasks: set[asyncio.Task[None]]) -> None:
        """Have the application answer; ``task``, which runs this, then leaves ``tasks``."""
        try:
            await app(self.scope, self.receive, self.send)
        except BaseException as error:
            log.error("Exception in ASGI application\n", exc_info=error)
            await self._give_up()
        else:
            if not (self.response_complete or self.disconnected):
                # Once an answer has begun, to return is how an application breaks it off; it has
                # said why where that is its operator's to know.
                if not self.response_started:
                    log.error("ASGI callable returned without a response.")
                await self._give_up()
        finally:
            # The connection holds this, and the task does: no cycle of them.
            self._on_answered = None
            if self.task is not None:
                tasks.discard(self.task)
                self.task = None

    async def _give_up(self) -> None:
        if self.response_started:
            self.wire.close()
            return
        headers = [
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"content-length", b"21"),
            (b"connection", b"close"),
        ]
        await self.send({"type": "http.response.start", "status": 500, "headers": headers})
        await self.send({"type": "http.response.body", "body": b"Internal Server Error"})

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
        self._tell()
        return len(self._body)

    def end_body(self) -> None:
        """Take note that all of the body has come."""
        self.more_body = False
        self._tell()

    def disconnect(self) -> None:
        """Tell the application that nobody is there any more; what it still says is dropped."""
        self.disconnected = True
        # One that waited behind others will never run: no cycle with the connection that holds it.
        self._on_answered = None
        self._tell()

    def _tell(self) -> None:
        self._news = True
        if self._told is not None:
            self._told.set()

    async def receive(self) -> Message:
        if not (self.disconnected or self.response_complete):
            if self.waiting_for_100_continue:
                self.waiting_for_100_continue = False
                self.wire.write(_CONTINUE)
            self.wire.resume_reading()
            if not self._news:
                if self._told is None:
                    self._told = asyncio.Event()
                self._told.clear()
                await self._told.wait()
            self._news = False
        if self.disconnected or self.response_complete:
            return {"type": "http.disconnect"}
        body, self._body = self._body, b""
        return {"type": "http.request", "body": bytes(body), "more_body": self.more_body}

    # ── the answer ───────────────────────────────────────────────────────────────────────────────

    async def send(self, message: Message) -> None:
        if self.wire.write_paused and not self.disconnected:
            await self.wire.drain()
        if self.disconnected:
            return
        kind = message["type"]
        if kind == WHOLE_ANSWER:
            self._answer(message)
        elif not self.response_started:
            if kind != "http.response.start":
                raise RuntimeError(f"{kind!r} was sent before an answer was started.")
            self._start(message["status"], message.get("headers", ()))
        elif not self.response_complete:
            if kind != "http.response.body":
                raise RuntimeError(f"{kind!r} was sent where a body has to follow.")
            self._continue(message.get("body", b""), message.get("more_body", False))
        else:
            raise RuntimeError(f"{kind!r} was sent after the answer was complete.")

    def _answer(self, message: Message) -> None:
        body = message["body"]
        head = self._whole_head(message["status"], message["headers"], message["lines"], len(body))
        if head is None:
            if self.response_started:
                raise RuntimeError("An answer was sent after another one.")
            start, rest = in_two(message)
            self._start(start["status"], start["headers"])
            self._continue(rest["body"], False)
            return
        self.response_started = True
        self.waiting_for_100_continue = False
        self.wire.write(head + body)
        self._finish()

    def _whole_head(
        self, status: int, headers: Iterable[Header], lines: bytes, body_bytes: int
    ) -> bytes | None:
        """Return an answer's status line and headers; None where `_start` is to judge them."""
        if self.response_started or self._is_head:
            return None
        fields = [*self._default_headers, *headers]
        form = _form_of(status, tuple([name for name, _ in fields]), self.keep_alive)
        values = [value for _, value in fields]
        # No line's end is printable, nor any other control character.
        if form is None or not b"".join(values).decode("latin-1").isprintable():
            return None
        return form % (*values, lines, body_bytes)

    def _start(self, status: int, headers: Iterable[Header]) -> None:
        """Write the head of an answer whose body comes by itself."""
        self.response_started = True
        self.waiting_for_100_continue = False
        lines = [STATUS_LINE[status]]
        says_how = says_close = False
        for given, value in (*self._default_headers, *headers):
            if _NOT_IN_NAMES.search(given):
                raise RuntimeError("Invalid HTTP header name.")
            if _NOT_IN_VALUES.search(value):
                raise RuntimeError("Invalid HTTP header value.")
            name = given.lower()
            if name == b"content-length" and not says_how:
                says_how = True
                self._left_bytes = int(value)
            elif name == b"transfer-encoding" and value.lower() == b"chunked":
                says_how = self._chunked = True
                self._left_bytes = 0
            elif name == b"connection" and b"close" in _tokens(value):
                self.keep_alive = False
                says_close = True
            lines += (name, b": ", value, b"\r\n")
        if not self.keep_alive and not says_close:
            lines.append(b"connection: close\r\n")
        if not says_how and not self._is_head and status not in (204, 304):
            if self.scope["http_version"] == "1.1":
                self._chunked = True
                lines.append(b"transfer-encoding: chunked\r\n")
            else:
                # Before it nobody reads chunks (RFC 9112 §6.1), and no connection is kept.
                self._ends_by_closing = True
        lines.append(b"\r\n")
        self.wire.write(b"".join(lines))

    def _continue(self, body: bytes, more_body: Any) -> None:
        """Write a piece of the answer's body."""
        if self._is_head:
            self._left_bytes = 0
        elif self._chunked:
            piece = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            self.wire.write(piece if more_body else piece + b"0\r\n\r\n")
        else:
            if not self._ends_by_closing:
                if len(body) > self._left_bytes:
                    raise RuntimeError("Response content longer than Content-Length")
                self._left_bytes -= len(body)
            self.wire.write(body)
        if not more_body:
            if self._left_bytes:
                raise RuntimeError("Response content shorter than Content-Length")
            self._finish()

    def _finish(self) -> None:
        self.response_complete = True
        self._tell()
        if not self.keep_alive:
            self.wire.close()
        if self._on_answered is not None:
            self._on_answered()


def _tokens(value: bytes) -> list[bytes]:
    return [token.strip() for token in value.lower().split(b",")]


@functools.lru_cache(256)
def _form_of(status: int, names: tuple[bytes, ...], keep_alive: bool) -> bytes | None:
    """Return a head with places for the values of ``names``, more lines and the body's length.

    None where a name, or the status, asks for more than that.
    """
    if status < 200 or status in {204, 304} or not _TELLING.isdisjoint(names):
        return None
    if not all(map(_NAME.fullmatch, names)):
        return None
    lines = [b"%b: %%b\r\n" % name for name in names]
    if not keep_alive:
        lines.append(b"connection: close\r\n")
    return b"".join([STATUS_LINE[status], *lines, b"%bcontent-length: %d\r\n\r\n"])


def in_two(message: Message) -> tuple[Message, Message]:
    """Return the two messages of plain ASGI that say the same as a whole answer."""
    body = message["body"]
    more = fields_of(message["lines"])
    headers = [(b"content-length", b"%d" % len(body)), *message["headers"], *more]
    return (
        {"type": "http.response.start", "status": message["status"], "headers": headers},
        {"type": "http.response.body", "body": body},
    )


def fields_of(lines: bytes) -> list[Header]:
    """Return the headers that ``lines`` are, of which each ends in CRLF."""
    pairs = [line.partition(b": ") for line in lines.split(b"\r\n")[:-1]]
    return [(name, value) for name, _, value in pairs]


@functools.lru_cache(64)
def read_target(target: bytes) -> tuple[str, bytes, bytes]:
    """Return the path, the path as it was sent, and the query of a request's target."""
    parsed = httptools.parse_url(target)
    raw_path = parsed.path
    path = raw_path.decode("ascii")
    return urllib.parse.unquote(path) if "%" in path else path, raw_path, parsed.query or b""
