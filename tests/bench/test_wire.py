"""The stub's WebSocket, held to the websockets library."""

from __future__ import annotations

import asyncio

import pytest
import websockets

from bench.wire import Wire, split_frame


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536, 200_000])
async def test_messages_of_every_size_come_back_from_an_echo(size: int) -> None:
    payload = bytes(range(256)) * (size // 256) + bytes(size % 256)
    received: asyncio.Queue[bytes] = asyncio.Queue()

    async def echo(socket: websockets.ServerConnection) -> None:
        async for message in socket:
            await socket.send(message)

    async with websockets.serve(
        echo, "127.0.0.1", 0, subprotocols=[websockets.Subprotocol("zerogpu.node.v1")]
    ) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        wire = Wire("/", {"host": "127.0.0.1"}, received.put_nowait)
        await asyncio.get_running_loop().create_connection(lambda: wire, "127.0.0.1", port)
        await wire.opened
        wire.send(payload)

        assert await asyncio.wait_for(received.get(), 5) == payload
        wire.drop()
        await asyncio.wait_for(wire.closed.wait(), 5)


async def test_a_refused_upgrade_is_told() -> None:
    async def refuse(
        socket: websockets.ServerConnection, request: websockets.Request
    ) -> websockets.Response:
        return socket.respond(403, "no\n")

    async def unused(socket: websockets.ServerConnection) -> None:
        raise AssertionError("nobody gets in")

    async with websockets.serve(unused, "127.0.0.1", 0, process_request=refuse) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        wire = Wire("/", {"host": "127.0.0.1"}, lambda _: None)
        await asyncio.get_running_loop().create_connection(lambda: wire, "127.0.0.1", port)

        with pytest.raises(ConnectionError, match="403"):
            await wire.opened


def test_half_a_frame_stays_in_the_buffer() -> None:
    whole = bytes((0x82, 3)) + b"abc"
    buffer = bytearray(whole[:4])

    assert split_frame(buffer) is None
    buffer += whole[4:] + b"\x82"
    assert split_frame(buffer) == (0x82, b"abc")
    assert buffer == b"\x82"
