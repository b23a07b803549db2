"""How the pieces of a streamed answer share writes, seen from where the server takes them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from starlette.types import Message

from orchestrator.api.streaming import GATHER_BYTES, send_stream


class Wire:
    """What was asked to be written, and what was: while ``open`` is not set, a write waits."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []
        self.bodies: list[bytes] = []
        self.ended = False
        self.came = asyncio.Condition()
        self.open = asyncio.Event()
        self.open.set()

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            return
        self.asked.append(message["body"])
        async with self.came:
            self.came.notify_all()
        await self.open.wait()
        self.bodies.append(message["body"])
        self.ended = not message.get("more_body", False)

    async def was_asked(self, *bodies: bytes) -> None:
        async with self.came:
            await self.came.wait_for(lambda: self.asked == [*bodies])


async def test_what_comes_at_once_shares_a_write_behind_the_first_piece() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for number in range(500):
            yield b"%d," % number

    wire = Wire()
    await send_stream(wire.send, 200, pieces(), [])

    rest = b"".join(b"%d," % number for number in range(1, 500))
    assert wire.bodies == [b"0,", rest]
    assert wire.ended


async def test_no_piece_waits_for_the_next_one() -> None:
    wire = Wire()

    async def pieces() -> AsyncIterator[bytes]:
        yield b"a"
        await wire.was_asked(b"a")
        yield b"b"
        yield b"c"
        await wire.was_asked(b"a", b"bc")
        yield b"d"
        await wire.was_asked(b"a", b"bc", b"d")

    await send_stream(wire.send, 200, pieces(), [])

    assert wire.bodies == [b"a", b"bc", b"d", b""]


async def test_what_came_before_an_error_is_written() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"a"
        yield b"b"
        raise OSError("the disk is gone")

    wire = Wire()
    with pytest.raises(OSError, match="the disk is gone"):
        await send_stream(wire.send, 200, pieces(), [])

    assert wire.bodies == [b"a", b"b"]
    assert not wire.ended


async def test_a_client_that_does_not_read_stops_the_source() -> None:
    wire = Wire()
    taken = 0

    async def pieces() -> AsyncIterator[bytes]:
        nonlocal taken
        for _ in range(10_000):
            taken += 1
            yield b"x" * 1024
            if taken == 1:
                wire.open.clear()

    sending = asyncio.create_task(send_stream(wire.send, 200, pieces(), []))
    await wire.was_asked(b"x" * 1024, b"x" * GATHER_BYTES)

    assert taken == 1 + GATHER_BYTES // 1024
    wire.open.set()
    await sending
    assert sum(map(len, wire.bodies)) == 10_000 * 1024


async def test_pieces_keep_their_order_behind_a_write_that_takes_long() -> None:
    wire = Wire()
    meanwhile: list[bytes] = []

    def go_on() -> None:
        meanwhile.extend(wire.asked)
        wire.open.set()

    async def pieces() -> AsyncIterator[bytes]:
        yield b"a"
        wire.open.clear()
        yield b"b"
        await wire.was_asked(b"a", b"b")
        yield b"c"
        asyncio.get_running_loop().call_soon(go_on)

    await send_stream(wire.send, 200, pieces(), [])

    assert meanwhile == [b"a", b"b"]
    assert wire.bodies == [b"a", b"b", b"c"]


async def test_a_client_that_leaves_leaves_nothing_running() -> None:
    wire = Wire()

    async def pieces() -> AsyncIterator[bytes]:
        yield b"a"
        wire.open.clear()
        yield b"b"
        await asyncio.Event().wait()

    before = asyncio.all_tasks()
    sending = asyncio.create_task(send_stream(wire.send, 200, pieces(), []))
    await wire.was_asked(b"a", b"b")
    left = asyncio.all_tasks() - before
    sending.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await sending
    await asyncio.wait(left)

    assert len(left) == 2
    assert wire.bodies == [b"a"]
