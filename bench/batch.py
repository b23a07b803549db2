"""What batches cost those who do not wait for them, and what a crash costs a batch.

A batch of short lines runs to its end on the CPU worker and two tabs in real Chromium, which share
the machine; a visitor asks a short question, again 0.1 s after each answer, before and meanwhile.
Then a file of 100 MB is uploaded, checked and begun. Then a batch on stub nodes, so that lines come
thick and fast, whose server is killed (SIGKILL) at random moments and started again: at the end
each line of the input must be in exactly one of the two files, once.
"""

from __future__ import annotations

import contextlib
import random
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
from playwright.sync_api import sync_playwright

from bench import chromium
from bench.batch_client import Customer, Visitor, write_input
from bench.load import quantile
from bench.processes import first_line, module, unique_mb
from bench.report import Figure, Section, Table
from bench.stub import TRUSTING
from e2e.server import Server, eventually, serving

TARGET_P95_RATIO: Final = 2.0
TARGET_GROWTH_MB: Final = 60.0
_TABS: Final = 2
_PAUSE_S: Final = 0.1
_SHORT_BYTES: Final = 200
_SAMPLE_S: Final = 0.2
_KILL_AFTER_S: Final = (0.2, 2.0)


class Sizes(msgspec.Struct, frozen=True, kw_only=True):
    """How much to do. ``timeout_s`` is that of each batch."""

    lines: int
    idle_s: float
    large_mb: int
    killed_lines: int
    kills: int
    timeout_s: float


FULL: Final = Sizes(
    lines=50_000, idle_s=30, large_mb=100, killed_lines=20_000, kills=10, timeout_s=1800
)
QUICK: Final = Sizes(lines=2_000, idle_s=5, large_mb=10, killed_lines=4_000, kills=2, timeout_s=180)


class Waits(msgspec.Struct, frozen=True):
    """What a visitor's answers took, in ms."""

    answers: int
    failed: int
    p50: float
    p95: float


class Run(msgspec.Struct, frozen=True):
    """A batch of short lines beside a visitor. Memory is the server's, in 10⁶ bytes.

    ``edge_share`` is the part of all answers meanwhile that tabs gave.
    """

    seconds: float
    idle: Waits
    during: Waits
    counts: dict[str, int]
    edge_share: float
    growth_mb: float
    wrong_lines: int


class Large(msgspec.Struct, frozen=True):
    upload_s: float
    create_s: float
    growth_mb: float


class Killed(msgspec.Struct, frozen=True):
    kills: int
    seconds: float
    status: str
    wrong_lines: int


class Memory:
    """The most memory that a process has had since, in 10⁶ bytes more than at the beginning."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._before_mb = self._most_mb = unique_mb(pid)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="memory")

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        self._thread.join()

    @property
    def growth_mb(self) -> float:
        return self._most_mb - self._before_mb

    def look(self) -> None:
        with contextlib.suppress(OSError):  # it is gone
            self._most_mb = max(self._most_mb, unique_mb(self._pid))

    def _watch(self) -> None:
        while not self._over.wait(_SAMPLE_S):
            self.look()


def measure(sizes: Sizes, *, seed: int) -> Section:
    """Do all three; each has a server of its own, ended with it."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        with serving(place / "run", env=TRUSTING) as server, _tabs(server, place):
            run = _run(server, place, sizes)
            large = _large(server, place, sizes)
        killed = _killed(place, sizes, random.Random(seed))
    return report(sizes, run, large, killed)


def _run(server: Server, place: Path, sizes: Sizes) -> Run:
    customer = Customer(server)
    path = place / "short.jsonl"
    write_input(path, lines=sizes.lines, bytes_per_line=_SHORT_BYTES)
    file_id = customer.upload(path)
    # What is made once, such as threads and caches of the token counter, is there by then.
    warm = place / "warm.jsonl"
    write_input(warm, lines=100, bytes_per_line=_SHORT_BYTES)
    customer.wait(customer.create(customer.upload(warm)), timeout_s=sizes.timeout_s)
    with Visitor(server, pause_s=_PAUSE_S) as before:
        before.stay(sizes.idle_s)
    before_edge, before_all = _answered(server)
    started = time.monotonic()
    with Memory(server.pid) as memory:
        batch_id = customer.create(file_id)
        with Visitor(server, pause_s=_PAUSE_S) as meanwhile:
            batch = customer.wait(batch_id, timeout_s=sizes.timeout_s)
    seconds = time.monotonic() - started
    edge, all_ = _answered(server)
    return Run(
        seconds=seconds,
        idle=_waits(before),
        during=_waits(meanwhile),
        counts=batch["request_counts"],
        edge_share=(edge - before_edge) / (all_ - before_all),
        growth_mb=memory.growth_mb,
        wrong_lines=wrong_lines(customer, batch, sizes.lines),
    )


