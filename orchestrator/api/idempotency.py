"""Idempotency-Key: the same request sent twice is answered once.

Of the requests with one key, one has the turn; the others wait and share its answer, or its error.
Rules: the same key with another body is a `Conflict`, also while the first is being answered. An
answer is kept for ``ttl_s`` unless asking again could go better (408, 409, 429, 5xx). If whoever
has the turn goes away without an answer, the next that waits takes it. Kept answers are bounded in
bytes, the oldest go first, and a restart loses them; what must outlive one (files and batches) is
in `storage.idempotent` too.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Final

from orchestrator.api.asgi import Header, error_body, error_headers
from orchestrator.api.reply import INFERENCE_TYPE, JSON, Answer, Streamed
from orchestrator.domain.model import Place
from orchestrator.errors import ApiError, BadRequest
from orchestrator.storage.idempotent import Scope, reused

KEY_HEADER: Final = b"idempotency-key"
REPLAYED: Final[Header] = (b"idempotent-replayed", b"true")
KEY_MAX_CHARS: Final = 255
_KEY: Final = re.compile(rb"[\x20-\x7e]{1,%d}" % KEY_MAX_CHARS)
_RETRIABLE: Final = frozenset({408, 409, 429})
# What an entry takes beside its bytes: objects, the places in two tables.
_ENTRY_BYTES: Final = 1024
# One answer may take this part of the memory for all: a few large ones must not push out the rest.
_PART: Final = 4


@dataclass(frozen=True, slots=True)
class Kept:
    """A complete answer; ``code`` is that of an error, for the log."""

    status: int
    headers: tuple[Header, ...]
    body: bytes
    content_type: bytes
    code: str | None = None

    @property
    def lasts(self) -> bool:
        """Whether the same request could only be answered the same again."""
        return self.status < 500 and self.status not in _RETRIABLE


@dataclass(frozen=True, slots=True)
class _Entry:
    digest: bytes
    kept: Kept
    size_bytes: int
    until: float


class Turn:
    """The right to answer for a key. Ends with `end` or `release`, once; later calls do nothing."""

    __slots__ = ("_idempotency", "_over", "_scope", "digest", "outcome")

    def __init__(self, idempotency: Idempotency, scope: Scope, digest: bytes) -> None:
        self._idempotency = idempotency
        self._scope = scope
        self._over = asyncio.Event()
        self.digest = digest
        self.outcome: Kept | None = None

    def end(self, kept: Kept) -> None:
        """Give the answer to all that wait, and keep it for those to come if it lasts."""
        if not self._over.is_set():
            self.outcome = kept
            self._idempotency.ended(self._scope, self)
            self._over.set()

    def release(self) -> None:
        """Pass the turn on: there was no answer."""
        if not self._over.is_set():
            self._idempotency.ended(self._scope, self)
            self._over.set()

    async def over(self) -> Kept | None:
        """Wait for the answer; None if there is none and the turn is free."""
        await self._over.wait()
        return self.outcome

    def relay(self, reply: Streamed, place: Place | None) -> Streamed:
        """Return a streamed answer that ends the turn with all of it when it has flowed.

        One that breaks off, or that is too large to be kept, passes the turn on. So must whoever
        takes no piece of it: what never began to flow never ends.
        """
        return replace(reply, pieces=self._flow(reply, place))

    async def _flow(self, reply: Streamed, place: Place | None) -> AsyncGenerator[bytes]:
        held: list[bytes] = []
        size_bytes, fits = 0, True
        try:
            async with aclosing(reply.pieces) as pieces:
                async for piece in pieces:
                    if fits:
                        fits = self._idempotency.hold(size_bytes, len(piece))
                        size_bytes += len(piece) if fits else 0
                        held.append(piece)
                    if not fits:
                        held.clear()
                    yield piece
        except BaseException:
            fits = False
            raise
        finally:
            self._idempotency.let_go(size_bytes)
            if fits:
                whole = Answer(200, b"".join(held), reply.headers, reply.content_type)
                self.end(kept_reply(whole, place))
            else:
                self.release()


class Idempotency:
    """All answers kept in memory, and the turns of those under way."""

    def __init__(self, *, ttl_s: float, max_bytes: int, monotonic: Callable[[], float]) -> None:
        self._ttl_s = ttl_s
        self._max_bytes = max_bytes
        self._monotonic = monotonic
        self._turns: dict[Scope, Turn] = {}
        # The oldest first: all are kept equally long.
        self._kept: dict[Scope, _Entry] = {}
        self._bytes = 0

    @property
    def held_bytes(self) -> int:
        """What kept answers, and streams on their way to be kept, take."""
        return self._bytes

    @property
    def under_way(self) -> int:
        """Turns that are not over."""
        return len(self._turns)

    async def begin(self, scope: Scope, digest: bytes) -> Turn | Kept:
        """Return the answer there was or will be, or the turn to make it.

        Raises `Conflict` if the key stands for a request with another digest.
        """
        while True:
            kept = self._find(scope, digest)
            if kept is not None:
                return kept
            turn = self._turns.get(scope)
            if turn is None:
                turn = self._turns[scope] = Turn(self, scope, digest)
                return turn
            if turn.digest != digest:
                raise reused(scope)
            kept = await turn.over()
            if kept is not None:
                return kept

    def ended(self, scope: Scope, turn: Turn) -> None:
        """Take note of a turn's end; only `Turn` calls this."""
        del self._turns[scope]
        kept = turn.outcome
        if kept is None or not kept.lasts:
            return
        size_bytes = _ENTRY_BYTES + len(kept.body) + 2 * sum(map(len, scope))
        if self.hold(0, size_bytes):
            until = self._monotonic() + self._ttl_s
            self._kept[scope] = _Entry(turn.digest, kept, size_bytes, until)

    def hold(self, held_bytes: int, more_bytes: int) -> bool:
        """Count more bytes of an answer that takes ``held_bytes`` already, if they are allowed.

        The oldest answers make room. What was counted is given back by `let_go`.
        """
        if held_bytes + more_bytes > self._max_bytes // _PART:
            return False
        now = self._monotonic()
        while self._kept:
            scope, entry = next(iter(self._kept.items()))
            if entry.until > now and self._bytes + more_bytes <= self._max_bytes:
                break
            self._drop(scope)
        if self._bytes + more_bytes > self._max_bytes:
            return False
        self._bytes += more_bytes
        return True

    def let_go(self, size_bytes: int) -> None:
        """Give back what `hold` counted."""
        self._bytes -= size_bytes

    def _find(self, scope: Scope, digest: bytes) -> Kept | None:
        entry = self._kept.get(scope)
        if entry is None:
            return None
        if entry.until <= self._monotonic():
            self._drop(scope)
            return None
        if entry.digest != digest:
            raise reused(scope)
        return entry.kept

    def _drop(self, scope: Scope) -> None:
        self._bytes -= self._kept.pop(scope).size_bytes


