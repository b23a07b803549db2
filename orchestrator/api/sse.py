"""Server-sent events as OpenAI's clients read them: ``data:`` lines of JSON, named or not."""

from __future__ import annotations

from typing import Final

from orchestrator.api.asgi import Header

CONTENT_TYPE: Final = b"text/event-stream; charset=utf-8"
# Without these, proxies hold events back until a buffer is full.
HEADERS: Final[tuple[Header, ...]] = (
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
)


def data(body: bytes) -> bytes:
    """Return an event without a name; ``body`` is JSON and holds no line feed."""
    return b"data: %b\n\n" % body


def event(name: bytes, body: bytes) -> bytes:
    """Return an event called ``name``."""
    return b"event: %b\ndata: %b\n\n" % (name, body)
