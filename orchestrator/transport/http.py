"""HTTP connections that end: uvicorn's protocol with bounds on size and time.

A connection is always in one of these states, and one sweep over all of them ends those that stay:

    head    nothing came yet, or a request's line and headers are not complete   headers_timeout_s
    body    a body is not complete, and hardly comes                             idle_s
    rest    the answer is sent, but what is left of the body still comes         idle_s
    next    the answer is sent, and nothing came since                           keep_alive_s
    refused it was told why, and may read that                                   LINGER_S
    stalled what was written to it waits, and is hardly read                     idle_s

In any other it waits for us. Times are looked at once a sweep, not with a timer each: every request
would set and cancel several.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from typing import Any, Final, Literal

import httptools
import orjson
from starlette.types import Scope
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from orchestrator.errors import ApiError, BadRequest, RequestTimeout
from orchestrator.transport.bounds import Bounds, too_long, too_many
from orchestrator.transport.cycle import EXTENSIONS, Cycle, Forgiving, read_target
from orchestrator.transport.upgrade import head_without_upgrade, is_handshake

# "Hardly": fewer bytes than these in ``idle_s``. Whatever is slower is not a network.
BODY_PACE_BYTES: Final = 1 << 10
READ_PACE_BYTES: Final = 64 << 10
LINGER_S: Final = 2.0
LOOK_EVERY_S: Final = 1.0
# Requests sent ahead on one connection while the first is being answered.
PIPELINE_MAX: Final = 64

_Wait = Literal["head", "body", "rest", "next", "refused"]


def bounded_http(bounds: Bounds) -> type[asyncio.Protocol]:
    """Return the protocol class to give to uvicorn as ``http``."""
    sweep = Sweep(min(LOOK_EVERY_S, bounds.headers_timeout_s / 4, bounds.idle_s / 4))

    class Bounded(BoundedHttp):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            self.bounds = bounds
            self.sweep = sweep

    return Bounded


class BoundedHttp(HttpToolsProtocol):
    """One connection. `bounded_http` makes the class with the bounds."""

    bounds: Bounds
    sweep: Sweep
    cycle: Cycle
    # Whose turn comes when the one before is answered.
    pipeline: deque[Cycle]  # type: ignore[assignment]

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._in_head = True
        # Whether a request ever began; before, nobody waits to be told anything.
        self._asked = False
        self._refused = False
        # The last answer is sent and nothing came since; a byte that begins no request counts too.
        self._quiet = False
        # Why the parser was stopped by us, rather than by its own rules.
        self._why: ApiError | None = None
        # Of the piece being parsed: how long it is, and whether it got the request any further.
        self._piece_bytes = 0
        self._moved = False
        # What came since the request got further: names, values, trailers without an end.
        self._headless_bytes = 0
        self._body_bytes = 0
        self._wait: _Wait | None = None
        self._since_s = 0.0
        self._mark_bytes = 0
        self._unread_since_s: float | None = None
        self._unread_bytes = 0

    # ── what comes ───────────────────────────────────────────────────────────────────────────────

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._plain: Any = transport
        super().connection_made(Forgiving(transport))  # type: ignore[arg-type]
        self._wait, self._since_s = "head", self.loop.time()
        self.sweep.add(self, self.loop)

    def connection_lost(self, exc: Exception | None) -> None:
        self.sweep.discard(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        self._quiet = False
        self._piece_bytes = len(data)
        self._moved = False
        while True:
            try:
                self.parser.feed_data(data)
                break
            except httptools.HttpParserUpgrade as asked:
                rest = data[asked.args[0] :]
            except httptools.HttpParserError:
                why, self._why = self._why, None
                self._refuse(why or BadRequest("This is not a valid HTTP/1.1 request."))
                return
            if not self._declines_upgrade():
                return
            data = self._ask_again() + rest
        cycle = self.cycle
        if self._in_head or (cycle is not None and cycle.more_body):
            self._count_headless()

    def on_message_begin(self) -> None:
        self._in_head = self._asked = True
        self.url = b""
        self.headers = []
        self.expect_100_continue = False

    def on_headers_complete(self) -> None:
        self._moved = True
        self._wait = None
        bounds = self.bounds
        if len(self.headers) > bounds.headers_max:
            self._stop(too_many(len(self.headers), bounds.headers_max))
        if [name for name, _ in self.headers].count(b"host") > 1:
            # RFC 9112, 3.2. Whoever stands before us may go by the other one.
            self._stop(BadRequest("The request names more than one Host: send one."))
        # Summed up only where what came could be too much: most requests come in one short piece.
        if self._headless_bytes + self._piece_bytes > bounds.headers_max_bytes:
            size_bytes = len(self.url) + sum(
                len(name) + len(value) + 4 for name, value in self.headers
            )
            if size_bytes > bounds.headers_max_bytes:
                self._stop(too_long(size_bytes, bounds.headers_max_bytes))
        self._headless_bytes = 0
        http_version = self.parser.get_http_version()
        scope: Scope = {
            "type": "http",
            "asgi": {"version": self.asgi_version, "spec_version": "2.3"},
            "http_version": http_version,
            "method": self.parser.get_method().decode("ascii"),
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme,
            "root_path": "",
            "headers": self.headers,
            "state": self.app_state.copy(),
            "extensions": EXTENSIONS,
        }
        self.scope = scope  # type: ignore[assignment]
        upgrades = self.parser.should_upgrade()
        if not upgrades:
            self._ask(scope, keep_alive=http_version == "1.1" and self.parser.should_keep_alive())
        # Not before: a request refused up to here has no cycle, the last one is another's.
        self._in_head = upgrades

    def _ask(self, scope: Scope, *, keep_alive: bool) -> None:
        """Put the request to the application, behind those that it has not answered yet."""
        scope["path"], scope["raw_path"], scope["query_string"] = read_target(self.url)
        last = self.cycle
        self.cycle = Cycle(self, scope, keep_alive=keep_alive)
        if last is None or last.response_complete:
            self._answer(self.cycle)
            return
        self.flow.pause_reading()
        self.pipeline.append(self.cycle)
        if len(self.pipeline) > PIPELINE_MAX:
            self._stop(
                BadRequest(f"More than {PIPELINE_MAX} requests wait on this connection: use more.")
            )

    def _answer(self, cycle: Cycle) -> None:
        answering = cycle.run(self.app, self.tasks)
        # Named: a number of its own would be written out for each.
        self.tasks.add(asyncio.Task(answering, loop=self.loop, name="request"))

    def on_body(self, body: bytes) -> None:
        self._moved = True
        self._body_bytes += len(body)
        # That of a request which asks for another protocol is nobody's.
        if self._in_head or self.cycle.response_complete:
            return
        if self.cycle.hold(body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()

    def on_message_complete(self) -> None:
        if self._in_head or self.cycle.response_complete:
            return
        self.cycle.more_body = False
        self.cycle.message_event.set()

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._answer(self.pipeline.popleft())
        else:
            self._quiet = True

    def _count_headless(self) -> None:
        """Bound what is neither a whole head nor a body: the parser keeps it until it ends."""
        if self._moved:
            self._headless_bytes = 0
            return
        self._headless_bytes += self._piece_bytes
        if self._headless_bytes > self.bounds.headers_max_bytes:
            self._refuse(too_long(self._headless_bytes, self.bounds.headers_max_bytes))

    def _should_upgrade(self) -> bool:
        """Keep uvicorn from answering a request that asks for an upgrade: it is parsed again."""
        return True

    def _declines_upgrade(self) -> bool:
        """Return whether the request is to be read as usual; else it has been dealt with."""
        method, http_version = self.scope["method"], self.scope["http_version"]
        if not any(name == b"upgrade" for name, _ in self.headers):
            # No wish to leave out, or no longer, and still one: what follows a CONNECT is not HTTP.
            self._refuse(BadRequest("CONNECT is not answered: this server is not a proxy."))
            return False
        # While an answer is owed, the two protocols would write over each other.
        owed = self.cycle is not None and not self.cycle.response_complete
        if owed or not is_handshake(
            method, target=self.url, http_version=http_version, fields=self.headers
        ):
            return True
        self.sweep.discard(self)
        self.transport = self._plain
        self.handle_websocket_upgrade()
        return False

    def _ask_again(self) -> bytes:
        """Return the head of the request as if it had not asked, for a parser of its own.

        The last one takes all that follows for another protocol, a body too. The new one alone
        says where bodies end.
        """
        self.parser = httptools.HttpRequestParser(self)
        # As uvicorn's: what came before a `connection: close` is still answered.
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        return head_without_upgrade(
            self.scope["method"],
            target=self.url,
            http_version=self.scope["http_version"],
            fields=self.headers,
        )

    def _stop(self, error: ApiError) -> None:
        """Stop the parser from within; `data_received` then refuses."""
        self._why = error
        try:
            raise error
        finally:
            # Its traceback holds this frame: such a cycle would keep the whole connection.
            del error

    # ── what is refused ──────────────────────────────────────────────────────────────────────────

    def _refuse(self, error: ApiError) -> None:
        """Say why, if nothing else is being said, and close."""
        self._refused = True
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            # A word in the middle of an answer, or ahead of one, would be taken for it.
            if cycle.response_started or self._in_head or self.pipeline:
                self.transport.abort()
                return
            # The application must not answer as well.
            cycle.disconnected = True
            cycle.message_event.set()
        body = orjson.dumps(error.envelope())
        self.transport.write(
            STATUS_LINE[error.status]
            + b"content-type: application/json\r\nconnection: close\r\nx-request-id: req_%s\r\n"
            b"content-length: %d\r\n\r\n" % (secrets.token_hex(12).encode(), len(body)) + body
        )
        self._wait, self._since_s = "refused", self.loop.time()
        if self.transport.can_write_eof():
            # Closed while more comes, the socket would be reset, and the answer lost with it.
            self.transport.write_eof()
        else:
            self.transport.close()

    # ── what does not come, or does not go ───────────────────────────────────────────────────────

    def resume_writing(self) -> None:
        self._unread_since_s = None
        super().resume_writing()

    def look(self, now: float) -> None:
        """End the connection if it has been in one state for too long; ``now`` is loop time."""
        if self._is_stalled(now):
            self.transport.abort()
            return
        wait = self._waits_for()
        if wait != self._wait or (
            wait == "body" and self._body_bytes - self._mark_bytes >= BODY_PACE_BYTES
        ):
            self._wait, self._since_s, self._mark_bytes = wait, now, self._body_bytes
            return
        waited_s = now - self._since_s
        match wait:
            case "head" if waited_s >= self.bounds.headers_timeout_s:
                self._give_up_head()
            case "body" if waited_s >= self.bounds.idle_s:
                self._refuse(
                    RequestTimeout("The request's body stopped coming: send the request again.")
                )
            case "rest" if waited_s >= self.bounds.idle_s:
                self.transport.abort()
            case "next" if waited_s >= self.bounds.keep_alive_s:
                self.transport.close()
            case "refused" if waited_s >= LINGER_S:
                self.transport.abort()
            case _:
                pass

    def _give_up_head(self) -> None:
        if not self._asked:
            # It never asked anything: a browser's spare connection, or a port scan.
            self.transport.close()
        else:
            self._refuse(
                RequestTimeout(
                    "The request's headers were not complete within"
                    f" {self.bounds.headers_timeout_s:g} s: send the request again."
                )
            )

    def _waits_for(self) -> _Wait | None:
        """Return what the client is to do next; None if it is our turn or another timer's."""
        if self._refused:
            return "refused"
        # What we do not read cannot come.
        if self.transport.is_closing() or self.flow.read_paused:
            return None
        if self._in_head:
            return "head"
        cycle = self.cycle
        if cycle.response_complete:
            return "next" if self._quiet else "rest"
        return "body" if cycle.more_body and not cycle.waiting_for_100_continue else None

    def _is_stalled(self, now: float) -> bool:
        unread_bytes = self.transport.get_write_buffer_size()
        if not unread_bytes:
            self._unread_since_s = None
            return False
        since_s = self._unread_since_s
        if since_s is None or self._unread_bytes - unread_bytes >= READ_PACE_BYTES:
            self._unread_since_s, self._unread_bytes = now, unread_bytes
            return False
        return now - since_s >= self.bounds.idle_s


class Sweep:
    """All connections of one server; looks at each of them every ``every_s``, while there are any.

    Lives on the event loop of the first connection.
    """

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        self._open: set[BoundedHttp] = set()
        self._sweeping = False

    def add(self, connection: BoundedHttp, loop: asyncio.AbstractEventLoop) -> None:
        self._open.add(connection)
        if not self._sweeping:
            self._sweeping = True
            loop.call_later(self._every_s, self._look, loop)

    def discard(self, connection: BoundedHttp) -> None:
        self._open.discard(connection)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        self._sweeping = bool(self._open)
        if self._sweeping:
            # First: whatever one connection may bring about, the others are looked at again.
            loop.call_later(self._every_s, self._look, loop)
        now = loop.time()
        for connection in tuple(self._open):
            connection.look(now)
