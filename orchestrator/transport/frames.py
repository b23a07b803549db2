"""uvicorn's WebSocket protocol with a short way, past its queue and tasks, for binary messages.

The short way is an extension of ASGI: ``scope["extensions"][FRAMES]`` is the `FrameSocket`. What
does not go the short way goes the long one, `receive` and `send`, in the same order.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Final

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.http11 import Request
from websockets.protocol import State

FRAMES: Final = "zerogpu.frames"

_FAULT: Final = "zerogpu.fault"
# The first byte of an unfragmented binary message (RFC 6455 §5.2).
_BINARY: Final = 0x82


class FrameSocket(WebSocketsSansIOProtocol):
    """One WebSocket. What `listen`'s function raises ends it, as if the application had."""

    _take: Callable[[bytes], None] | None = None

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if self.response.status_code == 101:
            self.scope["extensions"][FRAMES] = self  # type: ignore[assignment]

    # ── what comes ───────────────────────────────────────────────────────────────────────────────

    def listen(self, take: Callable[[bytes], None] | None) -> None:
        """Give binary messages to ``take`` as they come, but those that `receive` still owes."""
        self._take = take

    def send_receive_event_to_app(self) -> None:
        take = self._take
        if (
            take is None
            or self.curr_msg_data_type != "bytes"
            or self.close_sent
            or not self.queue.empty()
        ):
            super().send_receive_event_to_app()
            return
        pieces, self.frames = self.frames, []
        try:
            take(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        except Exception as error:
            # What comes later stays behind it, in the queue.
            self.queue.put_nowait({"type": _FAULT, "error": error})  # type: ignore[arg-type]

    async def receive(self) -> Any:
        message: Any = await super().receive()
        if message["type"] == _FAULT:
            raise message["error"]
        return message

    # ── what goes ────────────────────────────────────────────────────────────────────────────────

    def write(self, data: bytes) -> bool:
        """Send a binary message if that can be done at once; else it has to be awaited: `send`."""
        if (
            self.conn.state is not State.OPEN
            or self.conn.extensions
            or not self.writable.is_set()
            or self.transport.is_closing()
        ):
            return False
        self.transport.write(_head(len(data)) + data)
        return True


def _head(size_bytes: int) -> bytes:
    """Return the head of a binary message in one frame without a mask."""
    if size_bytes < 126:
        return bytes((_BINARY, size_bytes))
    if size_bytes < 1 << 16:
        return struct.pack("!BBH", _BINARY, 126, size_bytes)
    return struct.pack("!BBQ", _BINARY, 127, size_bytes)
