"""Requests that ask for another protocol: which wish is granted, and how the others are read.

A server may ignore a wish (RFC 9110 §7.8): `curl --http2` and Java's client ask for ``h2c`` with
their first request, whatever its body, and count on that.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from websockets.http11 import MAX_LINE_LENGTH, MAX_NUM_HEADERS

Fields = Sequence[tuple[bytes, bytes]]

# Base64 of 16 bytes.
_KEY: Final = re.compile(rb"[A-Za-z0-9+/]{22}==")
_LINE_REST_BYTES: Final = len(b"GET  HTTP/1.1\r\n")


def is_handshake(method: str, *, target: bytes, http_version: str, fields: Fields) -> bool:
    """Return whether a request that asks for an upgrade opens a WebSocket (RFC 6455 §4.2.1).

    Names are in lower case. What has a body opens none: its bytes would be taken for frames.
    Nor does what the WebSocket library would not read: it neither answers that nor lets go of it.
    """
    protocols = _values(fields, b"upgrade")
    keys = _values(fields, b"sec-websocket-key")
    return (
        method == "GET"
        and http_version == "1.1"
        and len(protocols) == 1
        and protocols[0].lower() == b"websocket"
        and len(keys) == 1
        and _KEY.fullmatch(keys[0]) is not None
        and _values(fields, b"sec-websocket-version") == [b"13"]
        and not _values(fields, b"transfer-encoding")
        and all(length == b"0" for length in _values(fields, b"content-length"))
        and len(target) + _LINE_REST_BYTES <= MAX_LINE_LENGTH
        and len(fields) <= MAX_NUM_HEADERS
        and all(len(name) + len(value) + 4 <= MAX_LINE_LENGTH for name, value in fields)
    )


def head_without_upgrade(method: str, *, target: bytes, http_version: str, fields: Fields) -> bytes:
    """Return the head of the same request, had it not asked; takes what a parser has accepted."""
    lines = [b"%s %s HTTP/%s" % (method.encode(), target, http_version.encode())]
    # Without that field, what `connection` says of it means nothing.
    lines += [b"%s: %s" % field for field in fields if field[0] != b"upgrade"]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def _values(fields: Fields, name: bytes) -> list[bytes]:
    return [value for key, value in fields if key == name]
