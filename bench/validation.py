"""What the check of a batch's input file costs, beside a plain `json.loads` of each line."""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import msgspec
import uvloop

from bench.report import Figure, Section, Table
from orchestrator.batches.lines import Lines
from orchestrator.batches.validation import Rules, command, validate

TARGET_S: Final = 3.0
TARGET_MB: Final = 60.0
_URL: Final = "/v1/chat/completions"
_RULES: Final = Rules(
    endpoint=_URL, allowed=(_URL,), max_bytes=200 << 20, max_lines=50_000, line_max_bytes=1 << 20
)
_PEER: Final = "import json, sys\nfor line in open(sys.argv[1], 'rb'): json.loads(line)"
# Starts a command and prints its seconds, CPU seconds and most memory. A process of its own, and a
# small one: the kernel counts what the starter holds at the start as the started one's memory.
_TIMER: Final = """
import os, subprocess, sys, time
started_at = time.perf_counter()
words = [str(os.getpid()) if word == "PARENT" else word for word in sys.argv[1:]]
process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
_, status, used = os.wait4(process.pid, 0)
print(time.perf_counter() - started_at, used.ru_utime + used.ru_stime, used.ru_maxrss, status)
"""
_TICK_S: Final = 0.001


class Cost(msgspec.Struct, frozen=True):
    seconds: float
    cpu_seconds: float
    most_mb: float


def measure(*, lines: int, bytes_per_line: int, runs: int) -> Section:
    """Check one file ``runs`` times, and read it as often with the standard library."""
    with tempfile.TemporaryDirectory() as folder:
        path, index = Path(folder) / "input.jsonl", Path(folder) / "index"
        size_mb = write_input(path, lines=lines, bytes_per_line=bytes_per_line) / 1e6
        check = [*command(path, index, rules=_RULES)[:-1], "PARENT"]
        peer = [sys.executable, "-c", _PEER, str(path)]
        costs: dict[str, list[Cost]] = {"the check": [], "json.loads of each line": []}
        for _ in range(runs):  # in turn, so that a busy moment falls on both
            costs["the check"].append(_cost(check))
            costs["json.loads of each line"].append(_cost(peer))
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            pause_ms = runner.run(_longest_pause_ms(path, index, lines=lines))
        read_us = _read_us(path, index)
    return report(costs, pause_ms=pause_ms, read_us=read_us, lines=lines, size_mb=size_mb)


def write_input(path: Path, *, lines: int, bytes_per_line: int) -> int:
    """Write a good input file, one line in four with letters beyond ASCII; return its bytes."""
    rng = random.Random(4)
    words = ["ferry", "harbour", "lantern", "the", "of", "late", "morning", "and", "water"]
    with path.open("w", encoding="utf-8") as file:
        for number in range(lines):
            text = " ".join(rng.choices(words, k=bytes_per_line // 6))
            if number % 4 == 0:
                text = text.replace("late", "späť")
            body = {"model": "m", "messages": [{"role": "user", "content": text}]}
            line = {"custom_id": f"line-{number}", "method": "POST", "url": _URL, "body": body}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    return path.stat().st_size


def _cost(words: list[str]) -> Cost:
    done = subprocess.run(
        [sys.executable, "-S", "-c", _TIMER, *words], capture_output=True, check=True, text=True
    )
    seconds, cpu_seconds, most_kb, status = done.stdout.split()
    if status != "0":
        raise RuntimeError(f"{words[1:3]} ended with {status}: {done.stderr}")
    return Cost(float(seconds), float(cpu_seconds), int(most_kb) * 1024 / 1e6)


async def _longest_pause_ms(path: Path, index: Path, *, lines: int) -> float:
    """Return by how much the caller's event loop was ever late while it waited for a check."""
    check = asyncio.create_task(validate(path, index, rules=_RULES))
    longest_s = 0.0
    while not check.done():
        started_at = time.perf_counter()
        await asyncio.sleep(_TICK_S)
        longest_s = max(longest_s, time.perf_counter() - started_at - _TICK_S)
    if (found := check.result()).problems or found.total != lines:
        raise RuntimeError(f"a good file was refused: {found}")
    return longest_s * 1000


def _read_us(path: Path, index: Path) -> float:
    """Return the mean microseconds to read a line by its position, in no order."""
    with Lines(path, index) as lines:
        order = random.Random(5).sample(range(len(lines)), len(lines))
        started_at = time.perf_counter()
        for at in order:
            lines[at]
        return (time.perf_counter() - started_at) / len(lines) * 1e6


def report(
    costs: dict[str, list[Cost]], *, pause_ms: float, read_us: float, lines: int, size_mb: float
) -> Section:
    medians = {
        name: Cost(
            statistics.median(cost.seconds for cost in runs),
            statistics.median(cost.cpu_seconds for cost in runs),
            max(cost.most_mb for cost in runs),
        )
        for name, runs in costs.items()
    }
    rows = [
        (name, f"{cost.seconds:.2f}", f"{cost.cpu_seconds:.2f}", f"{cost.most_mb:.0f}")
        for name, cost in medians.items()
    ]
    check, peer = medians.values()
    figures = [
        Figure("check of a file", check.seconds, "s", TARGET_S),
        Figure("most memory of the check", check.most_mb, "MB", TARGET_MB),
        Figure("CPU time, of that of json.loads", check.cpu_seconds / peer.cpu_seconds, "×"),
        Figure("longest pause of the server's loop meanwhile", pause_ms, "ms"),
        Figure("reading a line by its position", read_us, "µs"),
    ]
    columns = ("pass over the file", "median s", "CPU s", "most MB")
    note = (
        f"{lines} lines, {size_mb:.0f} MB; the start of each process included. The check also looks"
        " for double ids, urls and streams, and writes the index."
    )
    return Section("validation", "Check of a batch's input", figures, [Table(columns, rows)], note)
