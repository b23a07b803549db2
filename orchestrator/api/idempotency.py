"""Idempotency-Key: the same request sent twice is answered once.

Of the requests with one key, one has the turn; the others wait and share its answer, or its error.
Rules: the same key with another body is a `Conflict`, also while the first is being answered. An
answer is kept for ``ttl_s`` unless asking again could go better (408, 409, 429, 5xx). If whoever
has the turn goes away without an answer, the next that waits takes it. Kept answers are bounded in
bytes, each and all together: when all is full, the oldest of the project that holds most go, so
that nobody's pushes out those of who holds less. A restart loses them; what must outlive one (files
and batches) is in `storage.idempotent` too.

A stream that breaks off is billed for what it produced and has no answer to keep. What it was
billed is kept in the answer's place, so that the same request sent again costs only the rest.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Final

from orchestrator.api.asgi import Header, error_body, error_headers
from orchestrator.api.exchange import NOTHING_BILLED, Billed, Exchange
from orchestrator.api.reply import INFERENCE_TYPE, JSON, Answer, Streamed
from orchestrator.domain.model import Place, ProjectId
from orchestrator.errors import ApiError, BadRequest
from orchestrator.storage.idempotent import Scope, reused

KEY_HEADER: Final = b"idempotency-key"
REPLAYED: Final[Header] = (b"idempotent-replayed", b"true")
KEY_MAX_CHARS: Final = 255
_KEY: Final = re.compile(rb"[\x20-\x7e]{1,%d}" % KEY_MAX_CHARS)
_RETRIABLE: Final = frozenset({408, 409, 429})
# What an entry takes beside its bytes: objects, the places in two tables.
_ENTRY_BYTES: Final = 1024
# One answer may take this part of the memory for all: of 64 MiB, what 2,048 vectors in base64 take.
_PART: Final = 8


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
    """``kept`` is None where there is no answer yet, only what was ``billed`` on the way to one."""

    digest: bytes
    kept: Kept | None
    size_bytes: int
    until: float
    billed: Billed = NOTHING_BILLED


@dataclass(slots=True)
class _Share:
    """What a project holds: bytes, streams on their way included, and answers, the oldest first."""

    size_bytes: int = 0
    kept: dict[Scope, None] = field(default_factory=dict)


class Turn:
    """The right to answer for a key. Ends with `end` or `release`, once; later calls do nothing.

    ``billed`` is what attempts that broke off have cost already.
    """

    __slots__ = ("_idempotency", "_over", "_scope", "billed", "digest", "outcome")

    def __init__(
        self, idempotency: Idempotency, scope: Scope, digest: bytes, billed: Billed
    ) -> None:
        self._idempotency = idempotency
        self._scope = scope
        self._over = asyncio.Event()
        self.digest = digest
        self.billed = billed
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

    def relay(self, reply: Streamed, exchange: Exchange) -> Streamed:
        """Return a streamed answer that ends the turn with all of it when it has flowed.

        One that breaks off, or that is too large to be kept, passes the turn on. So must whoever
        takes no piece of it: what never began to flow never ends.
        """
        return replace(reply, pieces=self._flow(reply, exchange))

    async def _flow(self, reply: Streamed, exchange: Exchange) -> AsyncGenerator[bytes]:
        held: list[bytes] = []
        idempotency, project_id = self._idempotency, self._scope.project_id
        size_bytes, fits, whole = 0, True, False
        try:
            async with aclosing(reply.pieces) as pieces:
                async for piece in pieces:
                    if fits:
                        short = size_bytes + len(piece) <= idempotency.largest_bytes
                        fits = short and idempotency.hold(project_id, len(piece))
                        size_bytes += len(piece) if fits else 0
                        held.append(piece)
                    if not fits:
                        held.clear()
                    yield piece
            whole = True
        finally:
            idempotency.let_go(project_id, size_bytes)
            if whole and fits:
                answer = Answer(200, b"".join(held), reply.headers, reply.content_type)
                self.end(kept_reply(answer, exchange.place))
            else:
                if whole:
                    # Too large to be kept: it was had, and would be had anew.
                    self.billed = NOTHING_BILLED
                elif exchange.output_tokens > self.billed.output_tokens:
                    self.billed = Billed(exchange.input_tokens, exchange.output_tokens)
                self.release()


class Idempotency:
    """All answers kept in memory, and the turns of those under way.

    ``largest_bytes`` is the longest body that is kept.
    """

    def __init__(self, *, ttl_s: float, max_bytes: int, monotonic: Callable[[], float]) -> None:
        self._ttl_s = ttl_s
        self._max_bytes = max_bytes
        self.largest_bytes = max_bytes // _PART
        self._monotonic = monotonic
        self._turns: dict[Scope, Turn] = {}
        # The oldest first: all are kept equally long.
        self._kept: dict[Scope, _Entry] = {}
        self._shares: dict[ProjectId, _Share] = {}
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
                entry = self._kept.get(scope)
                billed = entry.billed if entry and entry.digest == digest else NOTHING_BILLED
                turn = self._turns[scope] = Turn(self, scope, digest, billed)
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
        if kept is not None and (not kept.lasts or len(kept.body) > self.largest_bytes):
            kept = None
        earlier = self._kept.get(scope)
        if kept is None and not turn.billed.output_tokens:
            # Had whole, and not kept: what was billed on the way to it is over, too.
            if earlier is not None and earlier.digest == turn.digest:
                self._drop(scope)
            return
        if earlier is not None:
            self._drop(scope)
        body_bytes = 0 if kept is None else len(kept.body)
        size_bytes = _ENTRY_BYTES + body_bytes + 2 * sum(map(len, scope))
        if self.hold(scope.project_id, size_bytes):
            until = self._monotonic() + self._ttl_s
            self._kept[scope] = _Entry(turn.digest, kept, size_bytes, until, turn.billed)
            self._shares[scope.project_id].kept[scope] = None

    def hold(self, project_id: ProjectId, more_bytes: int) -> bool:
        """Count bytes that a project wants to keep, if there is room or can be made.

        What was counted is given back by `let_go`.
        """
        now = self._monotonic()
        while self._kept:
            scope, entry = next(iter(self._kept.items()))
            if entry.until > now:
                break
            self._drop(scope)
        while self._bytes + more_bytes > self._max_bytes:
            most = self._most(project_id, more_bytes)
            if not most.kept:
                return False
            # Not looked for again after each: a long answer may push out a thousand short ones.
            while most.kept and self._bytes + more_bytes > self._max_bytes:
                self._drop(next(iter(most.kept)))
        self._shares.setdefault(project_id, _Share()).size_bytes += more_bytes
        self._bytes += more_bytes
        return True

    def let_go(self, project_id: ProjectId, size_bytes: int) -> None:
        """Give back what `hold` counted."""
        self._bytes -= size_bytes
        share = self._shares.get(project_id)
        if share is not None:
            share.size_bytes -= size_bytes
            if not share.size_bytes:
                del self._shares[project_id]

    def _most(self, project_id: ProjectId, more_bytes: int) -> _Share:
        """Return who is to make room: the project's own share, unless one with answers is larger.

        Others have nothing to give while all they hold is on its way.
        """
        own = self._shares.get(project_id, _Share())
        with_answers = (share for share in self._shares.values() if share.kept)
        most = max(with_answers, key=lambda share: share.size_bytes, default=own)
        return most if most.size_bytes > own.size_bytes + more_bytes else own

    def _find(self, scope: Scope, digest: bytes) -> Kept | None:
        entry = self._kept.get(scope)
        if entry is None:
            return None
        if entry.until <= self._monotonic():
            self._drop(scope)
            return None
        if entry.kept is not None and entry.digest != digest:
            raise reused(scope)
        return entry.kept

    def _drop(self, scope: Scope) -> None:
        del self._shares[scope.project_id].kept[scope]
        self.let_go(scope.project_id, self._kept.pop(scope).size_bytes)


def digest_of(body: bytes) -> bytes:
    """Return what two bodies are compared by: their SHA-256."""
    return hashlib.sha256(body).digest()


def idempotency_key(sent: bytes) -> str:
    """Return the key of a request; raises `BadRequest` for one that cannot be kept."""
    if _KEY.fullmatch(sent) is None:
        raise BadRequest(
            f"The Idempotency-Key must be 1 to {KEY_MAX_CHARS} printable ASCII characters, such as"
            f" a UUID; bytes of this one: {len(sent):,}.",
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
    # What came from the database says so already.
    headers = kept.headers if REPLAYED in kept.headers else (*kept.headers, REPLAYED)
    return Answer(kept.status, kept.body, headers, kept.content_type, code=kept.code)
