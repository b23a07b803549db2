"""Processes under measurement: started, pinned, read from `/proc` and ended by their own pid."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
# Linux's CPUCLOCK_SCHED: of a process's clocks the one that is in nanoseconds.
_SCHEDULED: Final = 2


def cpu_seconds(pid: int) -> float:
    """Return the user and system time of a process, all of its threads included."""
    # `clock_getcpuclockid(3)`, which Python lacks: `/proc` counts in hundredths of a second.
    return time.clock_gettime((~pid << 3) | _SCHEDULED)


def main_cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process's main thread, where a server's event loop runs."""
    return int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[0]) / 1e9


def thread_cpu_seconds(pid: int, name: str) -> float:
    """Return the CPU time of the process's threads whose name starts with ``name``."""
    total = 0.0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # a thread that ended meanwhile
            if (task / "comm").read_text().startswith(name):
                total += _cpu_of(task / "stat")
    return total


def _cpu_of(stat: Path) -> float:
    # The name may hold spaces and brackets; what follows its last one has fixed places.
    fields = stat.read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def unique_mb(pid: int) -> float:
    """Return the memory that would come back if the process ended (USS), in 10⁶ bytes."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    kilobytes = sum(int(size) for size in re.findall(r"Private_\w+:\s+(\d+) kB", rollup))
    return kilobytes * 1024 / 1e6


def descendants(pid: int) -> list[int]:
    """Return the pids of all processes below ``pid``."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    found: list[int] = []
    open_ = [pid]
    while open_:
        below = children.get(open_.pop(), [])
        found += below
        open_ += below
    return found


def command_line(pid: int) -> list[str]:
    """Return a process's arguments; none once it is gone."""
    try:
        raw = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return []
    # Chromium rewrites its children's title: blanks in place of the zeros.
    return raw.replace(b"\0", b" ").decode(errors="replace").split()


class Pinning:
    """One processor for the server under measurement, another for all that measures it."""

    def __init__(self) -> None:
        allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        can = len(allowed) > 1
        self.server: int | None = allowed[0] if can else None
        self.others: int | None = allowed[1] if can else None

    def pin_server(self, pid: int) -> None:
        _pin(pid, self.server)

    def pin_other(self, pid: int) -> None:
        _pin(pid, self.others)


def _pin(pid: int, processor: int | None) -> None:
    if processor is None:
        return
    # Threads that exist keep their own affinity, so each is told.
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(int(task.name), {processor})


@contextlib.contextmanager
def module(name: str, *words: str) -> Iterator[subprocess.Popen[str]]:
    """Run ``python -m name words…`` with pipes; it ends with the block, whatever happens in it."""
    process = subprocess.Popen(
        [sys.executable, "-m", name, *words],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


def first_line(process: subprocess.Popen[str]) -> str:
    """Return the first line a process prints; raises `RuntimeError` if it ends without one."""
    assert process.stdout is not None
    line = process.stdout.readline().strip()
    if not line:
        raise RuntimeError(f"{process.args!r} ended with {process.wait()} and said nothing")
    return line
