"""A server with a small app, and clients that say what they like, on real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from starlette.types import Receive, Scope, Send

from orchestrator.settings import Settings
from orchestrator.transport.http import HttpConnection
from orchestrator.transport.listen import Server, bind, public_server
from tests.servers import running


@dataclass
class Stage:
    """A server with a small app: what it was asked, and how its longer answers ended."""

    port: int
    server: Server | None = None
    paths: list[str] = field(default_factory=list)
    opening: asyncio.Event = field(default_factory=asyncio.Event)
    opened: asyncio.Event = field(default_factory=asyncio.Event)
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    released: asyncio.Event = field(default_factory=asyncio.Event)

    def connections(self) -> list[HttpConnection]:
        """Return the HTTP connections that are open."""
        assert self.server is not None
        found = self.server.server_state.connections
        return [one for one in found if isinstance(one, HttpConnection)]

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await receive()
            if scope["path"] == "/closed":
                await send({"type": "websocket.close"})
                return
            self.opening.set()
            await send({"type": "websocket.accept"})
            self.opened.set()
            while (message := await receive())["type"] == "websocket.receive":
                await send({"type": "websocket.send", "text": message["text"]})
            return
        self.paths.append(scope["path"])
        match scope["path"]:
            case "/early":
                await answer(send, b"early")
            case "/endless":
                await self._endless(receive, send, 65_536)
            case "/endless-file":
                await self._endless(receive, send, 1 << 20)
            case "/big":
                await answer(send, b"x" * (32 << 20))
                while (await receive())["type"] != "http.disconnect":
                    pass
                self.gone.set()
            case "/pieces":
                await pieces(send, b"one, ", b"", b"two, ", b"three")
            case "/broken":
                headers = [(b"content-length", b"9")]
                await send({"type": "http.response.start", "status": 200, "headers": headers})
                await send({"type": "http.response.body", "body": b"half", "more_body": True})
            case "/listen":
                await until_gone(receive)
                self.gone.set()
            case "/wait":
                await self.released.wait()
                await answer(send, b"waited")
            case _:
                await self._echo(receive, send)

    async def _echo(self, receive: Receive, send: Send) -> None:
        body = b""
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.gone.set()
                return
            body += message["body"]
            if not message["more_body"]:
                break
        await answer(send, body)

    async def _endless(self, receive: Receive, send: Send, piece_bytes: int) -> None:
        listening = asyncio.create_task(until_gone(receive))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while not listening.done():
            await send(
                {"type": "http.response.body", "body": b"x" * piece_bytes, "more_body": True}
            )
            await asyncio.sleep(0)
        self.gone.set()


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what the system does by itself, and tells nobody."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


async def until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def answer(send: Send, body: bytes) -> None:
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def pieces(send: Send, *parts: bytes) -> None:
    """Send an answer that does not say how long it is."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for part in parts:
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


@contextlib.asynccontextmanager
async def stage(
    *, idle_s: float = 60.0, keep_alive_s: float = 60.0, **overrides: object
) -> AsyncIterator[Stage]:
    settings = Settings.from_env({}, **overrides)
    with bind(Settings(host="127.0.0.1", port=0)) as listener:
        made = Stage(listener.getsockname()[1])

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await made.app(scope, receive, send)

        server = public_server(app, settings, idle_s=idle_s, keep_alive_s=keep_alive_s)
        made.server = server
        async with running(server, listener):
            try:
                async with asyncio.timeout(30):
                    yield made
            finally:
                made.released.set()


class Client:
    """A plain socket that says what it likes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self) -> tuple[bytes, bytes]:
        """Return the next answer's head and body."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        [length] = [
            int(line.split(b":")[1])
            for line in head.lower().split(b"\r\n")
            if line.startswith(b"content-length")
        ]
        return head, await self.reader.readexactly(length)

    async def ended(self) -> bool:
        """Wait until the server ends the connection; returns whether it said nothing more."""
        try:
            return await self.reader.read() == b""
        except ConnectionError:
            return True

    async def drip(self, piece: bytes, *, every_s: float = 0.01) -> None:
        """Send ``piece`` again and again until the server has had enough."""
        with contextlib.suppress(ConnectionError):
            while not (self.reader.at_eof() or self.writer.is_closing()):
                await self.send(piece)
                # Not a wait for anything: the pace of this client.
                await asyncio.sleep(every_s)


@contextlib.asynccontextmanager
async def client(at: Stage, *, receive_bytes: int | None = None) -> AsyncIterator[Client]:
    plain = socket.socket()
    if receive_bytes is not None:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    plain.connect(("127.0.0.1", at.port))
    limit = receive_bytes or 1 << 16
    reader, writer = await asyncio.open_connection(sock=plain, limit=limit)
    try:
        yield Client(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
