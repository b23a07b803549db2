"""uvicorn's WebSocket protocol with a short way, past its queue and tasks, for binary messages.

The short way is an extension of ASGI: ``scope["extensions"][FRAMES]`` is the `FrameSocket`. What
does not go the short way goes the long one, `receive` and `send`, in the same order. A message that
comes in one piece, as nearly all do, also goes past the parser, which copies it four times.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Final

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.http11 import Request
from websockets.protocol import State
from websockets.streams import StreamReader

from browser_node.protocol import MAX_FRAME_BYTES

try:
    from websockets.speedups import apply_mask
except ImportError:
    from websockets.utils import apply_mask

FRAMES: Final = "zerogpu.frames"

_FAULT: Final = "zerogpu.fault"
# The first byte of an unfragmented binary message, and of the second the bit that says that it is
# masked (RFC 6455 §5.2).
_BINARY: Final = 0x82
_MASKED: Final = 0x80
# Where websockets' parser waits for a frame's first byte.
_AT_A_FRAME: Final = StreamReader.at_eof.__code__
# What a masked frame has at least: two bytes and the mask.
_LEAST_BYTES: Final = 6


class FrameSocket(WebSocketsSansIOProtocol):
    """One WebSocket. What `listen`'s function raises ends it, as if the application had."""

    _take: Callable[[bytes], None] | None = None

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if self.response.status_code == 101:
            self.scope["extensions"][FRAMES] = self  # type: ignore[assignment]

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        # Nothing more is read. The parser's frame holds what has the parser, and the scope this:
        # no cycle of either, as they hold the head of the request, too.
        self.conn.parser.close()
        # A handshake that was none has no scope.
        if hasattr(self, "scope"):
            self.scope["extensions"].pop(FRAMES, None)

    # ── what comes ───────────────────────────────────────────────────────────────────────────────

    def listen(self, take: Callable[[bytes], None] | None) -> None:
        """Give binary messages to ``take`` as they come, but those that `receive` still owes."""
        self._take = take

    def data_received(self, data: bytes) -> None:
        at = 0
        # Taking a message may end all this: looked at anew for each.
        while (
            (take := self._take) is not None
            and self._is_between_messages()
            and (found := _whole(data, at)) is not None
        ):
            start, at = found
            self._give(take, apply_mask(data[start:at], data[start - 4 : start]))
        if at < len(data):
            super().data_received(data[at:] if at else data)

    def _is_between_messages(self) -> bool:
        """Whether a message may begin, and would be taken at once: behind a close, none would."""
        return (
            _waits_for_a_frame(self.conn.parser)
            and self.conn.current_size is None
            and self.queue.empty()
        )

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
        self._give(take, pieces[0] if len(pieces) == 1 else b"".join(pieces))

    def _give(self, take: Callable[[bytes], None], message: bytes) -> None:
        try:
            take(message)
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


def _waits_for_a_frame(parser: Any) -> bool:
    """Whether nothing was read of the next frame: nobody but the generator itself knows that."""
    while (inner := parser.gi_yieldfrom) is not None:
        parser = inner
    return bool(parser.gi_code is _AT_A_FRAME)


def _whole(data: bytes, at: int) -> tuple[int, int] | None:
    """Return where the payload of a masked binary message begins and ends that begins ``at``.

    None for any other frame, one that is not whole, and one that is too long to be taken.
    """
    if len(data) - at < _LEAST_BYTES or data[at] != _BINARY or data[at + 1] < _MASKED:
        return None
    size_bytes, start = data[at + 1] - _MASKED, at + _LEAST_BYTES
    if size_bytes == 126:
        size_bytes, start = int.from_bytes(data[at + 2 : at + 4]), start + 2
    elif size_bytes == 127:
        size_bytes, start = int.from_bytes(data[at + 2 : at + 10]), start + 8
    end = start + size_bytes
    return (start, end) if end <= len(data) and size_bytes <= MAX_FRAME_BYTES else None


def _head(size_bytes: int) -> bytes:
    """Return the head of a binary message in one frame without a mask."""
    if size_bytes < 126:
        return bytes((_BINARY, size_bytes))
    if size_bytes < 1 << 16:
        return struct.pack("!BBH", _BINARY, 126, size_bytes)
    return struct.pack("!BBQ", _BINARY, 127, size_bytes)
