"""PURE: which lines of the batches are to run next, and when.

`Work` is one batch: fresh lines in the order of the input, lines that wait for another try, and a
pause while nobody takes its lines. `Turns` goes round: a project, then a batch of it, then a line,
so that neither a project with many batches nor a batch with many lines holds up the others.

After a line that nobody took, the batch pauses (each time twice as long, until a line succeeds) and
then sends a single line; every success allows one more at a time.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Final, Generic, Protocol, TypeVar

_WAIT_MAX_S: Final = 60.0


class Work:
    """The lines of one batch, by their position. ``jitter`` returns numbers from 0 to 1.

    A line is fresh, waiting, under way or answered; ``now`` is monotonic seconds.
    """

    def __init__(
        self,
        total: int,
        answered: Iterable[int],
        *,
        retry_s: float,
        width: int,
        jitter: Callable[[], float],
    ) -> None:
        self._retry_s = retry_s
        self._width_max = width
        self._jitter = jitter
        self._answered = bytearray(total)
        for at in answered:
            self._answered[at] = 1
        self._left = total - sum(self._answered)
        self._fresh = 0
        self._waiting: list[tuple[float, int]] = []
        self._tries: dict[int, int] = {}
        self._under_way: set[int] = set()
        self._width = width
        self._paused_until = 0.0
        self._pauses = 0

    @property
    def left(self) -> int:
        """How many lines have no answer yet."""
        return self._left

    @property
    def under_way(self) -> int:
        return len(self._under_way)

    def tries(self, at: int) -> int:
        """Return how often a line was tried that is under way, this time included."""
        return self._tries.get(at, 0) + 1

    def next_at_s(self, now: float) -> float | None:
        """Return when a line can be taken (``now``: at once); None: only after another ends."""
        if len(self._under_way) >= self._width:
            return None
        self._skip_answered()
        if self._fresh < len(self._answered):
            return max(now, self._paused_until)
        if self._waiting:
            return max(now, self._paused_until, self._waiting[0][0])
        return None

    def take(self, now: float) -> int:
        """Return the line to run; only when `next_at_s` said ``now``."""
        if self._waiting and self._waiting[0][0] <= now:
            at = heapq.heappop(self._waiting)[1]
        else:
            self._skip_answered()
            at = self._fresh
            self._fresh += 1
        self._under_way.add(at)
        return at

    def answer(self, at: int, *, good: bool) -> None:
        """A line under way has its answer, to be kept in one of the files."""
        self._under_way.remove(at)
        self._answered[at] = 1
        self._left -= 1
        self._tries.pop(at, None)
        if good:
            self._pauses = 0
            self._width = min(self._width + 1, self._width_max)

    def drop(self, at: int) -> None:
        """A line under way was given up without a word: it is as good as never tried."""
        self._under_way.remove(at)
        heapq.heappush(self._waiting, (0.0, at))

    def retry(self, at: int, now: float, *, retry_after_s: float | None) -> None:
        """Run a line again later: its try failed."""
        self._under_way.remove(at)
        tries = self._tries[at] = self._tries.get(at, 0) + 1
        wait_s = max(self._wait_s(tries), retry_after_s or 0)
        heapq.heappush(self._waiting, (now + wait_s, at))

    def pause(self, at: int, now: float, *, retry_after_s: float | None) -> None:
        """Run a line again later, and all others too: there was nobody to try it."""
        self._under_way.remove(at)
        # Of all those that were under way at once, the first one tells the news.
        if now >= self._paused_until:
            self._pauses += 1
            wait_s = max(self._wait_s(self._pauses), min(retry_after_s or 0, _WAIT_MAX_S))
            self._paused_until = now + wait_s
            self._width = 1
        # Others first: it may be this line's model alone that nobody has.
        later_s = self._wait_s(self._pauses)
        heapq.heappush(self._waiting, (self._paused_until + later_s, at))

    def unanswered(self) -> Iterator[int]:
        """Yield the lines without an answer, in the order of the input."""
        at = self._answered.find(0)
        while at >= 0:
            yield at
            at = self._answered.find(0, at + 1)

    def _wait_s(self, times: int) -> float:
        doubled = self._retry_s * 2.0 ** min(times - 1, 30)
        return min(doubled, _WAIT_MAX_S) * (1 + self._jitter() / 4)

    def _skip_answered(self) -> None:
        at = self._answered.find(0, self._fresh)
        self._fresh = len(self._answered) if at < 0 else at


class Waits(Protocol):
    """A batch, as far as turns are concerned."""

    @property
    def project_id(self) -> str: ...

    @property
    def work(self) -> Work: ...


Batch = TypeVar("Batch", bound=Waits)


class Turns(Generic[Batch]):
    """Whose turn it is to run a line: projects in a circle, and the batches of each in one too."""

    def __init__(self) -> None:
        self._projects: deque[deque[Batch]] = deque()

    def add(self, batch: Batch) -> None:
        for circle in self._projects:
            if circle[0].project_id == batch.project_id:
                circle.append(batch)
                return
        self._projects.append(deque([batch]))

    def remove(self, batch: Batch) -> None:
        """Take a batch out; one that is not in changes nothing."""
        for circle in self._projects:
            if batch in circle:
                circle.remove(batch)
                if not circle:
                    self._projects.remove(circle)
                return

    def next(self, now: float) -> Batch | None:
        """Return the batch whose turn it is, and move it to the end of the circles."""
        for _ in range(len(self._projects)):
            circle = self._projects[0]
            self._projects.rotate(-1)
            for _ in range(len(circle)):
                batch = circle[0]
                circle.rotate(-1)
                ready_at = batch.work.next_at_s(now)
                if ready_at is not None and ready_at <= now:
                    return batch
        return None

    def soonest(self, now: float) -> float | None:
        """Return when the next line can be taken, if time alone decides."""
        times = [
            ready_at
            for circle in self._projects
            for batch in circle
            if (ready_at := batch.work.next_at_s(now)) is not None
        ]
        return min(times, default=None)
