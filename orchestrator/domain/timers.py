"""When something is to be looked at again: attempts, jobs and nodes, by their ids.

A timer is never taken back; one whose subject is gone is passed over.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import deque
from collections.abc import Callable

from orchestrator.domain.model import Attempt, Job, Node

Subject = Attempt | Job | Node
_Timer = tuple[float, int, str]


class Timers:
    """``find`` returns who an id is of, or None once that is gone; ``find_job`` looks at jobs only.

    ``first_at`` is when the first timer runs out, its subject there or not; infinite without any.
    """

    def __init__(
        self, find: Callable[[str], Subject | None], find_job: Callable[[str], Job | None]
    ) -> None:
        self._find = find
        self._find_job = find_job
        # Kept, as every event asks for it and few change it.
        self.first_at = math.inf
        self._heap: list[_Timer] = []
        # Deadlines mostly come in order, and most of their jobs are over long before: in a heap
        # they would be thirty seconds' worth of nothing.
        self._deadlines: deque[_Timer] = deque()
        self._numbers = itertools.count()

    def arm(self, at: float, what: str) -> None:
        """Have ``what`` looked at when monotonic time reaches ``at``; never if that is infinite."""
        if at < math.inf:
            heapq.heappush(self._heap, (at, next(self._numbers), what))
            self.first_at = at if at < self.first_at else self.first_at

    def arm_deadline(self, at: float, what: str) -> None:
        """The same for the deadline of a job that is answered soon."""
        deadlines = self._deadlines
        if deadlines and at < deadlines[-1][0]:
            self.arm(at, what)
            return
        deadlines.append((at, next(self._numbers), what))
        self.first_at = at if at < self.first_at else self.first_at

    def clear(self) -> None:
        self._heap.clear()
        self._deadlines.clear()
        self.first_at = math.inf

    def next(self) -> float | None:
        """Return when the first is due whose subject is still there."""
        heap, deadlines, find, find_job = self._heap, self._deadlines, self._find, self._find_job
        while heap and find(heap[0][2]) is None:
            heapq.heappop(heap)
        while deadlines and find_job(deadlines[0][2]) is None:
            deadlines.popleft()
        self._look()
        return self.first_at if self.first_at < math.inf else None

    def due(self, now: float) -> Subject | None:
        """Return one subject whose timer has run out, or None."""
        heap, deadlines = self._heap, self._deadlines
        while self.first_at <= now:
            if heap and (not deadlines or heap[0] < deadlines[0]):
                found = self._find(heapq.heappop(heap)[2])
            else:
                found = self._find_job(deadlines.popleft()[2])
            self._look()
            if found is not None:
                return found
        return None

    def _look(self) -> None:
        """See anew when the first timer runs out: some were taken away."""
        heap, deadlines = self._heap, self._deadlines
        first_at = heap[0][0] if heap else math.inf
        if deadlines and deadlines[0][0] < first_at:
            first_at = deadlines[0][0]
        self.first_at = first_at
