"""Starts the CPU worker process, starts it again when it dies, and stops it at the end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import structlog

from orchestrator.clock import Clock
from orchestrator.domain.fleet import WorkerState

FIRST_BACKOFF_S: Final = 0.25
MAX_BACKOFF_S: Final = 30.0
# A worker that lived this long was well: the next death starts the back-off anew.
WELL_AFTER_S: Final = 30.0
STOP_TIMEOUT_S: Final = 5.0

log = structlog.get_logger("worker")


class WorkerSupervisor:
    """``report`` hears "starting" and "restarting"; readiness is the engine's to know."""

    def __init__(
        self,
        *,
        data_dir: Path,
        build_dir: Path,
        threads: int,
        report: Callable[[WorkerState], None],
        clock: Clock,
    ) -> None:
        self._command = [
            sys.executable,
            "-m",
            "orchestrator",
            "worker",
            "--data-dir",
            str(data_dir),
            "--build-dir",
            str(build_dir),
            "--threads",
            str(threads),
            "--parent",
            str(os.getpid()),
        ]
        self._report = report
        self._clock = clock
        self._process: asyncio.subprocess.Process | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    def start(self) -> None:
        self._report("starting")
        self._task = asyncio.create_task(self._run())

    def restart(self) -> None:
        """End a worker that hangs; the supervisor starts another."""
        process = self._process
        if process is not None and process.returncode is None:
            log.warning("worker hangs", pid=process.pid)
            with contextlib.suppress(ProcessLookupError):
                process.kill()

    async def stop(self) -> None:
        """Ask the worker to end, and end it after five seconds."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _run(self) -> None:
        backoff_s = FIRST_BACKOFF_S
        while True:
            started_at = self._clock.monotonic()
            try:
                self._process = await asyncio.create_subprocess_exec(*self._command)
            except OSError as error:
                log.error("worker cannot be started", error=str(error))
                code: int | None = None
            else:
                log.info("worker started", pid=self._process.pid)
                code = await self._process.wait()
            if self._clock.monotonic() - started_at > WELL_AFTER_S:
                backoff_s = FIRST_BACKOFF_S
            log.warning("worker died", code=code, restart_in_s=backoff_s)
            self._report("restarting")
            await asyncio.sleep(backoff_s)
            backoff_s = min(backoff_s * 2, MAX_BACKOFF_S)
