"""The process that checks an input file: what it says, and that nothing of it is left behind."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from orchestrator.batches import validate as process_code
from orchestrator.batches import validation
from orchestrator.batches.validation import Validated
from orchestrator.errors import InternalError
from tests.orchestrator.batches.test_validation import (
    CHAT,
    RULES,
    found_in,
    line,
    messages,
    names,
)


async def test_the_process_finds_what_the_check_finds(tmp_path: Path) -> None:
    content = b"\n".join([line(), b"x", line(custom_id="b", url='/é"\\\n')])
    path = tmp_path / "in put.jsonl"
    path.write_bytes(content)

    found = await validation.validate(path, tmp_path / "index", rules=RULES)

    assert found == found_in(tmp_path, content)
    assert names(tmp_path) == ["in put.jsonl", "input.jsonl"]


async def test_a_good_file_leaves_its_index_whole_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "input.jsonl"
    path.write_bytes(line())

    found = await validation.validate(path, tmp_path / "index", rules=RULES)

    assert found == Validated(1, CHAT, ())
    assert names(tmp_path) == ["index", "input.jsonl"]


async def test_nesting_that_a_reader_deep_in_calls_could_not_take_is_refused(
    tmp_path: Path,
) -> None:
    path = tmp_path / "input.jsonl"
    nested = [line(custom_id=str(n), body="X").replace(b'"X"', b'{"a":' * n + b"1" + b"}" * n)
              for n in (400, 600)]  # fmt: skip
    path.write_bytes(b"\n".join(nested))

    found = await validation.validate(path, tmp_path / "index", rules=RULES)

    assert messages(found) == ["Line 2 nests arrays and objects too deeply"]


def children() -> set[int]:
    """Return the pids of this process's children."""
    found = subprocess.run(
        ["pgrep", "-P", str(os.getpid()), "-f", "validate.py"], capture_output=True, check=False
    )
    return {int(pid) for pid in found.stdout.split()}


@asynccontextmanager
async def waiting(folder: Path) -> AsyncIterator[tuple[asyncio.Task[Validated], int]]:
    """A check that waits for the bytes of its input file, and the pid of its process."""
    path = folder / "input.jsonl"
    os.mkfifo(path)
    before = children()
    task = asyncio.create_task(validation.validate(path, folder / "index", rules=RULES))
    writing = await asyncio.to_thread(os.open, path, os.O_WRONLY)  # returns once it is open there
    try:
        (pid,) = children() - before
        yield task, pid
    finally:
        os.close(writing)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_who_no_longer_waits_ends_the_process(tmp_path: Path) -> None:
    async with waiting(tmp_path) as (task, pid):
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    assert names(tmp_path) == ["input.jsonl"]


async def test_a_caller_who_leaves_before_the_process_has_begun_ends_it_too(
    tmp_path: Path,
) -> None:
    os.mkfifo(tmp_path / "input.jsonl")  # nobody will write to it
    before = children()
    check = validation.validate(tmp_path / "input.jsonl", tmp_path / "index", rules=RULES)
    task = asyncio.create_task(check)
    await asyncio.sleep(0)  # it has asked a thread to begin

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert children() == before


async def test_a_process_that_is_killed_is_an_error_in_words(tmp_path: Path) -> None:
    async with waiting(tmp_path) as (task, pid):
        os.kill(pid, signal.SIGKILL)

        with pytest.raises(InternalError, match="the check was ended by signal 9"):
            await task
    assert names(tmp_path) == ["input.jsonl"]


async def test_the_process_is_of_low_priority(tmp_path: Path) -> None:
    async with waiting(tmp_path) as (_, pid):
        assert os.getpriority(os.PRIO_PROCESS, pid) > os.getpriority(os.PRIO_PROCESS, 0)


async def test_a_file_that_is_not_there_is_an_error_in_words(tmp_path: Path) -> None:
    with pytest.raises(InternalError, match="could not be checked: the check ended with status 1"):
        await validation.validate(tmp_path / "none", tmp_path / "index", rules=RULES)


async def test_a_process_that_cannot_begin_is_an_error_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no-python"))

    with pytest.raises(InternalError, match="no process could be started"):
        await validation.validate(tmp_path / "input.jsonl", tmp_path / "index", rules=RULES)


def test_a_process_whose_parent_died_reads_no_further(tmp_path: Path) -> None:
    path = tmp_path / "input.jsonl"
    os.mkfifo(path)
    words = validation.command(path, tmp_path / "index", rules=RULES)[:-1]
    parent = subprocess.Popen(
        [sys.executable, "-c", "import os, subprocess, sys\n"
         "subprocess.run([*sys.argv[1:], str(os.getpid())])", *words],
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    writing = os.open(path, os.O_WRONLY)  # returns once the check has it open
    poll = select.poll()
    poll.register(writing, select.POLLERR)
    try:
        parent.kill()
        parent.wait()
        with suppress(BrokenPipeError):  # where it has ended already
            os.write(writing, line() + b"\n")

        assert poll.poll(20_000), "the check still has the file open"
    finally:
        os.close(writing)
    assert not (tmp_path / "index").exists()


def test_the_process_imports_nothing_of_the_server() -> None:
    code = "import runpy, sys; runpy.run_path(sys.argv[1]); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, process_code.__file__],
        capture_output=True, check=True, text=True,
    )  # fmt: skip

    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert loaded.isdisjoint({"orchestrator", "asyncio", "sqlalchemy", "starlette", "structlog"})
