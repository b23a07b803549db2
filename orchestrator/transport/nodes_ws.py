"""The nodes' sockets: one ASGI callable between WebSocket messages and the engine.

Each socket has a bounded outbound queue, and a writer of its own for what cannot be written at
once; a node that stops reading is closed, and nobody waits for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hmac
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import structlog
from starlette.types import Receive, Scope, Send

from browser_node import protocol as p
from browser_node.models import Manifest
from browser_node.protocol import CloseCode, ModelDigest, NodeId
from orchestrator.domain.model import NOWHERE, Location
from orchestrator.domain.node_session import Admission, Admit, Agree, NodeSession, frames_of
from orchestrator.domain.references import References
from orchestrator.engine import Connection, Engine
from orchestrator.transport.caps import SocketCaps
from orchestrator.transport.frames import FRAMES, FrameSocket

# Enough for two windows of the longest inputs; more means that the node does not read.
MAX_QUEUED_BYTES: Final = 8 << 20
CLOSE_GRACE_S: Final = 2.0

log = structlog.get_logger("nodes")


class Outbox:
    """The sending half of a socket: `send` and `hand` never wait.

    What they queue is written a turn of the loop later: by ``write_now``, or by the writer task
    where that returns False. Jobs are packed then: what was handed over until then shares a frame,
    and so, mostly, do the answers.
    """

    __slots__ = (
        "_flushing",
        "_frames",
        "_items",
        "_items_bytes",
        "_loop",
        "_on_close",
        "_queued_bytes",
        "_wake",
        "_write_now",
        "_writing",
        "closing",
    )

    def __init__(
        self, on_close: Callable[[str], None], *, write_now: Callable[[bytes], bool]
    ) -> None:
        self._on_close = on_close
        self._write_now = write_now
        self._frames: deque[bytes] = deque()
        self._items: list[p.JobItem] = []
        self._items_bytes = 0
        self._queued_bytes = 0
        self._flushing = False
        # While the writer waits with a frame in its hands, nothing may go ahead of that.
        self._writing = False
        self._loop = asyncio.get_running_loop()
        # Not an event: those of idle sockets, which never wait for it, would take 1 kB each.
        self._wake = self._loop.create_future()
        self.closing: tuple[CloseCode, str] | None = None

    def send(self, data: bytes) -> None:
        """Queue a frame, behind the jobs handed over before it."""
        if self.closing is not None:
            return
        if self._items:
            self._pack()
        self._frames.append(data)
        self._queued(len(data))

    def hand(self, items: Sequence[p.JobItem]) -> None:
        """Queue jobs."""
        if self.closing is not None:
            return
        self._items += items
        size_bytes = sum([len(item.input) for item in items])
        self._items_bytes += size_bytes
        self._queued(size_bytes)

    def _queued(self, size_bytes: int) -> None:
        self._queued_bytes += size_bytes
        if self._queued_bytes > MAX_QUEUED_BYTES:
            self._frames.clear()
            self._items.clear()
            self.close(CloseCode.SLOW_READER, f"{self._queued_bytes} bytes are waiting to be read")
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        if self._writing:
            return
        while self._frames or self._items:
            if not self._frames:
                self._pack()
            if not self._write_now(self._frames[0]):
                self._wake_writer()
                return
            self._queued_bytes -= len(self._frames.popleft())

    def _pack(self) -> None:
        frames = [p.encode_jobs(frame) for frame in frames_of(self._items)]
        self._items.clear()
        self._frames += frames
        self._queued_bytes += sum(map(len, frames)) - self._items_bytes
        self._items_bytes = 0

    def close(self, code: CloseCode, reason: str) -> None:
        if self.closing is None:
            self.closing = (code, reason)
            self._wake_writer()
            self._on_close(reason)

    def _wake_writer(self) -> None:
        if not self._wake.done():
            self._wake.set_result(None)

    async def write(self, send: Send) -> None:
        """Send what is queued until the socket is to be closed, then close it."""
        while True:
            await self._wake
            self._wake = self._loop.create_future()
            self._writing = True
            while self._frames or self._items:
                if not self._frames:
                    self._pack()
                data = self._frames.popleft()
                await send({"type": "websocket.send", "bytes": data})
                self._queued_bytes -= len(data)
            self._writing = False
            if self.closing is not None:
                code, reason = self.closing
                # A close frame's reason holds 123 bytes (RFC 6455 §5.5).
                short = reason.encode()[:120].decode(errors="ignore")
                await send({"type": "websocket.close", "code": int(code), "reason": short})
                return


class NodeSocket:
    """ASGI app for one WebSocket path; ``trusted`` sockets belong to the CPU worker."""

    def __init__(
        self,
        *,
        engine: Engine,
        models: Mapping[ModelDigest, Manifest],
        references: References,
        agree: Agree,
        admit: Admit,
        caps: SocketCaps,
        allowed: Callable[[Scope], bool],
        release: Callable[[NodeId], None] = lambda _: None,
        locate: Callable[[str], Location] = lambda _: NOWHERE,
        trusted: bool = False,
        hello_timeout_s: float = p.HELLO_TIMEOUT_S,
    ) -> None:
        self._engine = engine
        self._models = models
        self._references = references
        self._agree = agree
        self._admit = admit
        self._caps = caps
        self._allowed = allowed
        self._release = release
        self._locate = locate
        self._trusted = trusted
        self._hello_timeout_s = hello_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        message = await receive()
        if message["type"] != "websocket.connect":
            return
        if not self._allowed(scope):
            await self._refuse(send, CloseCode.BAD_ORIGIN, "this origin may not connect")
            return
        client = scope.get("client")
        address: str = client[0] if client else "local"
        place = self._caps.enter(address)
        if place is None:
            await self._refuse(send, CloseCode.TOO_MANY, "too many sockets")
            return
        try:
            chosen = p.SUBPROTOCOL if p.SUBPROTOCOL in scope.get("subprotocols", ()) else None
            await send({"type": "websocket.accept", "subprotocol": chosen})
            with self._admitting() as admit:
                # The address ends here: the session learns a salted hash and a coarse place.
                session = NodeSession(
                    trusted=self._trusted,
                    admit=admit,
                    models=self._models,
                    references=self._references,
                    agree=self._agree,
                    network=self._caps.network(address),
                    location=self._locate(address),
                )
                welcome = functools.partial(self._caps.welcome, place)
                frames: FrameSocket = scope["extensions"][FRAMES]
                await self._serve(receive, send, frames, session, welcome)
        finally:
            self._caps.leave(place)

    @contextlib.contextmanager
    def _admitting(self) -> Iterator[Admit]:
        """Yield what judges one socket's hello; whom it admits is released when the socket ends."""
        admitted: list[NodeId] = []

        def admit(hello: p.Hello) -> Admission:
            admission = self._admit(hello)
            admitted.append(admission.node_id)
            return admission

        try:
            yield admit
        finally:
            for node_id in admitted:
                self._release(node_id)

    async def _refuse(self, send: Send, code: CloseCode, reason: str) -> None:
        # Accepted first: only an open WebSocket can be told why it is closed.
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.close", "code": int(code), "reason": reason})

    async def _serve(
        self,
        receive: Receive,
        send: Send,
        frames: FrameSocket,
        session: NodeSession,
        welcome: Callable[[], None],
    ) -> None:
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        graces: list[asyncio.TimerHandle] = []

        def closing(reason: str) -> None:
            # The engine hears of it at once; the peer has a moment to read the close frame. One
            # that reads nothing more would keep this task, and its place, for as long as it likes.
            loop.call_soon(self._engine.disconnected, connection, reason)
            if task is not None:
                graces.append(loop.call_later(CLOSE_GRACE_S, task.cancel))

        def take(data: bytes) -> None:
            self._engine.receive(connection, data)
            if session.state == "serving":
                deadline.cancel()
                welcome()

        outbox = Outbox(closing, write_now=frames.write)
        connection = Connection(session, outbox)
        writer = asyncio.create_task(self._write(outbox, send))
        deadline = loop.call_later(
            self._hello_timeout_s,
            outbox.close,
            CloseCode.TIMEOUT,
            f"no hello within {self._hello_timeout_s:g} s",
        )
        reason = "connection closed"
        frames.listen(take)
        try:
            while True:
                message: Mapping[str, Any] = await receive()
                if message["type"] == "websocket.disconnect":
                    code = message.get("code", 1005)
                    reason = message.get("reason") or f"connection closed ({code})"
                    break
                data = message.get("bytes")
                if data is None:
                    outbox.close(CloseCode.BAD_FRAME, "frames are binary, not text")
                    continue
                take(data)
        except asyncio.CancelledError:
            if outbox.closing is None:
                raise
            reason = outbox.closing[1]
        finally:
            frames.listen(None)
            deadline.cancel()
            for grace in graces:
                grace.cancel()
            writer.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await writer
            self._engine.disconnected(connection, reason)

    async def _write(self, outbox: Outbox, send: Send) -> None:
        try:
            await outbox.write(send)
        except (OSError, RuntimeError) as error:
            # The socket went away under the writer; the reader sees the disconnect.
            log.debug("write ended", error=type(error).__name__)


def bearer_check(secret: str) -> Callable[[Scope], bool]:
    """Return a check that a request carries ``secret`` as its bearer token."""
    expected = f"Bearer {secret}".encode()

    def allowed(scope: Scope) -> bool:
        return any(
            name == b"authorization" and hmac.compare_digest(value, expected)
            for name, value in scope["headers"]
        )

    return allowed
