"""When something is to be looked at again: attempts, jobs and nodes, by their ids.

A timer is never taken back; one whose subject is gone is passed over.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

_T = TypeVar("_T")
_Timer = tuple[float, int, str]


class Timers(Generic[_T]):
    """``find`` returns who an id is of, or None once that is gone."""

    def __init__(self, find: Callable[[str], _T | None]) -> None:
        self._find = find
        self._heap: list[_Timer] = []
        # Deadlines mostly come in order, and most of their jobs are over long before: in a heap
        # they would be thirty seconds' worth of nothing.
        self._deadlines: deque[_Timer] = deque()
        self._numbers = itertools.count()

    def arm(self, at: float, what: str) -> None:
        """Have ``what`` looked at when monotonic time reaches ``at``; never if that is infinite."""
        if at < math.inf:
            heapq.heappush(self._heap, (at, next(self._numbers), what))

    def arm_deadline(self, at: float, what: str) -> None:
        """The same for the deadline of a job that is answered soon."""
        if self._deadlines and at < self._deadlines[-1][0]:
            self.arm(at, what)
        else:
            self._deadlines.append((at, next(self._numbers), what))

    def clear(self) -> None:
        self._heap.clear()
        self._deadlines.clear()

    def next(self) -> float | None:
        """Return when the first is due whose subject is still there."""
        heap, deadlines, find = self._heap, self._deadlines, self._find
        while heap and find(heap[0][2]) is None:
            heapq.heappop(heap)
        while deadlines and find(deadlines[0][2]) is None:
            deadlines.popleft()
        first = self._first()
        return None if first is None else first[0]

    def is_idle(self, until: float) -> bool:
        """Whether no timer runs out before ``until``; cheap, as it looks after no subject."""
        first = self._first()
        return first is None or first[0] >= until

    def is_due(self, now: float) -> bool:
        """Whether some timer has run out, its subject there or not: most times it has not."""
        first = self._first()
        return first is not None and first[0] <= now

    def due(self, now: float) -> _T | None:
        """Return one subject whose timer has run out, or None."""
        while (first := self._first()) is not None and first[0] <= now:
            if self._heap and first is self._heap[0]:
                heapq.heappop(self._heap)
            else:
                self._deadlines.popleft()
            found = self._find(first[2])
            if found is not None:
                return found
        return None

    def _first(self) -> _Timer | None:
        heap, deadlines = self._heap, self._deadlines
        if heap and deadlines:
            return heap[0] if heap[0] < deadlines[0] else deadlines[0]
        return heap[0] if heap else deadlines[0] if deadlines else None
