"""Runs a line of a batch as if it were a request: the same handler, log row and error.

It runs on behalf of the key that made the batch, whose project's rules are those of the moment, and
fails once that key is revoked. It has batch priority, and longer to wait than a request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import structlog

from orchestrator.api.exchange import Exchange
from orchestrator.api.gate import Gate
from orchestrator.api.numbers import Numbers
from orchestrator.api.recorder import Recorder
from orchestrator.api.reply import Answer, Handler, Reply
from orchestrator.batches.lines import Line
from orchestrator.batches.outcomes import KeyUnavailable, LineOutcome
from orchestrator.clock import Clock
from orchestrator.errors import ApiError, InternalError
from orchestrator.storage.batches import BatchRow
from orchestrator.storage.keys import Principal

FindKey = Callable[[str], Awaitable[Principal | None]]
"""Looks up whose a key of this id is, revoked or not; None where there is none any more."""

LINE_DEADLINE_S: Final = 600.0
# What is left of a batch's window may be next to nothing; a job needs some time to be tried at all.
_DEADLINE_MIN_S: Final = 0.1
# As in the log of requests: what nobody waited for to the end.
_DROPPED: Final = 499

log = structlog.get_logger("batches")


class LineRequests:
    """A `batches.runner.LineRunner`: call it with a batch and a line.

    ``handlers`` are by route. A key is looked up again after ``key_ttl_s``.
    """

    def __init__(
        self,
        handlers: Mapping[str, Handler],
        *,
        gate: Gate,
        recorder: Recorder,
        find_key: FindKey,
        key_ttl_s: float,
        clock: Clock,
    ) -> None:
        self._handlers = handlers
        self._gate = gate
        self._recorder = recorder
        self._keys = _Keys(find_key, ttl_s=key_ttl_s, monotonic=clock.monotonic)
        self._numbers = Numbers(clock.wall)
        self._clock = clock

    async def __call__(self, batch: BatchRow, line: Line) -> LineOutcome:
        """Run a line once; what went wrong is in the outcome."""
        ts = self._clock.wall()
        exchange = Exchange(
            gate=self._gate,
            number=self._numbers.at(ts),
            endpoint=batch.endpoint,
            started_s=self._clock.monotonic(),
            ts=ts,
        )
        exchange.priority = "batch"
        left_s = batch.expires_at - exchange.ts
        exchange.deadline_s = min(LINE_DEADLINE_S, max(left_s, _DEADLINE_MIN_S))
        status: int = _DROPPED
        code: str | None = "line_dropped"
        try:
            exchange.principal = await self._principal(batch)
            outcome = _outcome(exchange, await self._handlers[batch.endpoint](exchange, line.body))
            status, code = outcome.status, None
        except ApiError as error:
            status, code = error.status, error.code
            outcome = LineOutcome(exchange.request_id, status=status, error=error)
        except Exception:
            log.exception("a line failed", request_id=exchange.request_id, batch=batch.id)
            fault = InternalError(
                f"Something went wrong on our side; it was logged as {exchange.request_id}."
            )
            status, code = fault.status, fault.code
            outcome = LineOutcome(exchange.request_id, status=status, error=fault)
        finally:
            self._recorder.record(exchange, status, code)
        return outcome

    async def _principal(self, batch: BatchRow) -> Principal:
        principal = await self._keys.find(batch.key_id)
        if principal is None or principal.revoked:
            raise KeyUnavailable(
                "The API key that created this batch is no longer valid: send this line again in a"
                " batch of a key that is."
            )
        return principal


class _Keys:
    """The keys of the batches under way, each looked up once in a while."""

    def __init__(self, find: FindKey, *, ttl_s: float, monotonic: Callable[[], float]) -> None:
        self._find = find
        self._ttl_s = ttl_s
        self._monotonic = monotonic
        self._found: dict[str, tuple[float, asyncio.Task[Principal | None]]] = {}

    async def find(self, key_id: str) -> Principal | None:
        now = self._monotonic()
        found = self._found.get(key_id)
        if found is None or now - found[0] > self._ttl_s:
            self._forget_old(now)
            # One lookup for all lines that come meanwhile; one of them being dropped must not
            # end it for the others.
            found = self._found[key_id] = now, asyncio.ensure_future(self._find(key_id))
        try:
            return await asyncio.shield(found[1])
        except Exception:
            self._found.pop(key_id, None)
            raise

    def _forget_old(self, now: float) -> None:
        self._found = {
            key_id: found for key_id, found in self._found.items() if now - found[0] <= self._ttl_s
        }


def _outcome(exchange: Exchange, reply: Reply) -> LineOutcome:
    if isinstance(reply, bytes):
        return LineOutcome(exchange.request_id, body=reply)
    if isinstance(reply, Answer):
        return LineOutcome(exchange.request_id, status=reply.status, body=reply.body)
    raise InternalError("The line was answered by a stream.")
