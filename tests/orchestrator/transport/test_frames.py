"""Binary messages past the queue: in order, in one piece, and for one socket alone."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from collections.abc import AsyncIterator
from typing import Final

import pytest
import websockets
from starlette.types import ASGIApp, Receive, Scope, Send
from websockets.frames import Frame, Opcode

from browser_node.protocol import MAX_FRAME_BYTES
from orchestrator.settings import Settings
from orchestrator.transport.frames import FRAMES, FrameSocket
from orchestrator.transport.listen import public_server
from tests.servers import running

HANDSHAKE: Final = (
    b"GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
    b"sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


class Listener:
    """An app that keeps what each socket says, and says it again.

    ``bad`` breaks it, ``close`` ends it. A ``quiet`` one says only "the end" again. A ``late`` one
    listens only once something has come, and what came with it is queued.
    """

    def __init__(self, *, late: bool = False, quiet: bool = False) -> None:
        self.heard: list[bytes | str] = []
        self._late = late
        self._quiet = quiet

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        frames: FrameSocket = scope["extensions"][FRAMES]
        await receive()
        await send({"type": "websocket.accept"})

        def take(data: bytes) -> None:
            if data == b"bad":
                raise ValueError(data)
            if data == b"close":
                self._closing = asyncio.ensure_future(send({"type": "websocket.close"}))
                return
            self.heard.append(data)
            assert (self._quiet and data != b"the end") or frames.write(data)

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


@pytest.mark.parametrize("seed", range(8))
async def test_however_the_network_cuts_them_messages_come_whole_and_in_order(
    monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    rng = random.Random(seed)
    received = FrameSocket.data_received

    def cut(self: FrameSocket, data: bytes) -> None:
        while data:
            size = rng.choice([1, 2, 5, 6, 7, 13, 14, 200, 70_000, len(data)])
            received(self, data[:size])
            data = data[size:]

    monkeypatch.setattr(FrameSocket, "data_received", cut)
    sent: list[bytes | str] = []
    frames: list[bytes] = []
    for number in range(60):
        size = rng.choice([0, 1, 124, 125, 126, 127, 5_000, 65_535, 65_536])
        message = rng.randbytes(size) + b"%d" % number
        kind = rng.randrange(6)
        if kind == 0:
            sent.append(f"text {number}")
            frames.append(masked(Opcode.TEXT, f"text {number}".encode()))
        elif kind == 1:
            middle = rng.randrange(len(message) + 1)
            sent.append(message)
            frames.append(masked(Opcode.BINARY, message[:middle], fin=False))
            frames.append(masked(Opcode.PING, b""))
            frames.append(masked(Opcode.CONT, message[middle:]))
        else:
            sent.append(message)
            frames.append(masked(Opcode.BINARY, message))
    app = Listener(quiet=True)
    async with serving(app) as port, open_socket(port) as (reader, writer):
        writer.write(b"".join([*frames, masked(Opcode.BINARY, b"the end")]))
        await reader.readuntil(b"the end")

    assert app.heard == [*sent, b"the end"]


def arriving_as(monkeypatch: pytest.MonkeyPatch, *pieces: bytes) -> bytes:
    """Have the network deliver exactly these pieces, behind the handshake; returns all of them."""
    received, sizes, held = FrameSocket.data_received, list(map(len, pieces)), bytearray()

    def deliver(self: FrameSocket, data: bytes) -> None:
        if data.startswith(b"GET "):
            received(self, data)
            return
        held.extend(data)
        while sizes and len(held) >= sizes[0]:
            received(self, bytes(held[: sizes[0]]))
            del held[: sizes.pop(0)]

    monkeypatch.setattr(FrameSocket, "data_received", deliver)
    return b"".join(pieces)


async def test_what_comes_behind_our_close_is_not_heard() -> None:
    app = Listener()
    async with serving(app) as port, open_socket(port) as (reader, writer):
        writer.write(masked(Opcode.BINARY, b"close"))
        assert (await reader.readexactly(1)) == b"\x88"
        writer.write(masked(Opcode.BINARY, b"late") + masked(Opcode.CLOSE, b""))
        await reader.read()

    assert app.heard == []


async def test_what_looks_like_a_frame_in_the_middle_of_one_is_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    frame = masked(Opcode.BINARY, b"not a message")
    # Under a mask of zeros the payload stands there as it is.
    head = bytes((0x82, 0x80 | len(frame))) + bytes(4)
    raw = arriving_as(monkeypatch, head, frame, masked(Opcode.BINARY, b"the end"))
    app = Listener(quiet=True)
    async with serving(app) as port, open_socket(port) as (reader, writer):
        writer.write(raw)
        await reader.readuntil(b"the end")

    assert app.heard == [frame, b"the end"]


@pytest.mark.parametrize(
    ("pieces", "code"),
    [
        ((masked(Opcode.BINARY, b"x", fin=False), masked(Opcode.BINARY, b"y")), 1002),
        ((masked(Opcode.BINARY, bytes(MAX_FRAME_BYTES + 1)),), 1009),
    ],
    ids=["a message in another", "too long, in one piece"],
)
async def test_what_is_forbidden_is_refused_also_where_it_comes_whole(
    monkeypatch: pytest.MonkeyPatch, pieces: tuple[bytes, ...], code: int
) -> None:
    raw = arriving_as(monkeypatch, *pieces)
    app = Listener()
    async with serving(app) as port, open_socket(port) as (reader, writer):
        writer.write(raw)
        closing = await reader.readexactly(4)

    assert closing[0] == 0x88
    assert int.from_bytes(closing[2:4]) == code
    assert app.heard == []


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (b"\x82\x05hello", 1002),
        (b"\xc2" + masked(Opcode.BINARY, b"x")[1:], 1002),
        (b"\x82\xff" + (MAX_FRAME_BYTES + 1).to_bytes(8) + b"mask", 1009),
        (b"\x82\xff" + b"\xff" * 8 + b"mask", 1009),
    ],
    ids=["not masked", "a reserved bit", "too long", "far too long"],
)
async def test_what_the_protocol_forbids_is_refused_as_ever(frame: bytes, code: int) -> None:
    app = Listener()
    async with serving(app) as port, open_socket(port) as (reader, writer):
        writer.write(masked(Opcode.BINARY, b"fine") + frame)
        await reader.readuntil(b"fine")
        closing = await reader.readexactly(4)

    assert closing[0] == 0x88
    assert int.from_bytes(closing[2:4]) == code
    assert app.heard == [b"fine"]


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
