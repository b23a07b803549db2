"""A fuzzer on the public API: does anything it can be sent crash it, fill it up or stop it?

A real server with a real key and stub nodes; `fuzz_cases` makes what is sent. Every answer must be
one that the documentation has, no answer a 500, and nothing an exception in the server's log; a
good request goes out all the time beside it. Memory is the server's RSS by the second, descriptors
are counted before and after. A case that finds something is kept as it was sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import re
import statistics
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec
import uvloop

from bench.fuzz_answers import Answer, Answers, problem_with
from bench.fuzz_cases import Case, Cases
from bench.fuzz_valid import EMBEDDINGS, SUMMARY, Known, Request, batch_input, upload
from bench.load import quantile
from bench.processes import first_line, module
from bench.report import Figure, Section, Table
from bench.stub import TRUSTING, UNLIMITED
from e2e.server import Server, serving

TARGET_GROWTH_MB: Final = 20.0
_CONNECTIONS: Final = 8
_SAMPLE_S: Final = 0.5
_PROBE_LIMIT_S: Final = 5.0
# Far beyond what the server gives a silent client under `_ENVIRONMENT`.
_LIMIT_S: Final = 12.0
# After a whole answer: is there more, or is the connection merely kept alive?
_SETTLED_S: Final = 0.1
_KEPT: Final = 25
_ADDRESS: Final = re.compile(r"0x[0-9a-f]+")
_ENVIRONMENT: Final = {
    **TRUSTING,
    # No limit of one key hides what lies behind it.
    **UNLIMITED,
    # Silent clients end within the run.
    "ZEROGPU_HEADERS_TIMEOUT_S": "2",
    "ZEROGPU_BODY_TIMEOUT_S": "2",
    "ZEROGPU_UPLOAD_IDLE_S": "2",
    # What is kept on purpose is not a leak: it is full before the memory is looked at.
    "ZEROGPU_IDEMPOTENCY_MAX_BYTES": "65536",
    # Nor is what the C library keeps for each thread, and gives to nobody else, for a while longer.
    "MALLOC_ARENA_MAX": "1",
}


class Problem(msgspec.Struct, frozen=True):
    """Something that must not be: in which case, and what."""

    number: int
    kind: str
    what: str


class Sample(msgspec.Struct, frozen=True):
    """The server at a moment of the run, seconds after its begin."""

    at_s: float
    rss_mb: float
    descriptors: int


@dataclass
class Found:
    """What a run has seen."""

    seconds: float = 0.0
    cases: Counter[str] = field(default_factory=Counter)
    answers: dict[str, Counter[str]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    probes_ms: list[float] = field(default_factory=list)
    logged: list[str] = field(default_factory=list)
    sockets_left: int = 0
    descriptors_left: int = 0

    def growth_mb(self) -> float:
        """Return by how much memory grew since the run had warmed up, 0 if it was too short."""
        warm = [s.rss_mb for s in self._between(0.2, 0.3)]
        last = [s.rss_mb for s in self._between(0.9, 1.0)]
        return statistics.median(last) - statistics.median(warm) if warm and last else 0.0

    def _between(self, start: float, end: float) -> list[Sample]:
        return [s for s in self.samples if start * self.seconds <= s.at_s <= end * self.seconds]


def measure(*, minutes: float, seed: int, out: Path) -> Section:
    """Fuzz for so long; what found something is kept in ``out``/fuzz."""
    return report(fuzz(seconds=minutes * 60, seed=seed, kept=out / "fuzz"), seed=seed)


def fuzz(*, seconds: float, seed: int, kept: Path) -> Found:
    """Run a server and fuzz it for ``seconds``."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data"
        with (
            serving(path, "--no-cpu-worker", env=_ENVIRONMENT) as server,
            _stubs(server) as stubs,
            asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
        ):
            first_line(stubs)
            found = runner.run(Fuzzer(server, seed=seed, kept=kept).run(seconds))
            if server.process is not None and server.process.poll() is not None:
                found.problems.append(Problem(-1, "server", f"ended: {server.process.returncode}"))
            found.logged = list(exceptions_in(server.log()))
    return found


def _stubs(server: Server) -> contextlib.AbstractContextManager[subprocess.Popen[str]]:
    words = ("--url", server.url, "--data-dir", str(server.data_dir))
    return module("bench.stub", *words, "--nodes", "2", "--worker-slots", "64")


