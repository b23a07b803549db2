"""What a handler gives back: bytes of JSON, a whole answer of another kind, or one that flows."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final

from orchestrator.api.asgi import Header
from orchestrator.api.exchange import Exchange
from orchestrator.domain.model import Place

JSON = b"application/json"
# How an answer says where its inference ran.
INFERENCE_TYPE: Final[Mapping[Place, Header]] = {
    "edge": (b"x-inference-type", b"edge"),
    "cloud": (b"x-inference-type", b"cloud"),
}


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer that is not plain ``200`` JSON; ``code`` is that of an error, for the log."""

    status: int
    body: bytes
    headers: tuple[Header, ...] = ()
    content_type: bytes = JSON
    code: str | None = None


@dataclass(frozen=True, slots=True)
class Streamed:
    """An answer sent piece by piece; made only once there is a first piece, so the 200 is true.

    ``pieces`` is closed when the client has gone; ``length`` is there where it is known. An error
    in mid-answer breaks the connection, unless it was told in the last piece (``tells_errors``).
    """

    content_type: bytes
    pieces: AsyncGenerator[bytes]
    headers: tuple[Header, ...] = ()
    length: int | None = None
    tells_errors: bool = False


Reply = bytes | Answer | Streamed
Handler = Callable[[Exchange, bytes], Awaitable[Reply]]
