"""Sends an answer piece by piece; pieces that come faster than anybody reads share a write.

A write costs more than all else that is done for an event. The first piece goes out at once, and so
does any that comes `GATHER_S` after the last write; what comes sooner waits until then, or until
the answer ends. Events stay one a piece: only the calls to the system are fewer.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Final

from starlette.types import Send

from orchestrator.api.asgi import Header

# 200 writes a second: beyond what an eye, a terminal or a speech synthesiser can tell apart.
GATHER_S: Final = 0.005
GATHER_BYTES: Final = 16 << 10


async def send_stream(
    send: Send,
    status: int,
    pieces: AsyncIterator[bytes],
    headers: Sequence[Header],
) -> None:
    """Send an answer piece by piece; raises what ``pieces`` raises, the connection then broken."""
    await send({"type": "http.response.start", "status": status, "headers": headers})
    writes = _Writes(send)
    try:
        async for piece in pieces:
            if writes.hold(piece):
                await writes.flush()
        await writes.end()
    except Exception:
        # What came before it went wrong is as good as ever.
        await writes.flush()
        raise
    finally:
        writes.stop()


class _Writes:
    """What of one answer waits to be written.

    resting --(hold)--> a write --> waiting --(`GATHER_S`)--> a write if something is held, else
    resting
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        # A write that the timer began; it takes as long as the client takes to read.
        self._writing: asyncio.Task[None] | None = None

    def hold(self, piece: bytes) -> bool:
        """Take a piece; returns whether it is time to `flush`."""
        self._held.append(piece)
        self._held_bytes += len(piece)
        return self._held_bytes >= GATHER_BYTES or (self._timer is None and self._writing is None)

    async def flush(self) -> None:
        """Write what is held, behind what is being written."""
        await self._settle()
        if self._held:
            await self._write()
            self._timer = self._loop.call_later(GATHER_S, self._due)

    async def end(self) -> None:
        """Write what is held, and that this was all."""
        await self._settle()
        await self._send({"type": "http.response.body", "body": self._take()})

    def stop(self) -> None:
        """Write nothing more."""
        self._rest()
        if self._writing is not None:
            self._writing.cancel()

    async def _settle(self) -> None:
        if self._writing is not None:
            await self._writing
            self._writing = None
        self._rest()

    def _rest(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _due(self) -> None:
        self._timer = None
        if self._held:
            self._writing = self._loop.create_task(self._write_due())

    async def _write_due(self) -> None:
        await self._write()
        self._writing = None
        self._timer = self._loop.call_later(GATHER_S, self._due)

    async def _write(self) -> None:
        body = self._take()
        await self._send({"type": "http.response.body", "body": body, "more_body": True})

    def _take(self) -> bytes:
        body = b"".join(self._held)
        self._held.clear()
        self._held_bytes = 0
        return body
