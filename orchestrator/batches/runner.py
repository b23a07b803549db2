"""Runs the lines of all batches: one task starts them, another one keeps what they led to.

Rules: `Turns` says whose line is next; so many are under way as the supply has room for. Outcomes
are written in groups, and a line counts as done once it is written: what was not is run again after
a restart. A batch that has nothing left under way or unwritten is given to ``drained``, once.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import structlog

from orchestrator.batches.lines import Line, LineLost, Lines
from orchestrator.batches.outcomes import LineOutcome, error_line, output_line
from orchestrator.batches.work import Turns, Work
from orchestrator.clock import Clock
from orchestrator.errors import ApiError, InternalError
from orchestrator.settings import Settings
from orchestrator.storage.batches import BatchRow, LineRow

LineRunner = Callable[[BatchRow, Line], Awaitable[LineOutcome]]
"""Runs a line once. Says in its outcome what went wrong; raises only where the code is wrong."""

# What is read without letting others have the event loop; a line costs as much as so many bytes.
_BURST_BYTES: Final = 64 << 10
_LINE_BYTES: Final = 4 << 10
# How soon a supply that had no room is asked again.
_SUPPLY_S: Final = 0.25
# One transaction: so many outcomes, or those of so long.
_GROUP_MAX: Final = 500
_GROUP_S: Final = 0.05
# How long lines under way may still take once their batch is cancelled or the server stops. Most of
# them only wait for a node: those of a cancelled batch would be run and charged for nothing, the
# others are run after the next start.
_GRACE_S: Final = 2.0
# How soon lines are started again after what should never happen.
_FAULT_S: Final = 1.0
_DATABASE_RETRY_S: Final = 0.5
# Outcomes that may wait for the database, beyond those lines that are under way.
_UNWRITTEN_MAX: Final = 2 * _GROUP_MAX
# Of request bodies: few lines are long, and a full house of long ones must not fill the memory.
_HELD_BYTES_MAX: Final = 16 << 20

log = structlog.get_logger("batches")


class Run:
    """A batch that is under way. ``completed`` and ``failed`` count what is written."""

    def __init__(self, row: BatchRow, work: Work, *, completed: int, failed: int) -> None:
        self.row = row
        self.work = work
        self.completed = completed
        self.failed = failed
        self.unwritten = 0
        self.stopped = False
        # Monotonic seconds: when what is still under way is dropped.
        self.drop_at_s: float | None = None
        self.tasks: set[asyncio.Task[None]] = set()

    @property
    def id(self) -> str:
        return self.row.id

    @property
    def project_id(self) -> str:
        return self.row.project_id

    @property
    def drained(self) -> bool:
        nothing_held = not self.tasks and not self.unwritten
        return nothing_held and (self.stopped or self.work.left == 0)


class Runner:
    """One a process. ``lines`` opens a batch's lines; ``record`` writes outcomes and blocks;
    ``supply`` says how many lines may be under way; ``drained`` is told of every batch that has
    nothing more to run.
    """

    def __init__(
        self,
        *,
        settings: Settings,
        lines: Callable[[str], Lines],
        run_line: LineRunner,
        record: Callable[[Sequence[tuple[str, LineRow]]], int],
        drained: Callable[[Run], object],
        supply: Callable[[], int],
        clock: Clock,
        rng: random.Random,
    ) -> None:
        self._attempts = settings.batch_attempts
        self._retry_s = settings.batch_retry_s
        self._limit = settings.batch_under_way
        self._lines = lines
        self._run_line = run_line
        self._record = record
        self._drained = drained
        self._supply = supply
        self._clock = clock
        self._rng = rng
        self._runs: dict[str, Run] = {}
        self._turns: Turns[Run] = Turns()
        self._under_way = 0
        self._held_bytes = 0
        self._unwritten: list[tuple[Run, LineRow]] = []
        self._wakeup = asyncio.Event()
        self._news = asyncio.Event()
        self._full = asyncio.Event()
        self._stopping = False
        self._stopped = False
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self._tasks = [
            asyncio.create_task(self._dispatch()),
            asyncio.create_task(self._write_outcomes()),
        ]

    async def stop(self, within_s: float) -> None:
        """Start nothing more, let lines end, drop those that do not soon, write the rest.

        Lines have ``within_s``, but no longer than those of a cancelled batch. Dropped ones are run
        again after the next start.
        """
        self._stopping = True
        self._wakeup.set()
        if under_way := [task for run in self._runs.values() for task in run.tasks]:
            await asyncio.wait(under_way, timeout=min(within_s, _GRACE_S))
            for task in under_way:
                task.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)
        self._stopped = True
        self._news.set()
        self._full.set()
        await asyncio.gather(*self._tasks)

    def add(self, row: BatchRow, *, answered: Sequence[int], good: int) -> Run:
        """Run the lines of a batch that are not ``answered`` yet; ``good`` of those are."""
        work = Work(
            row.total,
            answered,
            retry_s=self._retry_s,
            width=self._limit,
            jitter=self._rng.random,
        )
        run = Run(row, work, completed=good, failed=len(answered) - good)
        self._runs[row.id] = run
        self._turns.add(run)
        self._wakeup.set()
        self._check(run)
        return run

    def stop_batch(self, batch_id: str, *, drop: bool = False) -> None:
        """Start no more lines of a batch; ``drop`` those under way too, else after a while."""
        run = self._runs.get(batch_id)
        if run is None:
            return
        run.stopped = True
        self._turns.remove(run)
        if drop:
            self._drop(run)
        elif run.drop_at_s is None:
            run.drop_at_s = self._clock.monotonic() + _GRACE_S
            self._wakeup.set()
        self._check(run)

    def _drop(self, run: Run) -> None:
        run.drop_at_s = None
        for task in run.tasks:
            task.cancel()

    def wake(self) -> None:
        """Look at the clocks and the supply again, now."""
        self._wakeup.set()

    # ── starting lines ───────────────────────────────────────────────────────────────────────────

    async def _dispatch(self) -> None:
        while not self._stopping:
            self._wakeup.clear()
            try:
                wait_s = await self._start_lines()
            except Exception:
                # All batches depend on this task.
                log.exception("lines cannot be started")
                wait_s = _FAULT_S
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._wakeup.wait()

    async def _start_lines(self) -> float | None:
        """Start what there is room for; returns in how many seconds to look again, if no event."""
        while not self._stopping:
            self._stop_expired()
            self._drop_cancelled()
            supply = self._supply()
            now = self._clock.monotonic()
            read_bytes = 0
            while read_bytes < _BURST_BYTES and self._room(supply) > 0:
                run = self._turns.next(now)
                if run is None:
                    return self._look_again_s(self._turns.soonest(now), now)
                read_bytes += _LINE_BYTES + self._start(run, run.work.take(now))
            if self._room(supply) <= 0:
                waits = self._turns.soonest(now) is not None
                return self._look_again_s(now + _SUPPLY_S if waits else None, now)
            await asyncio.sleep(0)
        return None

    def _room(self, supply: int) -> int:
        if self._held_bytes >= _HELD_BYTES_MAX or len(self._unwritten) >= _UNWRITTEN_MAX:
            return 0
        return min(supply, self._limit) - self._under_way

    def _look_again_s(self, at: float | None, now: float) -> float | None:
        expiry = self._next_expiry()
        moments = [at, *(run.drop_at_s for run in self._runs.values())]
        waits = [
            *(moment - now for moment in moments if moment is not None),
            *([] if expiry is None else [expiry - self._clock.wall()]),
        ]
        return max(0.0, min(waits)) if waits else None

    def _start(self, run: Run, at: int) -> int:
        """Run a line; returns the bytes of its body."""
        try:
            line = self._lines(run.id)[at]
        except LineLost as error:
            # It will not come back, and must not hold up the others.
            log.error("a line is lost", batch=run.id, at=at, error=error.message)
            self._keep(run, LineRow(at, False, error_line(run.id, at, "", error, tries=1)))
            return 0
        except Exception as error:
            log.error("a line cannot be read", batch=run.id, at=at, error=str(error))
            run.work.pause(at, self._clock.monotonic(), retry_after_s=None)
            return 0
        self._under_way += 1
        self._held_bytes += len(line.body)
        task = asyncio.create_task(self._try(run, at, line))
        run.tasks.add(task)
        task.add_done_callback(lambda task: self._ended(run, task, at, line))
        return len(line.body)

    async def _try(self, run: Run, at: int, line: Line) -> None:
        try:
            outcome = await self._run_line(run.row, line)
        except Exception as error:
            log.exception("a line failed", batch=run.id, line=line.number)
            fault = error if isinstance(error, ApiError) else InternalError("The line failed.")
            outcome = LineOutcome("", error=fault)
        self._settle(run, at, line, outcome)

    def _settle(self, run: Run, at: int, line: Line, outcome: LineOutcome) -> None:
        """Decide what follows from a try: an outcome to be kept, or another try."""
        work, now, error = run.work, self._clock.monotonic(), outcome.error
        if error is None:
            row = LineRow(at, True, output_line(run.id, at, line.custom_id, outcome))
        elif outcome.nobody_tried:
            work.pause(at, now, retry_after_s=error.retry_after_s)
            return
        elif outcome.worth_another_try and work.tries(at) < self._attempts:
            work.retry(at, now, retry_after_s=error.retry_after_s)
            return
        else:
            failed = error_line(run.id, at, line.custom_id, error, tries=work.tries(at))
            row = LineRow(at, False, failed)
        self._keep(run, row)

    def _keep(self, run: Run, row: LineRow) -> None:
        """Have an outcome written: the line is over."""
        run.work.answer(row.at, good=row.ok)
        run.unwritten += 1
        self._unwritten.append((run, row))
        self._news.set()
        if len(self._unwritten) >= _GROUP_MAX:
            self._full.set()

    def _ended(self, run: Run, task: asyncio.Task[None], at: int, line: Line) -> None:
        run.tasks.discard(task)
        self._under_way -= 1
        self._held_bytes -= len(line.body)
        # Cancelled, perhaps before its first step: the line is as if it had never been started.
        if task.cancelled():
            run.work.drop(at)
        elif (error := task.exception()) is not None:
            log.error("a line's outcome was lost", batch=run.id, at=at, error=repr(error))
            run.work.retry(at, self._clock.monotonic(), retry_after_s=None)
        self._wakeup.set()
        self._check(run)

    # ── expiry and end ───────────────────────────────────────────────────────────────────────────

    def _next_expiry(self) -> float | None:
        times = [run.row.expires_at for run in self._runs.values() if not run.stopped]
        return min(times, default=None)

    def _stop_expired(self) -> None:
        now = self._clock.wall()
        expiry = self._next_expiry()
        if expiry is None or expiry > now:
            return
        for run in list(self._runs.values()):
            if run.row.expires_at <= now and not run.stopped:
                self.stop_batch(run.id, drop=True)

    def _drop_cancelled(self) -> None:
        now = self._clock.monotonic()
        for run in self._runs.values():
            if run.drop_at_s is not None and run.drop_at_s <= now:
                self._drop(run)

    def _check(self, run: Run) -> None:
        if run.drained and not self._stopping and self._runs.get(run.id) is run:
            del self._runs[run.id]
            self._turns.remove(run)
            self._drained(run)

    # ── writing outcomes ─────────────────────────────────────────────────────────────────────────

    async def _write_outcomes(self) -> None:
        while not self._stopped or self._unwritten:
            await self._news.wait()
            # A transaction a line would cost ten times as much.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_GROUP_S):
                    await self._full.wait()
            if not self._stopped:
                self._news.clear()
                self._full.clear()
            while group := self._unwritten[:_GROUP_MAX]:
                if not await self._write(group):
                    return
                # More may have come while these were written.
                del self._unwritten[: len(group)]
                self._count(group)

    async def _write(self, group: list[tuple[Run, LineRow]]) -> bool:
        """Write a group, however often it takes; False if that fails while we stop."""
        rows = [(run.id, row) for run, row in group]
        failing = False
        while True:
            try:
                await asyncio.to_thread(self._record, rows)
            except Exception as error:
                if not failing:
                    log.error("outcomes cannot be written", error=str(error), lines=len(rows))
                failing = True
                if self._stopped:
                    return False
                await asyncio.sleep(_DATABASE_RETRY_S)
            else:
                return True

    def _count(self, group: list[tuple[Run, LineRow]]) -> None:
        for run, row in group:
            run.unwritten -= 1
            if row.ok:
                run.completed += 1
            else:
                run.failed += 1
        for run in {run for run, _ in group}:
            self._check(run)
        self._wakeup.set()
