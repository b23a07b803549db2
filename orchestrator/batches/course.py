"""Takes every batch from one state to the next, from the check of its input to its end.

    validating → in_progress → finalizing → completed        validating → failed
    validating, in_progress → cancelling → cancelled         in_progress → expired

States are in the database and change there first. Whatever a batch was in the middle of when the
server ended is begun again at the next start: each step leads to the same when it is done twice.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Collection, Coroutine, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final, TypeVar

import structlog

from orchestrator.batches.closing import Closing, problems
from orchestrator.batches.runner import LineRunner, Run, Runner
from orchestrator.batches.spool import Spool
from orchestrator.batches.validation import Problem
from orchestrator.clock import Clock
from orchestrator.errors import ApiError, InternalError, InvalidBatch, StorageError
from orchestrator.settings import Settings
from orchestrator.storage.batches import Batches, BatchRow
from orchestrator.storage.objects import NoSuchObject, Objects

_CLOSINGS_AT_ONCE: Final = 2
_RETRY_MAX_S: Final = 60.0

log = structlog.get_logger("batches")

_T = TypeVar("_T")


class Course:
    """Keeps all batches going; made and used on the event loop."""

    def __init__(
        self,
        *,
        settings: Settings,
        batches: Batches,
        objects: Objects,
        spool: Spool,
        run_line: LineRunner,
        supply: Callable[[], int],
        clock: Clock,
        rng: random.Random,
    ) -> None:
        self._retry_s = settings.batch_retry_s
        self._wall = clock.wall
        self._batches = batches
        self._spool = spool
        self._runner = Runner(
            settings=settings,
            lines=spool.lines,
            run_line=run_line,
            record=batches.record,
            drained=lambda run: self.spawn(self._close(run.id)),
            supply=supply,
            clock=clock,
            rng=rng,
        )
        self._closing = Closing(
            batches=batches,
            objects=objects,
            open_lines=spool.open,
            clock=clock,
            retention_s=settings.file_retention_s,
        )
        self._closings = asyncio.Semaphore(_CLOSINGS_AT_ONCE)
        # From the first line on until the batch has ended: their counts are the newest.
        self._runs: dict[str, Run] = {}
        # Cancelled while they were being made ready to run.
        self._cancelled: set[str] = set()
        self._tasks: set[asyncio.Task[Any]] = set()

    async def start(self) -> None:
        """Take up all batches where they were left."""
        self._runner.start()
        rows = await asyncio.to_thread(self._batches.under_way)
        self.spawn(self._resume(rows))

    async def stop(self, within_s: float, *, finish: Collection[asyncio.Task[Any]] = ()) -> None:
        """Let lines under way end (`Runner.stop`), keep what they led to, end all tasks.

        Tasks of its own in ``finish`` have as long to end by themselves.
        """
        ending = [self._runner.stop(within_s)]
        if finish:
            ending.append(_wait(finish, within_s))
        await asyncio.gather(*ending)
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._spool.release_all()

    def spawn(self, work: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        """Do some work that ends with the server at the latest."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def wake(self) -> None:
        """Look at the clocks and at the supply again, now."""
        self._runner.wake()

    def counts(self, batch_id: str) -> tuple[int, int] | None:
        """Return how many lines are completed and failed by now; None if memory cannot tell."""
        run = self._runs.get(batch_id)
        return None if run is None else (run.completed, run.failed)

    def cancel(self, batch_id: str) -> None:
        """Start no more lines of a batch that is ``cancelling`` from now on."""
        self._cancelled.add(batch_id)
        self._runner.stop_batch(batch_id)

    async def check(self, row: BatchRow) -> BatchRow:
        """Check the input of a batch whose lines are not known yet, and begin to run them.

        Raises `InvalidBatch` with the first problem of the input, and `InternalError` where it
        cannot be checked; the batch has failed then, and keeps all problems. Nothing else stops it:
        a database or a store that is not there is waited for.
        """

        async def refuse(found: Sequence[Problem], code: str) -> None:
            await self._insist(row.id, partial(self._refuse, row, found, code=code))

        try:
            found = await self._insist(row.id, partial(self._spool.check, row), told=InternalError)
        except InternalError as error:
            await refuse([Problem(error.message)], error.code)
            raise
        if found.problems:
            await refuse(found.problems, InvalidBatch.default_code)
            first = found.problems[0]
            raise InvalidBatch(first.message, param=first.param, line=first.line, batch_id=row.id)
        moved = await self._insist(
            row.id, lambda: asyncio.to_thread(self._checked, row, found.total)
        )
        await self._insist(row.id, partial(self._begin, moved))
        return moved

    def _checked(self, row: BatchRow, total: int) -> BatchRow:
        moved = self._batches.move(
            row.id, before=["validating"], to="in_progress", now=self._wall(), total=total
        )
        if moved is not None:
            return moved
        # Cancelled while it was checked: all its lines are to be told so. (Or moved before, by a
        # write that was reported as failed.)
        self._batches.set_total(row.id, total)
        return self._batches.find(row.id) or replace(row, status="cancelling", total=total)

    async def _refuse(self, row: BatchRow, found: Sequence[Problem], *, code: str) -> None:
        """Let a batch fail for what is wrong with its input; a cancelled one is just cancelled."""
        entries: list[dict[str, object]] = [
            {"code": code, "message": one.message, "line": one.line, "param": one.param}
            for one in found
        ]
        failed = await asyncio.to_thread(
            self._batches.move,
            row.id,
            before=["validating"],
            to="failed",
            now=self._wall(),
            errors=problems(entries),
        )
        if failed is None:
            await self._close(row.id)
        else:
            await asyncio.to_thread(self._spool.forget, row.id)

    async def _begin(self, row: BatchRow) -> None:
        """Run the lines of a batch whose input was checked, or as many as it has left."""
        if not await self._can_read(row):
            await self._close(row.id)
            return
        done = await asyncio.to_thread(self._batches.done, row.id)
        self._runs[row.id] = self._runner.add(row, answered=done.at, good=done.completed)
        if row.status == "cancelling" or row.id in self._cancelled:
            self._runner.stop_batch(row.id)

    async def _can_read(self, row: BatchRow) -> bool:
        """Return whether a batch's lines are there, or could be had from its input file again."""
        if await asyncio.to_thread(self._fits, row):
            return True
        log.error("a batch's copy of its input is damaged", batch=row.id)
        try:
            await self._spool.fetch(row.id, row.input_file_id)
            await self._spool.check(row)
        except NoSuchObject:
            return False
        return await asyncio.to_thread(self._fits, row)

    def _fits(self, row: BatchRow) -> bool:
        try:
            with self._spool.open(row.id) as lines:
                return len(lines) == row.total
        except StorageError:
            return False

    async def _close(self, batch_id: str) -> None:
        """End a batch of which nothing is under way, however long the store takes to be there."""
        self._spool.release(batch_id)
        row = await self._insist(batch_id, lambda: self._close_once(batch_id))
        log.info(
            "batch ended", batch=batch_id, status=row.status, ok=row.completed, failed=row.failed
        )
        self._runs.pop(batch_id, None)
        self._cancelled.discard(batch_id)
        await asyncio.to_thread(self._spool.forget, batch_id)

    async def _close_once(self, batch_id: str) -> BatchRow:
        async with self._closings:
            return await self._closing.close(batch_id)

    # ── taking up again ──────────────────────────────────────────────────────────────────────────

    async def _resume(self, rows: list[BatchRow]) -> None:
        for row in rows:
            begin = self._check_again if row.total == 0 else self._begin
            self.spawn(self._insist(row.id, partial(begin, row)))
        for batch_id in await asyncio.to_thread(self._batches.ended_with_lines):
            await asyncio.to_thread(self._batches.drop_lines, batch_id)

    async def _check_again(self, row: BatchRow) -> None:
        try:
            if not self._spool.holds(row.id):
                await self._spool.fetch(row.id, row.input_file_id)
        except NoSuchObject:
            gone = Problem(f"Input file object missing: {row.input_file_id}")
            await self._refuse(row, [gone], code=InvalidBatch.default_code)
            return
        try:
            await self.check(row)
        except (InvalidBatch, InternalError) as error:
            log.info("a batch was refused after a restart", batch=row.id, error=error.message)

    async def _insist(
        self,
        batch_id: str,
        step: Callable[[], Coroutine[Any, Any, _T]],
        *,
        told: tuple[type[ApiError], ...] | type[ApiError] = (),
    ) -> _T:
        """Do a step again and again until the store and the database let it; raises ``told``."""
        wait_s = self._retry_s
        while True:
            try:
                return await step()
            except told:
                raise
            except Exception as error:
                log.error("a batch cannot go on yet", batch=batch_id, error=str(error))
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, _RETRY_MAX_S)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        # What a customer is told is nothing to log.
        if error is not None and not isinstance(error, ApiError):
            log.error("a task of the batches failed", error=repr(error))


async def _wait(tasks: Collection[asyncio.Task[Any]], within_s: float) -> None:
    await asyncio.wait(tasks, timeout=within_s)
