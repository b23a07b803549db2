"""The two clocks, passed in wherever time is read."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Clock:
    """``monotonic`` for leases and latencies, ``wall`` (seconds since the epoch) for records."""

    monotonic: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
