"""Binary messages past the queue: in order, in one piece, and for one socket alone."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Final

import pytest
import websockets
from starlette.types import ASGIApp, Receive, Scope, Send
from websockets.frames import Frame, Opcode

from orchestrator.settings import Settings
from orchestrator.transport.frames import FRAMES, FrameSocket
from orchestrator.transport.listen import public_server
from tests.servers import running

HANDSHAKE: Final = (
    b"GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
    b"sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


class Listener:
    """An app that keeps what each socket says, and says it again; ``bad`` breaks it.

    A ``late`` one listens only once something has come, and what came with it is queued.
    """

    def __init__(self, *, late: bool = False) -> None:
        self.heard: list[bytes | str] = []
        self._late = late

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        frames: FrameSocket = scope["extensions"][FRAMES]
        await receive()
        await send({"type": "websocket.accept"})

        def take(data: bytes) -> None:
            if data == b"bad":
                raise ValueError(data)
            self.heard.append(data)
            assert frames.write(data)

        message = await receive() if self._late else None
        frames.listen(take)
        try:
            while (message := message or await receive())["type"] != "websocket.disconnect":
                if message.get("bytes") is not None:
                    take(message["bytes"])
                else:
                    self.heard.append(message["text"])
                message = None
        finally:
            frames.listen(None)


@contextlib.asynccontextmanager
async def serving(app: ASGIApp) -> AsyncIterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        async with running(public_server(app, Settings.from_env({})), listener):
            async with asyncio.timeout(10):
                yield listener.getsockname()[1]


@contextlib.asynccontextmanager
async def open_socket(
    port: int,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Open a WebSocket whose frames the test writes itself."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(HANDSHAKE)
    await reader.readuntil(b"\r\n\r\n")
    try:
        yield reader, writer
    finally:
        writer.close()
        await writer.wait_closed()


def masked(opcode: Opcode, data: bytes, *, fin: bool = True) -> bytes:
    return Frame(opcode, data, fin).serialize(mask=True)


@pytest.mark.parametrize("size_bytes", [0, 1, 125, 126, 65_535, 65_536, 300_000])
async def test_messages_of_any_length_come_and_go_whole(size_bytes: int) -> None:
    app = Listener()
    async with serving(app) as port, websockets.connect(f"ws://127.0.0.1:{port}") as peer:
        for fill in (b"a", b"b"):
            await peer.send(fill * size_bytes)
            assert await peer.recv() == fill * size_bytes

    assert app.heard == [b"a" * size_bytes, b"b" * size_bytes]


async def test_messages_that_came_before_anybody_listened_come_first_and_pieces_are_joined() -> (
    None
):
    app = Listener(late=True)
    async with serving(app) as port, open_socket(port) as (reader, writer):
        writer.write(
            b"".join(masked(Opcode.BINARY, b"%d" % n) for n in range(3))
            + masked(Opcode.TEXT, b"words")
            + masked(Opcode.BINARY, b"3", fin=False)
        )
        await reader.readuntil(b"\x82\x012")
        writer.write(masked(Opcode.CONT, b"x") + masked(Opcode.BINARY, b"4"))
        await reader.readuntil(b"\x82\x014")

    assert app.heard == [b"0", b"1", b"2", "words", b"3x", b"4"]


async def test_a_binary_message_does_not_overtake_a_text() -> None:
    app = Listener()
    async with serving(app) as port, open_socket(port) as (reader, writer):
        writer.write(masked(Opcode.TEXT, b"first") + masked(Opcode.BINARY, b"second"))
        await reader.readuntil(b"second")

    assert app.heard == ["first", b"second"]


async def test_what_breaks_on_a_message_ends_its_socket_and_no_other(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = Listener()
    async with serving(app) as port, websockets.connect(f"ws://127.0.0.1:{port}") as well:
        async with websockets.connect(f"ws://127.0.0.1:{port}") as broken:
            await broken.send(b"bad")
            await broken.send(b"not heard")
            await broken.wait_closed()
            assert broken.close_code == 1006
        await well.send(b"fine")
        assert await well.recv() == b"fine"

    assert app.heard == [b"fine"]
    [fault] = [record.exc_info for record in caplog.records if record.levelname == "ERROR"]
    assert fault is not None
    assert isinstance(fault[1], ValueError)
