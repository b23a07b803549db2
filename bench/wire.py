"""A WebSocket client of the fewest steps: the stub nodes' own cost would blur what is measured.

Whole binary messages only, as both ends of the node protocol send them. Client frames are masked
with zeros, which every server must accept and which leaves the payload as it is.
"""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import Callable
from typing import Final, cast

from browser_node.protocol import SUBPROTOCOL

_BINARY: Final = 0x82
_CLOSE: Final = 0x88
_NO_MASK: Final = bytes(4)


class Wire(asyncio.Protocol):
    """One connection; ``received`` gets every message's bytes, as a copy of its own."""

    def __init__(self, path: str, headers: dict[str, str], received: Callable[[bytes], None]):
        self._request = _upgrade(path, headers)
        self._received = received
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._is_open = False
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.closed = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._is_open:
            head, found, rest = self._buffer.partition(b"\r\n\r\n")
            if not found:
                return
            if self.opened.done():  # nobody waits for it any more
                self.drop()
                return
            if not head.startswith(b"HTTP/1.1 101"):
                self.opened.set_exception(ConnectionError(head[:80].decode(errors="replace")))
                return
            self._buffer, self._is_open = bytearray(rest), True
            self.opened.set_result(None)
        while (frame := split_frame(self._buffer)) is not None:
            first, payload = frame
            if first == _CLOSE:
                self.drop()
            elif first == _BINARY:
                self._received(payload)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.opened.done():
            self.opened.set_exception(exc or ConnectionError("closed before it was open"))
        self.closed.set()

    def send(self, payload: bytes) -> None:
        assert self._transport is not None
        if not self._transport.is_closing():
            self._transport.write(frame_of(payload))

    def drop(self) -> None:
        """Cut the connection without a word, as a crash does."""
        assert self._transport is not None
        self._transport.abort()


def frame_of(payload: bytes) -> bytes:
    """Return one masked binary frame (RFC 6455 §5.2)."""
    size = len(payload)
    if size < 126:
        head = bytes((_BINARY, 0x80 | size))
    elif size < 1 << 16:
        head = bytes((_BINARY, 0x80 | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((_BINARY, 0x80 | 127)) + size.to_bytes(8, "big")
    return head + _NO_MASK + payload


def split_frame(buffer: bytearray) -> tuple[int, bytes] | None:
    """Take one unmasked frame off ``buffer``: (first byte, payload), or None while incomplete."""
    if len(buffer) < 2:
        return None
    size, start = buffer[1], 2
    if size == 126:
        size, start = int.from_bytes(buffer[2:4], "big"), 4
    elif size == 127:
        size, start = int.from_bytes(buffer[2:10], "big"), 10
    if len(buffer) < start + size:
        return None
    first, payload = buffer[0], bytes(buffer[start : start + size])
    del buffer[: start + size]
    return first, payload


def post(host: str, path: str, body: bytes) -> bytes:
    """Return one HTTP request whose answer ends with its connection."""
    lines = [
        f"POST {path} HTTP/1.1",
        f"host: {host}",
        "connection: close",
        "content-type: application/json",
        f"content-length: {len(body)}",
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def _upgrade(path: str, headers: dict[str, str]) -> bytes:
    lines = [
        f"GET {path} HTTP/1.1",
        "upgrade: websocket",
        "connection: upgrade",
        "sec-websocket-version: 13",
        f"sec-websocket-key: {base64.b64encode(os.urandom(16)).decode()}",
        f"sec-websocket-protocol: {SUBPROTOCOL}",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"
