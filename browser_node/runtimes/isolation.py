"""Runs attempts that may take a process down in a child process of their own: `isolated`.

Rules: one attempt at a time. Each begins with a `load`, which also shows that the child is well, so
that only what dies with the attempt itself is blamed on the input. A child that failed in any way
is not trusted with the next attempt; one that is not needed for a while ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from browser_node import protocol as p
from browser_node.runtimes import isolated
from browser_node.runtimes.isolated import LENGTH_BYTES, ONNX_RUNNER, OUT_OF_MEMORY_EXIT, Terms
from browser_node.runtimes.seams import Log
from browser_node.work import Outcome

# How long the end of a child takes to be known once its pipe is closed.
_DYING_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a child may take.

    ``wall_s``: the longest honest input, 3,500 tokens to be summarised, takes 1.1 s of one
    processor. ``memory_bytes``, on top of the loaded model: the largest honest input takes 24 MB.
    ``start_s``: importing and opening take 1.2 s of one processor.
    """

    wall_s: float = 10.0
    memory_bytes: int = 512 << 20
    start_s: float = 30.0
    idle_s: float = 60.0


class IsolatedProcess:
    """The driver's `Isolation`: one child, started at the first attempt and kept warm."""

    def __init__(
        self,
        models_dir: Path,
        *,
        threads: int,
        log: Log,
        bounds: Bounds | None = None,
        runner: str = ONNX_RUNNER,
    ) -> None:
        self._models_dir = models_dir
        self._threads = threads
        self._log = log
        self._bounds = bounds or Bounds()
        self._runner = runner
        self._turn = asyncio.Lock()
        self._child: _Child | None = None
        # Whoever is cancelled cannot wait for what it has killed.
        self._killed: list[_Child] = []
        self._idle: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """The child's process id, while there is one."""
        return None if self._child is None else self._child.process.pid

    async def run(self, item: p.JobItem) -> Outcome:
        """Return the outcome, whatever becomes of the child; only cancelling raises."""
        async with self._turn:
            if self._idle is not None:
                self._idle.cancel()
            try:
                outcome = await self._outcome(item)
            except BaseException:
                self._kill()
                raise
            if isinstance(outcome, p.Failed):
                self._log("isolated_attempt_failed", blame=outcome.blame, code=outcome.code)
                await self._end()
            else:
                self._idle = asyncio.create_task(self._retire())
            return outcome

    async def close(self) -> None:
        """End the child, if there is one; an attempt it runs counts as crashed."""
        if self._idle is not None:
            self._idle.cancel()
        await self._end()

    async def _end(self) -> None:
        self._kill()
        while self._killed:
            await self._killed.pop().gone()

    async def _outcome(self, item: p.JobItem) -> Outcome:
        try:
            child = await self._loaded(item.digest)
        except _Broken as error:
            code, message = "isolation_unavailable", str(error)[:200]
            return p.Failed(attempt_id=item.attempt_id, blame="node", code=code, message=message)
        try:
            match await child.ask(p.Jobs(items=(item,)), within_s=self._bounds.wall_s):
                case p.Results(items=(result,)) if result.attempt_id == item.attempt_id:
                    return result
                case p.Failed(attempt_id=item.attempt_id) as failed:
                    return failed
                case other:
                    raise _Broken(f"it answered with {type(other).__name__}")
        except TimeoutError:
            code = p.TIMED_OUT_IN_ISOLATION
        except _Broken:
            code = _code_of(await child.exit_code())
        return p.Failed(
            attempt_id=item.attempt_id, blame="input", code=code, message=self._sentence(code)
        )

    async def _loaded(self, digest: str) -> _Child:
        """Return a child that has the model; raises `_Broken` when a fresh one cannot."""
        load = p.Load(recipe=p.Recipe(model_id="", version="", digest=digest))
        while True:
            child = self._child
            is_fresh = child is None
            if child is None:
                child = self._child = await self._start()
            try:
                reply = await child.ask(load, within_s=self._bounds.start_s)
                if isinstance(reply, p.Ready):
                    return child
                raise _Broken(reply.message if isinstance(reply, p.Failed) else "no answer")
            except (_Broken, TimeoutError) as error:
                await self._end()
                if is_fresh:
                    told = f"The process for isolated attempts did not start: {error or 'time out'}"
                    raise _Broken(told) from error

    async def _start(self) -> _Child:
        await self._end()
        terms = Terms(
            parent=os.getpid(),
            runner=self._runner,
            models_dir=str(self._models_dir),
            threads=self._threads,
            memory_bytes=self._bounds.memory_bytes,
            wall_s=self._bounds.wall_s,
        )
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                isolated.__name__,
                msgspec.json.encode(terms).decode(),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
            )
        except OSError as error:
            raise _Broken(f"The process for isolated attempts did not start: {error}") from error
        self._log("isolation_started", pid=process.pid)
        return _Child(process)

    def _sentence(self, code: str) -> str:
        match code:
            case p.TIMED_OUT_IN_ISOLATION:
                return f"This input alone took more than {self._bounds.wall_s:g} s of computing."
            case p.OUT_OF_MEMORY_IN_ISOLATION:
                more = self._bounds.memory_bytes >> 20
                return f"This input alone took more than {more} MiB of memory."
            case _:
                return "This input ended the process that computed it and nothing else."

    async def _retire(self) -> None:
        await asyncio.sleep(self._bounds.idle_s)
        await self._end()

    def _kill(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._killed.append(self._child)
            self._child = None


class _Broken(Exception):
    """The child is gone, or talks nonsense."""


class _Child:
    """One process and its pipes."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        if process.stdin is None or process.stdout is None:
            raise ValueError("the child's pipes are missing")
        self.process = process
        self._stdin = process.stdin
        self._stdout = process.stdout

    async def ask(self, frame: p.Frame, *, within_s: float) -> p.NodeFrame:
        """Send a frame and return the answer; raises `_Broken` and `TimeoutError`."""
        try:
            body = p.encode(frame)
            async with asyncio.timeout(within_s):
                self._stdin.write(len(body).to_bytes(LENGTH_BYTES) + body)
                await self._stdin.drain()
                size = int.from_bytes(await self._stdout.readexactly(LENGTH_BYTES))
                if size > p.MAX_FRAME_BYTES:
                    raise _Broken(f"it announced a frame of {size} bytes")
                return p.decode_from_node(await self._stdout.readexactly(size))
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise _Broken("it ended") from error
        except p.ProtocolError as error:
            raise _Broken(str(error)) from error

    async def exit_code(self) -> int:
        """Return how the process ended; one that does not end by itself is killed."""
        try:
            async with asyncio.timeout(_DYING_S):
                return await self.process.wait()
        except TimeoutError:
            self.kill()
            await self.process.wait()
            # It was alive and talked nonsense: that SIGKILL was not the kernel's.
            return 1

    async def gone(self) -> None:
        """Wait until the process has ended, and close its pipes.

        They may be told of the end after `wait` has been, which is too late for a loop that ends
        then; and nothing but the transport closes both, whoever may be reading.
        """
        await self.process.wait()
        self.process._transport.close()  # type: ignore[attr-defined]
        await asyncio.sleep(0)

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()


def _code_of(exit_code: int) -> str:
    # A SIGKILL that is not ours is the kernel's, for want of memory.
    if exit_code in (OUT_OF_MEMORY_EXIT, -signal.SIGKILL):
        return p.OUT_OF_MEMORY_IN_ISOLATION
    if exit_code == -signal.SIGXCPU:
        return p.TIMED_OUT_IN_ISOLATION
    return p.CRASHED_IN_ISOLATION
