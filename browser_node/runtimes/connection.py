"""One WebSocket from dialling to closing: frames become events and back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from browser_node import session_events as ev
from browser_node.protocol import (
    CloseCode,
    Frame,
    ProtocolError,
    decode_from_orchestrator,
    encode,
)
from browser_node.runtimes.seams import Network, NetworkError, Socket, SocketClosed

# How long a closing connection may take to send what is queued before it is cut.
CLOSE_TIMEOUT_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class _Close:
    code: int
    reason: str


class Connection:
    """Runs as one task; after `end` it tells nothing more.

    ``on_event`` may raise `ProtocolError` for a frame out of order: the connection is then closed
    with that error's code.
    """

    TASK_NAME: Final = "connection"

    def __init__(self, network: Network, path: str, on_event: Callable[[ev.Event], None]) -> None:
        self._network = network
        self._path = path
        self._on_event = on_event
        self._outbox: asyncio.Queue[bytes | _Close] = asyncio.Queue()
        self._ended = False
        self._dialled = False
        self.task = asyncio.create_task(self._run(), name=self.TASK_NAME)

    def send(self, frame: Frame) -> None:
        """Queue ``frame``; the session bounds how much there can be."""
        self._outbox.put_nowait(encode(frame))

    def end(self, code: int, reason: str) -> None:
        """Send what is queued, close, and tell nothing more."""
        self._ended = True
        self._outbox.put_nowait(_Close(code, reason))
        if self._dialled:
            asyncio.get_running_loop().call_later(CLOSE_TIMEOUT_S, self.task.cancel)
        else:
            self.task.cancel()

    async def _run(self) -> None:
        try:
            socket = await self._network.connect(self._path)
        except NetworkError as error:
            self._tell(ev.SetupFailed(str(error)))
            return
        self._dialled = True
        writer = asyncio.create_task(self._write(socket))
        try:
            await self._read(socket)
        except SocketClosed as closed:
            self._tell(ev.Closed(closed.code, closed.reason))
        finally:
            writer.cancel()
            await socket.close(CloseCode.GOING_AWAY, "")

    async def _read(self, socket: Socket) -> None:
        self._tell(ev.Opened())
        while True:
            message = await socket.receive()
            try:
                self._tell(ev.Received(decode_from_orchestrator(message)))
            except ProtocolError as error:
                reason = str(error)[:100]
                self._tell(ev.Closed(error.close_code, reason))
                self.end(error.close_code, reason)

    async def _write(self, socket: Socket) -> None:
        try:
            while True:
                item = await self._outbox.get()
                if isinstance(item, _Close):
                    await socket.close(item.code, item.reason)
                    return
                await socket.send(item)
        except SocketClosed:
            # The reader sees it too, with the peer's code, and tells it.
            return

    def _tell(self, event: ev.Event) -> None:
        if not self._ended:
            self._on_event(event)
