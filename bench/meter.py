"""A loopback proxy that counts what a browser really receives, whatever it has in its caches."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

_CHUNK: Final = 1 << 16


@dataclass
class Meter:
    """Bytes from the server to the browser: of HTTP answers, and of WebSockets."""

    port: int = 0
    http_bytes: int = 0
    socket_bytes: int = 0
    requests: int = 0

    def reset(self) -> None:
        self.http_bytes = self.socket_bytes = self.requests = 0


@contextlib.contextmanager
def metering(server_port: int) -> Iterator[Meter]:
    """Run a proxy in front of ``server_port`` in a thread of its own."""
    meter = Meter()
    loop = asyncio.new_event_loop()
    started = threading.Event()
    thread = threading.Thread(target=_run, args=(loop, meter, server_port, started), daemon=True)
    thread.start()
    started.wait(10)
    try:
        yield meter
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)


def _run(
    loop: asyncio.AbstractEventLoop, meter: Meter, server_port: int, started: threading.Event
) -> None:
    asyncio.set_event_loop(loop)

    async def start() -> asyncio.Server:
        return await asyncio.start_server(
            lambda reader, writer: _pass_on(reader, writer, meter, server_port), "127.0.0.1", 0
        )

    server = loop.run_until_complete(start())
    meter.port = server.sockets[0].getsockname()[1]
    started.set()
    loop.run_forever()
    server.close()
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()


async def _pass_on(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, meter: Meter, server_port: int
) -> None:
    """Connect one browser connection with the server until either end closes."""
    there, back = await asyncio.open_connection("127.0.0.1", server_port)
    is_socket = False

    async def up() -> None:
        nonlocal is_socket
        while data := await reader.read(_CHUNK):
            # A browser does not pipeline: each request begins a piece of its own.
            meter.requests += data.startswith((b"GET ", b"POST ", b"HEAD "))
            is_socket = is_socket or b"\r\nupgrade: websocket" in data.lower()
            back.write(data)
            await back.drain()

    async def down() -> None:
        while data := await there.read(_CHUNK):
            if is_socket:
                meter.socket_bytes += len(data)
            else:
                meter.http_bytes += len(data)
            writer.write(data)
            await writer.drain()

    tasks = [asyncio.ensure_future(up()), asyncio.ensure_future(down())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        for end in (writer, back):
            end.close()
        await asyncio.gather(*tasks, return_exceptions=True)