def digest_of(body: bytes) -> bytes:
    """Return what two bodies are compared by: their SHA-256."""
    return hashlib.sha256(body).digest()


def idempotency_key(sent: bytes) -> str:
    """Return the key of a request; raises `BadRequest` for one that cannot be kept."""
    if _KEY.fullmatch(sent) is None:
        raise BadRequest(
            f"The Idempotency-Key has {len(sent):,} bytes; it must be 1 to {KEY_MAX_CHARS}"
            " printable ASCII characters, such as a UUID.",
            code="invalid_idempotency_key",
        )
    return sent.decode("ascii")


def kept_reply(reply: bytes | Answer, place: Place | None) -> Kept:
    """Return an answer as it is kept; ``place`` is where the inference ran."""
    where: tuple[Header, ...] = () if place is None else (INFERENCE_TYPE[place],)
    if isinstance(reply, bytes):
        return Kept(200, where, reply, JSON)
    return Kept(reply.status, (*reply.headers, *where), reply.body, reply.content_type)


def kept_error(error: ApiError) -> Kept:
    """Return an error as it is kept."""
    headers = tuple(error_headers(error))
    return Kept(error.status, headers, error_body(error), JSON, error.code)


def replay(kept: Kept) -> Answer:
    """Return the answer to another request of the same key."""
    headers = (*kept.headers, REPLAYED)
    return Answer(kept.status, kept.body, headers, kept.content_type, code=kept.code)
