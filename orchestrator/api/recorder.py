"""What is left of an exchange when it is over: its numbers in the metrics, its row in the log."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from orchestrator.api.exchange import Exchange
from orchestrator.api.metrics import Metrics
from orchestrator.domain.model import KeyId
from orchestrator.storage.request_log import RequestLog

# What a key is refused before it counts as a request (revoked, another project, too many): limits
# do not bound how often that is, so its rows are bounded.
UNCOUNTED: Final = frozenset({401, 403, 429})
REFUSAL_ROWS_EVERY_S: Final = 1.0
_KEYS_KEPT: Final = 10_000


class Recorder:
    """Used for requests and for lines of batches alike."""

    def __init__(
        self, log: RequestLog, metrics: Metrics, *, monotonic: Callable[[], float]
    ) -> None:
        self._log = log
        self._metrics = metrics
        self._monotonic = monotonic
        self._refused_at: dict[KeyId, float] = {}

    def record(self, exchange: Exchange, status: int, code: str | None) -> None:
        """Count and log one exchange, whatever its route and however it ended."""
        latency_s = self._monotonic() - exchange.started_s
        self._metrics.answered(exchange.endpoint, status, exchange.place, latency_s)
        # A customer that leaves a stream pays for what was produced by then, and for that once.
        paid = exchange.billed
        input_tokens = max(exchange.input_tokens - paid.input_tokens, 0)
        output_tokens = max(exchange.output_tokens - paid.output_tokens, 0)
        if status != 200 and not exchange.output_tokens:
            # Nothing came of it.
            input_tokens = 0
        if exchange.model is not None and (input_tokens or output_tokens):
            self._metrics.billed(exchange.model, input_tokens, output_tokens)
        principal = exchange.principal
        # Without a key there is no project whose log it could be, and strangers could fill a disk.
        if principal is None or (status in UNCOUNTED and self._was_just_told(principal.key_id)):
            return
        self._log.append(
            (
                f"req_{exchange.number}",
                principal.project_id,
                principal.key_id,
                exchange.ts,
                exchange.model,
                exchange.endpoint,
                status,
                latency_s * 1000,
                exchange.place,
                input_tokens,
                output_tokens,
                exchange.attempts,
                exchange.node_id,
                code,
            )
        )

    def _was_just_told(self, key_id: KeyId) -> bool:
        """Whether a refusal of this key got its row less than `REFUSAL_ROWS_EVERY_S` ago."""
        now = self._monotonic()
        if now - self._refused_at.get(key_id, -REFUSAL_ROWS_EVERY_S) < REFUSAL_ROWS_EVERY_S:
            return True
        if len(self._refused_at) >= _KEYS_KEPT:
            self._refused_at.clear()
        self._refused_at[key_id] = now
        return False
