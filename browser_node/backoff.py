"""How long to wait before trying again: exponential delays with full jitter."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

MAX_RETRY_AFTER_S: Final = 3600.0


@dataclass(frozen=True, slots=True)
class Backoff:
    """Uniform up to ``base_s``·2ⁿ after n failures, at most ``cap_s``: a fleet spreads out."""

    base_s: float = 1.0
    cap_s: float = 60.0

    def delay_s(self, failures: int, rng: random.Random, *, at_least_s: float = 0.0) -> float:
        """Return the delay after ``failures`` earlier ones, on top of what the peer asked for."""
        ceiling = min(self.cap_s, self.base_s * 2.0 ** min(failures, 30))
        return min(at_least_s, MAX_RETRY_AFTER_S) + rng.uniform(0.0, ceiling)
