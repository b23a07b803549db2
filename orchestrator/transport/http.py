"""HTTP connections that end: requests are read off a socket, within bounds of size and time.

A connection is always in one of these states, and one sweep over all of them ends those that stay:

    head    nothing came yet, or a request's line and headers are not complete   headers_timeout_s
    body    a body is not complete, and hardly comes                             idle_s
    rest    the answer is sent, but what is left of the body still comes         idle_s
    next    the answer is sent, and nothing came since                           keep_alive_s
    refused it was told why, and may read that                                   LINGER_S
    stalled what was written to it waits, and is hardly read                     idle_s

In any other it waits for us. Times are looked at once a sweep, not with a timer each: every request
would set and cancel several.

uvicorn makes a connection for each socket that it accepts, as it would its own, and tells them when
it stops. Requests are parsed by llhttp.
"""

from __future__ import annotations

import asyncio
import functools
import secrets
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Literal

import httptools
import orjson
from uvicorn.config import Config
from uvicorn.protocols.utils import get_local_addr, get_remote_addr, is_ssl
from uvicorn.server import ServerState

from orchestrator.errors import ApiError, BadRequest, RequestTimeout
from orchestrator.transport.bounds import Bounds, too_long, too_many
from orchestrator.transport.cycle import EXTENSIONS, STATUS_LINE, Cycle, read_target
from orchestrator.transport.upgrade import head_without_upgrade, is_handshake
from orchestrator.transport.wire import Wire

# "Hardly": fewer bytes than these in ``idle_s``. Whatever is slower is not a network.
BODY_PACE_BYTES: Final = 1 << 10
READ_PACE_BYTES: Final = 64 << 10
LINGER_S: Final = 2.0
LOOK_EVERY_S: Final = 1.0
# Requests sent ahead on one connection while the first is being answered: from so many on, nothing
# more is read until the last of them is being answered; beyond the most that one read may bring,
# those that came first are answered and the connection is closed.
PIPELINE_FULL: Final = 32
PIPELINE_MAX: Final = 256
# So much of a body is kept until the application asks for it; then the client has to wait.
HELD_BODY_BYTES: Final = 64 << 10

# Of every refusal: a page is to read it, and nobody to keep it.
REFUSAL_FIELDS: Final = (
    b"content-type: application/json\r\nconnection: close\r\ncache-control: no-store\r\n"
    b"vary: origin\r\naccess-control-allow-origin: *\r\n"
    b"access-control-expose-headers: x-request-id\r\n"
)

_Wait = Literal["head", "body", "rest", "next", "refused"]


def bounded_http(bounds: Bounds) -> Callable[..., HttpConnection]:
    """Return what to give to uvicorn as ``http``."""
    sweep = Sweep(min(LOOK_EVERY_S, bounds.headers_timeout_s / 4, bounds.idle_s / 4))
    return functools.partial(HttpConnection, bounds, sweep)