def _large(server: Server, place: Path, sizes: Sizes) -> Large:
    """Upload and begin as much as a batch may have; what becomes of it is not waited for."""
    customer = Customer(server)
    path = place / "large.jsonl"
    count = min(50_000, sizes.large_mb * 500)
    write_input(path, lines=count, bytes_per_line=sizes.large_mb * 1_000_000 // count)
    with Memory(server.pid) as memory:
        started = time.monotonic()
        file_id = customer.upload(path)
        uploaded = time.monotonic()
        batch_id = customer.create(file_id)
        created = time.monotonic()
        eventually(
            lambda: customer.batch(batch_id)["request_counts"]["completed"] > 50,
            timeout_s=sizes.timeout_s,
            what="the first lines of the large batch",
        )
        customer.cancel(batch_id)
    return Large(uploaded - started, created - uploaded, memory.growth_mb)


def _killed(place: Path, sizes: Sizes, rng: random.Random) -> Killed:
    path = place / "killed.jsonl"
    write_input(path, lines=sizes.killed_lines, bytes_per_line=_SHORT_BYTES)
    server = Server(place / "killed", "--no-cpu-worker", env=TRUSTING)
    customer = Customer(server)
    started = time.monotonic()
    batch_id = ""
    kills = 0
    try:
        while True:
            server.start()
            with _stubs(server) as stubs:
                first_line(stubs)
                batch_id = batch_id or customer.create(customer.upload(path))
                if kills == sizes.kills:
                    batch = customer.wait(batch_id, timeout_s=sizes.timeout_s)
                    break
                time.sleep(rng.uniform(*_KILL_AFTER_S))
                server.kill()
                kills += 1
        wrong = wrong_lines(customer, batch, sizes.killed_lines)
        return Killed(kills, time.monotonic() - started, batch["status"], wrong)
    finally:
        server.close()


def wrong_lines(customer: Customer, batch: dict[str, Any], lines: int) -> int:
    """Return how many lines of the input are not in exactly one of the two files, once."""
    found = customer.custom_ids(batch)
    wanted = {f"line-{number}" for number in range(lines)}
    return sum(found[line] != (line in wanted) for line in wanted | set(found))


def _waits(visitor: Visitor) -> Waits:
    ordered = sorted(visitor.waits_ms)
    return Waits(len(ordered), visitor.failed, quantile(ordered, 0.5), quantile(ordered, 0.95))


def _answered(server: Server) -> tuple[int, int]:
    """Return how many jobs tabs have answered, and how many all have."""
    stats = server.stats()
    return stats["jobs_answered_edge"], stats["jobs_answered"]


@contextlib.contextmanager
def _tabs(server: Server, place: Path) -> Iterator[None]:
    """Have tabs donate for the length of a block, each in a browser of its own, once ready."""
    with sync_playwright() as playwright, contextlib.ExitStack() as stack:
        for number in range(_TABS):
            folder = place / f"profile-{number}"
            context = stack.enter_context(chromium.profile(playwright, folder))
            chromium.marked(chromium.donate(context, server.url), "ready")
        yield


def _stubs(server: Server) -> contextlib.AbstractContextManager[subprocess.Popen[str]]:
    words = ("--url", server.url, "--data-dir", str(server.data_dir))
    return module("bench.stub", *words, "--nodes", "4", "--worker-slots", "64")


def report(sizes: Sizes, run: Run, large: Large, killed: Killed) -> Section:
    """Return what interactive requests, the server's memory and the lines came to."""
    rows = [
        (when, str(waits.answers), str(waits.failed), f"{waits.p50:.1f}", f"{waits.p95:.1f}")
        for when, waits in (("before", run.idle), ("meanwhile", run.during))
    ]
    figures = [
        Figure(
            "interactive p95 meanwhile ÷ before",
            run.during.p95 / run.idle.p95,
            "×",
            TARGET_P95_RATIO,
        ),
        Figure("interactive requests that failed", run.idle.failed + run.during.failed, "", 0),
        Figure(f"{sizes.lines:,} short lines", run.seconds, "s"),
        Figure("lines a second", sizes.lines / run.seconds, ""),
        Figure("lines lost, doubled or failed", run.wrong_lines + run.counts["failed"], "", 0),
        Figure("answered by tabs, of all", run.edge_share * 100, "%"),
        Figure("memory growth meanwhile", run.growth_mb, "MB", TARGET_GROWTH_MB),
        Figure(f"upload of {sizes.large_mb} MB", large.upload_s, "s"),
        Figure("its batch made", large.create_s, "s"),
        Figure("memory growth with it", large.growth_mb, "MB", TARGET_GROWTH_MB),
        Figure(f"kills of a batch of {sizes.killed_lines:,} lines", killed.kills, ""),
        Figure("its lines lost or doubled", killed.wrong_lines, "", 0),
        Figure("its time in all", killed.seconds, "s"),
    ]
    columns = ("interactive requests", "answers", "failed", "p50 ms", "p95 ms")
    note = (
        f"CPU worker and {_TABS} tabs at half a processor each; lines of {_SHORT_BYTES} bytes."
        f" The killed batch ended as {killed.status}."
    )
    return Section(
        "batch", "Batches beside interactive requests", figures, [Table(columns, rows)], note
    )
