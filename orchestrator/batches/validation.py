"""The check of a batch's input file, in a process beside the server."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import msgspec
import structlog

from orchestrator.batches import validate as process_code
from orchestrator.batches.validate import PARTIAL_SUFFIX, Problem, Rules, Validated
from orchestrator.errors import InternalError

__all__ = ["Problem", "Rules", "Validated", "validate"]

log = structlog.get_logger("batches")

_COMPLAINT_MAX_CHARACTERS: Final = 2000


async def validate(path: Path, index: Path, *, rules: Rules) -> Validated:
    """Check the JSONL file ``path``; one without problems leaves ``index`` for `Lines`.

    The work is done by a process of its own, of low priority, which ends when the caller is
    cancelled or dies. Raises `InternalError` where that process cannot begin or does not finish.
    """
    run = _Run(command(path, index, rules=rules))
    # A thread of its own: it waits for seconds, and the few that all share have other work.
    thread = ThreadPoolExecutor(1, "validation")
    ending = asyncio.get_running_loop().run_in_executor(thread, run)
    try:
        done = await asyncio.shield(ending)
    except asyncio.CancelledError:
        run.end()
        await asyncio.wait([ending])
        raise
    except OSError as error:
        log.error("validation cannot be started", error=str(error))
        raise InternalError(
            "The input file could not be checked, because no process could be started: try again"
        ) from error
    finally:
        thread.shutdown(wait=False)
        _forget_partial(index)
    return _answer(done)


class _Run:
    """A process from its start to its end, in a thread.

    Not one of the event loop's: libuv forks, which stopped a server of 600 MB for 14 ms at least,
    where `subprocess`, which shares memory until the other code runs, took half of one.
    """

    def __init__(self, words: list[str]) -> None:
        self._words = words
        self._process: subprocess.Popen[bytes] | None = None
        self._is_over = False

    def __call__(self) -> subprocess.CompletedProcess[bytes]:
        pipe, nothing = subprocess.PIPE, subprocess.DEVNULL
        with subprocess.Popen(  # noqa: S603 (our own interpreter and code; no shell)
            self._words, stdin=nothing, stdout=pipe, stderr=pipe
        ) as process:
            self._process = process
            if self._is_over:  # since before there was a process to kill
                process.kill()
            answer, complaint = process.communicate()
        return subprocess.CompletedProcess(self._words, process.returncode, answer, complaint)

    def end(self) -> None:
        """Kill the process, if need be as soon as there is one."""
        self._is_over = True
        if self._process is not None:
            self._process.kill()  # none that has been waited for: `Popen` remembers


def _answer(done: subprocess.CompletedProcess[bytes]) -> Validated:
    try:
        if done.returncode == 0:
            return msgspec.json.decode(done.stdout, type=Validated)
    except msgspec.DecodeError:
        pass  # the same words for the customer
    tail = done.stderr.decode(errors="replace")[-_COMPLAINT_MAX_CHARACTERS:]
    code = done.returncode
    log.error("validation failed", code=code, stderr=tail)
    ended = f"was ended by signal {-code}" if code < 0 else f"ended with status {code}"
    raise InternalError(f"The input file could not be checked: the check {ended}. Try again")


def _forget_partial(index: Path) -> None:
    """Remove what a process has left that did not come to its end."""
    Path(f"{index}{PARTIAL_SUFFIX}").unlink(missing_ok=True)


def command(path: Path, index: Path, *, rules: Rules) -> list[str]:
    """Return the words that start the check of a file."""
    # By its path: the same code as the server's, wherever that was started and was imported from.
    # -P: nothing is imported from a folder only because the code lies there.
    return [
        sys.executable,
        "-P",
        process_code.__file__,
        str(path),
        str(index),
        msgspec.json.encode(rules).decode(),
        str(os.getpid()),
    ]