class HttpConnection:
    """One connection, an `asyncio.Protocol` in all but name. `bounded_http` makes them."""

    def __init__(
        self,
        bounds: Bounds,
        sweep: Sweep,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.bounds = bounds
        self.sweep = sweep
        self.loop = _loop or asyncio.get_running_loop()
        self.config = config
        self.app = config.loaded_app
        self.server_state = server_state
        self.tasks = server_state.tasks
        self.app_state = app_state
        self.wire: Wire = None  # type: ignore[assignment] # until it is connected
        self._new_parser()
        # What all requests' scopes have in common.
        self._common: dict[str, Any] = {}
        # Of the request that is being read.
        self.url = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self._hosts = 0
        self._expects_100_continue = False
        self.scope: dict[str, Any] = {}
        # The last one whose head was complete, the one that is being answered, and those behind it.
        self.cycle: Cycle | None = None
        self._answered: Cycle | None = None
        self.pipeline: deque[Cycle] = deque()
        # Of the bodies of those behind it, what has come.
        self._ahead_bytes = 0
        # What is owed is answered, and then it is over: nothing that comes now is looked at.
        self._deaf = False
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
        # What came since the request got further: names, values, trailers without an end. Before
        # it, of the piece in which its head began, a part.
        self._headless_bytes = 0
        self._begun_bytes = 0
        self._body_bytes = 0
        self._wait: _Wait | None = None
        self._since_s = 0.0
        self._mark_bytes = 0
        self._unread_since_s: float | None = None
        self._read_bytes = 0

    def _new_parser(self) -> None:
        self.parser: Any = httptools.HttpRequestParser(self)
        # What came before a `connection: close` is still answered.
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)

    # ── what comes ───────────────────────────────────────────────────────────────────────────────

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.server_state.connections.add(self)  # type: ignore[arg-type]
        self.wire = Wire(transport)
        self._common = {
            "type": "http",
            "asgi": {"version": self.config.asgi_version, "spec_version": "2.3"},
            "server": get_local_addr(transport),  # type: ignore[arg-type]
            "client": get_remote_addr(transport),  # type: ignore[arg-type]
            "scheme": "https" if is_ssl(transport) else "http",  # type: ignore[arg-type]
            "root_path": "",
            "extensions": EXTENSIONS,
            # What differs has its place here too: a copy that need not grow takes half the time.
            "http_version": "",
            "method": "",
            "headers": [],
            "state": {},
            "path": "",
            "raw_path": b"",
            "query_string": b"",
        }
        self._wait, self._since_s = "head", self.loop.time()
        self.sweep.add(self, self.loop)

    def connection_lost(self, exc: Exception | None) -> None:
        self.server_state.connections.discard(self)
        self.sweep.discard(self)
        answered = self._answered
        if answered is not None and not answered.response_complete:
            answered.disconnect()
        while self.pipeline:
            self.pipeline.popleft().disconnect()
        self.wire.resume_writing()
        if exc is None:
            self.wire.close()
        # It holds our methods: no cycle of the two.
        self.parser = None

    def eof_received(self) -> None:
        """Close: who says nothing more is taken to have left."""

    def data_received(self, data: bytes) -> None:
        if self._refused or self._deaf:
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
                # Not in a variable: its traceback holds this frame.
                if not self._deaf:
                    self._refuse(self._why or BadRequest("This is not a valid HTTP/1.1 request."))
                self._why = None
                return
            if not self._declines_upgrade():
                return
            data = self._ask_again() + rest
        cycle = self.cycle
        if self._in_head or (cycle is not None and cycle.more_body):
            self._count_headless()

    # The parser calls these.

    def on_message_begin(self) -> None:
        self._in_head = self._asked = True
        self.url = b""
        self.headers = []
        self._hosts = 0
        self._expects_100_continue = False

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name == b"host":
            self._hosts += 1
        elif name == b"expect" and value.lower() == b"100-continue":
            self._expects_100_continue = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        self._moved = True
        self._wait = None
        bounds = self.bounds
        if len(self.headers) > bounds.headers_max:
            self._stop(too_many(len(self.headers), bounds.headers_max))
        if self._hosts > 1:
            # RFC 9112, 3.2. Whoever stands before us may go by the other one.
            self._stop(BadRequest("The request names more than one Host: send one."))
        # Summed up only where what came could be too much: most requests come in one short piece.
        came_bytes = self._begun_bytes + self._headless_bytes + self._piece_bytes
        if came_bytes > bounds.headers_max_bytes:
            size_bytes = len(self.url) + sum(
                [len(name) + len(value) + 4 for name, value in self.headers]
            )
            if size_bytes > bounds.headers_max_bytes:
                self._stop(too_long(size_bytes, bounds.headers_max_bytes))
        self._headless_bytes = self._begun_bytes = 0
        parser = self.parser
        http_version = parser.get_http_version()
        scope = self._common.copy()
        scope["http_version"] = http_version
        scope["method"] = parser.get_method().decode("ascii")
        scope["headers"] = self.headers
        # What else comes are trailers, which are no headers (RFC 9110, 6.5.1): nobody reads them.
        self.headers = []
        scope["state"] = self.app_state.copy()
        self.scope = scope
        upgrades = parser.should_upgrade()
        if not upgrades:
            self._ask(scope, http_version == "1.1" and parser.should_keep_alive())
        # Not before: a request refused up to here has no cycle, the last one is another's.
        self._in_head = upgrades

    def on_body(self, body: bytes) -> None:
        self._moved = True
        self._body_bytes += len(body)
        cycle = self.cycle
        # That of a request which asks for another protocol is nobody's.
        if self._in_head or cycle is None or cycle.response_complete:
            return
        held_bytes = cycle.hold(body)
        if cycle is not self._answered:
            self._ahead_bytes += len(body)
            if self._ahead_bytes > HELD_BODY_BYTES:
                self.wire.crowd()
        elif held_bytes > HELD_BODY_BYTES:
            self.wire.pause_reading()

    def on_message_complete(self) -> None:
        cycle = self.cycle
        if not (self._in_head or cycle is None or cycle.response_complete):
            cycle.end_body()

    # ── what is answered ─────────────────────────────────────────────────────────────────────────

    def _ask(self, scope: dict[str, Any], keep_alive: bool) -> None:
        """Put the request to the application, behind those that it has not answered yet."""
        scope["path"], scope["raw_path"], scope["query_string"] = read_target(self.url)
        last = self.cycle
        if len(self.pipeline) >= PIPELINE_MAX and last is not None:
            # The client has to send the rest once more (RFC 9112, 9.3.2).
            self._hear_no_more(last)
            raise BadRequest(f"More than {PIPELINE_MAX} requests wait on this connection.")
        cycle = self.cycle = Cycle(
            self.wire,
            scope,
            self.server_state.default_headers,
            self.on_answered,
            self._expects_100_continue,
            keep_alive,
        )
        if last is None or last.response_complete:
            self._answer(cycle)
            return
        self.pipeline.append(cycle)
        if len(self.pipeline) >= PIPELINE_FULL:
            self.wire.crowd()

    def _answer(self, cycle: Cycle) -> None:
        self._answered = cycle
        answering = cycle.run(self.app, self.tasks)
        # Named: a number of its own would be written out for each.
        cycle.task = asyncio.Task(answering, loop=self.loop, name="request")
        self.tasks.add(cycle.task)

    def on_answered(self) -> None:
        """Go on with the next request, if it is there already."""
        self.server_state.total_requests += 1
        if self.wire.transport.is_closing():
            return
        if self.pipeline:
            following = self.pipeline.popleft()
            if not self.pipeline:
                self._ahead_bytes = 0
                self.wire.uncrowd()
            self._answer(following)
        else:
            self._quiet = True
        self.wire.resume_reading()

    def shutdown(self) -> None:
        """Close, once all is answered that was asked: the server stops."""
        if self.cycle is None or self.cycle.response_complete:
            self.wire.close()
        else:
            self.cycle.keep_alive = False

    # ── what is too much, or not for us ──────────────────────────────────────────────────────────

    def _count_headless(self) -> None:
        """Bound what is neither a whole head nor a body: the parser keeps it until it ends."""
        if self._moved:
            self._headless_bytes = 0
            # Some of it may be another request's: how much is known when the head is complete.
            self._begun_bytes = self._piece_bytes if self._in_head else 0
            return
        self._headless_bytes += self._piece_bytes
        if self._headless_bytes > self.bounds.headers_max_bytes:
            self._refuse(too_long(self._headless_bytes, self.bounds.headers_max_bytes))

    def _declines_upgrade(self) -> bool:
        """Return whether the request is to be read as usual; else it has been dealt with."""
        method, http_version = self.scope["method"], self.scope["http_version"]
        fields = self.scope["headers"]
        if not any(name == b"upgrade" for name, _ in fields):
            # No wish to leave out, or no longer, and still one: what follows a CONNECT is not HTTP.
            self._refuse(BadRequest("CONNECT is not answered: this server is not a proxy."))
            return False
        # While an answer is owed, the two protocols would write over each other.
        owed = self.cycle is not None and not self.cycle.response_complete
        if owed or not is_handshake(
            method, target=self.url, http_version=http_version, fields=fields
        ):
            return True
        self._hand_over()
        return False

    def _hand_over(self) -> None:
        """Leave the connection to uvicorn's protocol for WebSockets, from the handshake on."""
        self.sweep.discard(self)
        self.server_state.connections.discard(self)
        transport = self.wire.transport
        make: Any = self.config.ws_protocol_class
        protocol = make(
            config=self.config, server_state=self.server_state, app_state=self.app_state
        )
        protocol.connection_made(transport)
        if self.wire.write_paused:
            # It was told to us: the client has not read an answer before it.
            protocol.pause_writing()
        fields = [b"%b: %b\r\n" % field for field in self.scope["headers"]]
        protocol.data_received(b"GET %b HTTP/1.1\r\n%b\r\n" % (self.url, b"".join(fields)))
        transport.set_protocol(protocol)
        # It holds our methods: no cycle of the two.
        self.parser = None

    def _ask_again(self) -> bytes:
        """Return the head of the request as if it had not asked, for a parser of its own.

        The last one takes all that follows for another protocol, a body too. The new one alone
        says where bodies end.
        """
        self._new_parser()
        return head_without_upgrade(
            self.scope["method"],
            target=self.url,
            http_version=self.scope["http_version"],
            fields=self.scope["headers"],
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
        cycle = self.cycle
        # A word in the middle of an answer, or ahead of one, would be taken for it.
        if cycle is not None and not cycle.response_complete and self._in_head:
            self._hear_no_more(cycle)
            return
        self._refused = True
        if cycle is not None and not cycle.response_complete:
            if cycle.response_started or self.pipeline:
                self.wire.transport.abort()
                return
            # The application must not answer as well.
            cycle.disconnect()
        if cycle is None or self._in_head or not cycle.response_complete:
            self._say(error)
        # Else it was answered before the body that is refused had come: a second word would be
        # taken for the next request's.
        self._wait, self._since_s = "refused", self.loop.time()
        # Who still sends is heard until it reads: what comes is dropped.
        self.wire.uncrowd()
        self.wire.resume_reading()
        transport = self.wire.transport
        if transport.can_write_eof():
            # Closed while more comes, the socket would be reset, and the answer lost with it.
            transport.write_eof()
        else:
            transport.close()

    def _say(self, error: ApiError) -> None:
        """Answer in the place of the application, with what all its answers have."""
        body = orjson.dumps(error.envelope())
        number = secrets.token_hex(12).encode()
        fields = [b"%b: %b\r\n" % field for field in self.server_state.default_headers]
        head = b"x-request-id: req_%b\r\ncontent-length: %d\r\n\r\n" % (number, len(body))
        self.wire.write(STATUS_LINE[error.status] + b"".join(fields) + REFUSAL_FIELDS + head + body)

    def _hear_no_more(self, last: Cycle) -> None:
        """Close once all is answered up to ``last``, the request before what is not taken."""
        last.keep_alive = False
        self._deaf = True
        # What comes is dropped: left unread, it would have the system drop the answers.
        self.wire.uncrowd()
        self.wire.resume_reading()

    # ── what does not come, or does not go ───────────────────────────────────────────────────────

    def pause_writing(self) -> None:
        self.wire.pause_writing()

    def resume_writing(self) -> None:
        self._unread_since_s = None
        self.wire.resume_writing()

    def look(self, now: float) -> None:
        """End the connection if it has been in one state for too long; ``now`` is loop time."""
        if self._is_stalled(now):
            self.wire.transport.abort()
            return
        wait = self._waits_for()
        if wait != self._wait or (
            wait == "body" and self._body_bytes - self._mark_bytes >= BODY_PACE_BYTES
        ):
            self._wait, self._since_s, self._mark_bytes = wait, now, self._body_bytes
            return
        if wait is None:
            return
        waited_s = now - self._since_s
        if wait == "head":
            if waited_s >= self.bounds.headers_timeout_s:
                self._give_up_head()
        elif wait == "body":
            if waited_s >= self.bounds.idle_s:
                self._refuse(
                    RequestTimeout("The request's body stopped coming: send the request again.")
                )
        elif wait == "next":
            if waited_s >= self.bounds.keep_alive_s:
                self.wire.close()
        elif waited_s >= (LINGER_S if wait == "refused" else self.bounds.idle_s):
            self.wire.transport.abort()

    def _give_up_head(self) -> None:
        if not self._asked:
            # It never asked anything: a browser's spare connection, or a port scan.
            self.wire.close()
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
        if self._deaf or self.wire.read_paused or self.wire.transport.is_closing():
            return None
        if self._in_head:
            return "head"
        cycle = self.cycle
        if cycle is None or cycle.response_complete:
            return "next" if self._quiet else "rest"
        return "body" if cycle.more_body and not cycle.waiting_for_100_continue else None

    def _is_stalled(self, now: float) -> bool:
        unread_bytes = self.wire.transport.get_write_buffer_size()
        if not unread_bytes:
            self._unread_since_s = None
            return False
        # Not by how much less waits: a steady reader's place may be taken by as much.
        read_bytes = self.wire.written_bytes - unread_bytes
        since_s = self._unread_since_s
        if since_s is None or read_bytes - self._read_bytes >= READ_PACE_BYTES:
            self._unread_since_s, self._read_bytes = now, read_bytes
            return False
        return now - since_s >= self.bounds.idle_s


class Sweep:
    """All connections of one server; looks at each of them every ``every_s``, while there are any.

    Lives on the event loop of the first connection.
    """

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        self._open: set[HttpConnection] = set()
        self._sweeping = False

    def add(self, connection: HttpConnection, loop: asyncio.AbstractEventLoop) -> None:
        self._open.add(connection)
        if not self._sweeping:
            self._sweeping = True
            loop.call_later(self._every_s, self._look, loop)

    def discard(self, connection: HttpConnection) -> None:
        self._open.discard(connection)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        self._sweeping = bool(self._open)
        if self._sweeping:
            # First: whatever one connection may bring about, the others are looked at again.
            loop.call_later(self._every_s, self._look, loop)
        now = loop.time()
        for connection in tuple(self._open):
            connection.look(now)
