"""How fast this machine runs a backbone: measured before the first job."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Final, TypeAlias

from browser_node.protocol import Speed
from browser_node.runtimes.seams import Clock
from browser_node.session import MAX_SLOTS
from browser_node.work import Encoder

# The longest time a micro-batch may take: pong, cancel, pause and drain act between two of them.
BATCH_S: Final = 0.25
SEQUENCE_TOKENS: Final = 32
_BATCH_SIZES: Final = (1, 8)
_RUNS: Final = 3
_MIN_RUN_S: Final = 1e-6
# Word pieces of any vocabulary of this family; which ones does not matter for the time they take.
_FIRST_ID: Final = 2000

# The right to compute, for as long as the context is open.
Turn: TypeAlias = Callable[[], AbstractAsyncContextManager[None]]


@dataclass(frozen=True, slots=True)
class Calibration:
    """Measured throughput, and what follows from it for batches and slots."""

    speeds: tuple[Speed, ...]

    @property
    def tokens_per_s(self) -> float:
        return max(speed.tokens_per_s for speed in self.speeds)

    @property
    def budget_tokens(self) -> int:
        """How many tokens one micro-batch may hold."""
        return max(SEQUENCE_TOKENS, int(self.tokens_per_s * BATCH_S))

    @property
    def slots(self) -> int:
        """How many short attempts fill two micro-batches: one is computed while one waits."""
        return min(max(2 * self.budget_tokens // SEQUENCE_TOKENS, 1), MAX_SLOTS)


async def calibrate(encoder: Encoder, clock: Clock, turn: Turn) -> Calibration:
    """Measure ``encoder``: the best of a few runs at each batch size, after one to warm up.

    Each run takes a turn of its own, so that the batches of other models go on in between.
    """
    sequence = list(range(_FIRST_ID, _FIRST_ID + SEQUENCE_TOKENS))
    async with turn():
        await encoder.encode([sequence])
    speeds: list[Speed] = []
    for batch_size in _BATCH_SIZES:
        best_s = float("inf")
        for _ in range(_RUNS):
            async with turn():
                started = clock.monotonic()
                await encoder.encode([sequence] * batch_size)
                best_s = min(best_s, clock.monotonic() - started)
            # A ping that came meanwhile is answered now.
            await clock.sleep(0)
        tokens_per_s = batch_size * SEQUENCE_TOKENS / max(best_s, _MIN_RUN_S)
        speeds.append(Speed(batch_size=batch_size, tokens_per_s=tokens_per_s))
    return Calibration(tuple(speeds))
