"""Virtual time: a heap of callbacks, run in the order of their times and then of their making."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any


class Loop:
    """``now`` moves from callback to callback; nothing here waits or reads a clock."""

    __slots__ = ("_heap", "_made", "now")

    def __init__(self) -> None:
        self.now = 0.0
        self._made = 0
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []

    def at(self, time_s: float, call: Callable[..., None], *args: Any) -> None:
        """Have ``call(*args)`` run at ``time_s``, or now if that is over."""
        self._made += 1
        heapq.heappush(self._heap, (max(time_s, self.now), self._made, call, args))

    def after(self, delay_s: float, call: Callable[..., None], *args: Any) -> None:
        self.at(self.now + delay_s, call, *args)

    def step(self) -> bool:
        """Run the next callback; False when there is none."""
        if not self._heap:
            return False
        self.now, _, call, args = heapq.heappop(self._heap)
        call(*args)
        return True

    def __len__(self) -> int:
        return len(self._heap)