class Fuzzer:
    """Sends cases over a few connections at once, and looks after the server meanwhile."""

    def __init__(self, server: Server, *, seed: int, kept: Path) -> None:
        self._server = server
        self._seed = seed
        self._kept = kept
        self._port = urlsplit(server.url).port or 0
        self._numbers = itertools.count()
        self._found = Found()
        self._known = Known(f"127.0.0.1:{self._port}", server.api_key, server.project_id, "", "")
        self._started = self._until = 0.0

    async def run(self, seconds: float) -> Found:
        self._known = await self._prepare()
        cases = Cases(self._seed, self._known)
        await asyncio.gather(*(self._probe() for _ in range(2 * _CONNECTIONS)))
        before = self._sockets(), self._descriptors()
        self._found.probes_ms.clear()
        self._started = time.monotonic()
        self._until = self._started + seconds
        beside = [asyncio.create_task(job()) for job in (self._watch, self._keep_asking)]
        await asyncio.gather(*(self._work(cases) for _ in range(_CONNECTIONS)))
        self._found.seconds = time.monotonic() - self._started
        for task in beside:
            await task
        await self._settle(before)
        return self._found

    async def _prepare(self) -> Known:
        """Return what valid requests name, having made it; raises `RuntimeError`."""
        file = (await self._ask(upload(self._known, batch_input()))).json()
        made = {"input_file_id": file.get("id"), "endpoint": "/v1/chat/completions"}
        batch = (await self._ask(self._post(b"/v1/batches", made))).json()
        if "id" not in file or "id" not in batch:
            raise RuntimeError(f"no file and batch to begin with: {file} {batch}")
        return msgspec.structs.replace(self._known, file_id=file["id"], batch_id=batch["id"])

    async def _settle(self, before: tuple[int, int]) -> None:
        """Wait until the server has let go of every connection, as long as it may take."""
        until = time.monotonic() + _LIMIT_S
        # Nothing tells of another process's sockets, so they are counted again and again.
        while self._sockets() > before[0] and time.monotonic() < until:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        self._found.sockets_left = self._sockets() - before[0]
        self._found.descriptors_left = self._descriptors() - before[1]

    # ── cases ────────────────────────────────────────────────────────────────────────────────────

    async def _work(self, cases: Cases) -> None:
        while time.monotonic() < self._until:
            case = cases.make(next(self._numbers))
            self._found.cases[case.kind] += 1
            try:
                await self._try(case)
            except OSError as error:
                self._blame(case, f"the server does not take a connection: {error}")
                return

    async def _try(self, case: Case) -> None:
        answers, ended = await self._converse(case)
        counts = self._found.answers.setdefault(case.kind, Counter())
        for answer in answers:
            counts[str(answer.status)] += 1
            if problem := problem_with(answer, self._known.api_key, is_api=case.is_api):
                self._blame(case, problem)
        if case.owes and not ended and not answers:
            self._blame(case, f"neither an answer nor an end within {_LIMIT_S:g} s")
        if case.is_framed and ended and not answers:
            self._blame(case, "the connection was closed without an answer")
        for answer in answers:
            await self._follow(case, answer)

    async def _follow(self, case: Case, answer: Answer) -> None:
        """Make a batch of a file that was uploaded, and delete it: the disk is not the question."""
        file = answer.json()
        if answer.status != 200 or file.get("object") != "file" or "/v1/files" not in case.head:
            return
        if file["id"] == self._known.file_id:
            return
        requests = []
        if case.kind == "lines":
            made = {"input_file_id": file["id"], "endpoint": "/v1/chat/completions"}
            requests.append(self._post(b"/v1/batches", made))
        path = b"/v1/files/" + file["id"].encode()
        requests.append(Request(b"DELETE", path, self._known.headers()))
        for request in requests:
            told = await self._ask(request)
            kind = f"{case.kind}, then {request.method.decode()} {request.path.decode()[:11]}"
            self._found.answers.setdefault(kind, Counter())[str(told.status)] += 1
            if problem := problem_with(told, self._known.api_key, is_api=True):
                self._blame(case, f"afterwards: {problem}")

    async def _converse(self, case: Case) -> tuple[list[Answer], bool]:
        """Send a case; returns its answers, and whether the server closed the connection."""
        parser = Answers()
        async with self._connection() as (reader, writer):
            try:
                for piece in case.pieces:
                    writer.write(piece)
                    # The pieces are to arrive one by one.
                    await asyncio.sleep(0.002 if len(case.pieces) > 1 else 0)
                if case.ending == "abort":
                    return [], False
                if case.ending == "half-close":
                    writer.write_eof()
                while True:
                    limit_s = _SETTLED_S if parser.is_between else _LIMIT_S
                    async with asyncio.timeout(limit_s):
                        raw = await reader.read(1 << 16)
                    if not raw:
                        return parser.finish(), True
                    parser.feed(raw)
            except TimeoutError:
                return parser.finish(), False
            except ConnectionError:  # it hung up with our words unread
                return parser.finish(), True

    @contextlib.asynccontextmanager
    async def _connection(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            yield reader, writer
        finally:
            # A reset where the server still has to say something, as an impatient client does.
            writer.transport.abort()

    def _blame(self, case: Case, what: str) -> None:
        problem = Problem(case.number, case.kind, what)
        same = {(known.kind, known.what[:40]) for known in self._found.problems}
        if (case.kind, what[:40]) not in same and len(same) < _KEPT:
            self._kept.mkdir(parents=True, exist_ok=True)
            (self._kept / f"{self._seed}-{case.number}.http").write_bytes(b"".join(case.pieces))
        self._found.problems.append(problem)

    # ── the server meanwhile ─────────────────────────────────────────────────────────────────────

    async def _keep_asking(self) -> None:
        while time.monotonic() < self._until:
            await self._probe()
            await asyncio.sleep(_SAMPLE_S)

    async def _probe(self) -> None:
        said = [{"role": "user", "content": "The ferry leaves at noon. Boats stay in port."}]
        chat = self._post(b"/v1/chat/completions", {"model": SUMMARY, "messages": said})
        embeddings = self._post(b"/v1/embeddings", {"model": EMBEDDINGS, "input": "a ferry"})
        for request in (chat, embeddings):
            started = time.monotonic()
            try:
                async with asyncio.timeout(_PROBE_LIMIT_S):
                    answer = await self._ask(request)
                failed = "" if answer.status == 200 else f"answered {answer.status}"
            except (OSError, TimeoutError) as error:
                failed = f"not answered: {error!r}"
            self._found.probes_ms.append((time.monotonic() - started) * 1000)
            if failed:
                at_s = time.monotonic() - self._started
                what = f"a good request, {at_s:.0f} s in, {failed}"
                self._found.problems.append(Problem(-1, "good", what))

    async def _ask(self, request: Request) -> Answer:
        case = Case(-1, "ask", (request.encode(),))
        answers, _ = await self._converse(case)
        return answers[0] if answers else Answer(0, {}, b"")

    def _post(self, path: bytes, body: dict[str, Any]) -> Request:
        kind = (b"content-type", b"application/json")
        return Request(b"POST", path, self._known.headers(kind), json.dumps(body).encode())

    async def _watch(self) -> None:
        while (now := time.monotonic()) < self._until:
            with contextlib.suppress(OSError):  # it is gone; the cases say so too
                rss_mb = resident_mb(self._server.pid)
                sample = Sample(now - self._started, rss_mb, self._descriptors())
                self._found.samples.append(sample)
            await asyncio.sleep(_SAMPLE_S)

    def _descriptors(self) -> int:
        return len(list(Path(f"/proc/{self._server.pid}/fd").iterdir()))

    def _sockets(self) -> int:
        count = 0
        for descriptor in Path(f"/proc/{self._server.pid}/fd").iterdir():
            with contextlib.suppress(OSError):  # closed meanwhile
                count += str(descriptor.readlink()).startswith("socket:")
        return count


def resident_mb(pid: int) -> float:
    """Return a process's memory (RSS) in 10⁶ bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024 / 1e6
    return 0.0


def exceptions_in(log: str) -> Iterator[str]:
    """Yield what a server's log, as JSON lines, holds of exceptions and errors."""
    for line in log.splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            if line.startswith("Traceback"):
                yield line
            continue
        if isinstance(event, dict) and (event.get("level") == "error" or "exception" in event):
            said = _ADDRESS.sub("0x…", str(event.get("exception", "")))
            yield f"{event.get('event')}: {said[-300:]}"


def report(found: Found, *, seed: int) -> Section:
    """Return what was sent, what came back, and whether anything was wrong."""
    rows = []
    for kind in sorted({*found.cases, *found.answers}):
        answers = found.answers.get(kind, Counter())
        told = ", ".join(f"{status}: {count}" for status, count in sorted(answers.items()))
        rows.append((kind, str(found.cases.get(kind, "")), told))
    tables = [Table(("kind", "cases", "answers by status"), rows)]
    if found.problems or found.logged:
        kinds = Counter((problem.kind, problem.what[:160]) for problem in found.problems)
        first = {(p.kind, p.what[:160]): p.number for p in reversed(found.problems)}
        wrong = [
            (kind, what, str(count), str(first[kind, what]))
            for (kind, what), count in kinds.most_common(40)
        ]
        wrong += [("log", what, str(n), "") for what, n in Counter(found.logged).most_common(10)]
        tables.append(Table(("kind", "what was wrong", "times", "first case"), wrong))
    faults = sum(
        count
        for answers in found.answers.values()
        for status, count in answers.items()
        if status >= "500" and status != "503"
    )
    figures = [
        Figure("answers that are our fault (5xx but 503)", faults, "", 0),
        Figure("problems in all", len(found.problems), "", 0),
        Figure("exceptions in the log", len(found.logged), "", 0),
        Figure("memory growth since warm", found.growth_mb(), "MB", TARGET_GROWTH_MB),
        Figure("most memory", max((s.rss_mb for s in found.samples), default=0), "MB"),
        Figure("sockets left open", found.sockets_left, "", 0),
        Figure("descriptors more than before", found.descriptors_left, ""),
        Figure("good requests meanwhile, p50", quantile(sorted(found.probes_ms), 0.5), "ms"),
        Figure("good requests meanwhile, slowest", max(found.probes_ms, default=0), "ms"),
        Figure("cases", found.cases.total(), ""),
    ]
    note = (
        f"Seed {seed}, {found.seconds:.0f} s, {_CONNECTIONS} connections at once. Memory: what the"
        " end has more than the first quarter."
    )
    return Section("fuzz", "Fuzzing the API", figures, tables, note)
