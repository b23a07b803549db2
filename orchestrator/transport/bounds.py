"""What an HTTP connection may take, and what those are told that take more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from orchestrator.errors import HeadersTooLarge

IDLE_S: Final = 60.0
KEEP_ALIVE_S: Final = 30.0


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """``idle_s`` is for both directions, ``keep_alive_s`` between an answer and what follows."""

    headers_timeout_s: float
    headers_max: int
    headers_max_bytes: int
    idle_s: float = IDLE_S
    keep_alive_s: float = KEEP_ALIVE_S


def too_many(count: int, limit: int) -> HeadersTooLarge:
    return HeadersTooLarge(f"The request has {count:,} header fields; at most {limit:,} are read.")


def too_long(size_bytes: int, limit: int) -> HeadersTooLarge:
    return HeadersTooLarge(
        f"The request's line and headers have {size_bytes:,} bytes or more; at most {limit:,} are"
        " read. Send fewer or shorter headers, or put what they say into the body."
    )
