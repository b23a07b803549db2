"""A batch service on a real database and folder, with lines that are answered as a test says."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from orchestrator.batches.lines import Line
from orchestrator.batches.outcomes import LineOutcome
from orchestrator.batches.service import BatchService, NewBatch
from orchestrator.clock import Clock
from orchestrator.domain.model import KeyId, ProjectId
from orchestrator.errors import ApiError
from orchestrator.settings import Settings
from orchestrator.storage.batches import ENDED, BatchRow
from orchestrator.storage.database import Database
from orchestrator.storage.files import File, Files, object_name
from orchestrator.storage.keys import Principal
from orchestrator.storage.objects import Objects, open_objects
from tests.orchestrator.databases import database_in

CHAT: Final = "/v1/chat/completions"
MINE: Final = Principal(ProjectId("p1"), KeyId("k1"))
THEIRS: Final = Principal(ProjectId("p2"), KeyId("k2"))
PATIENCE_S: Final = 20.0
OK: Final = b'{"ok":true}'


@dataclass
class Hands:
    """Both clocks of a test, moved by hand."""

    now_s: float = 1_700_000_000.0

    @property
    def clock(self) -> Clock:
        return Clock(monotonic=lambda: self.now_s, wall=lambda: self.now_s)


Answer = LineOutcome | ApiError | bytes


@dataclass
class Model:
    """Answers lines. ``says`` decides, by custom id; while ``held``, nobody is answered."""

    says: Callable[[str], Answer] = lambda custom_id: OK
    open: asyncio.Event = field(default_factory=asyncio.Event)
    asked: list[str] = field(default_factory=list)
    under_way: int = 0
    most_under_way: int = 0
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.open.set()

    async def __call__(self, batch: BatchRow, line: Line) -> LineOutcome:
        self.asked.append(line.custom_id)
        self.under_way += 1
        self.most_under_way = max(self.under_way, self.most_under_way)
        self.news.set()
        try:
            await self.open.wait()
        finally:
            self.under_way -= 1
        said = self.says(line.custom_id)
        if isinstance(said, ApiError):
            return LineOutcome(f"req_{line.custom_id}", status=said.status, error=said)
        if isinstance(said, bytes):
            return LineOutcome(f"req_{line.custom_id}", body=said)
        return said

    async def until_asked(self, condition: Callable[[], bool]) -> None:
        """Wait until ``condition`` holds, looking again whenever a line is asked for."""
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                self.news.clear()
                await self.news.wait()

    async def until_asked_times(self, count: int, *, of: str | None = None) -> None:
        """Wait until so many lines were asked for, or one line so often."""
        await self.until_asked(
            lambda: (len(self.asked) if of is None else self.asked.count(of)) >= count
        )


@dataclass
class Stage:
    settings: Settings
    database: Database
    objects: Objects
    files: Files
    model: Model
    hands: Hands
    service: BatchService
    supply: int = 1_000_000

    async def upload(
        self, content: bytes, *, file_id: str = "file-1", project_id: str = "p1"
    ) -> str:
        async def pieces() -> AsyncIterator[bytes]:
            yield content

        size_bytes = await self.objects.put(object_name(file_id), pieces())
        file = File(
            id=file_id,
            project_id=project_id,
            filename="in.jsonl",
            purpose="batch",
            bytes=size_bytes,
            created_at=self.hands.now_s,
            expires_at=self.hands.now_s + 86_400 * 30,
        )
        await asyncio.to_thread(self.files.insert, file)
        return file_id

    async def submit(
        self,
        ids: Iterable[str],
        *,
        principal: Principal = MINE,
        body: Mapping[str, Any] | None = None,
    ) -> BatchRow:
        """Create a batch with a line for each custom id."""
        custom_ids = list(ids)
        file_id = await self.upload(
            jsonl(custom_ids, body=body),
            file_id=f"file-{custom_ids[0]}",
            project_id=principal.project_id,
        )
        return await self.service.create(principal, NewBatch(input_file_id=file_id, endpoint=CHAT))

    async def until(self, row: BatchRow, condition: Callable[[BatchRow], bool]) -> BatchRow:
        """Return the batch once the condition holds."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                now = await self.service.retrieve(row.project_id, row.id)
                if condition(now):
                    return now

    async def ended(self, row: BatchRow) -> BatchRow:
        return await self.until(row, lambda now: now.status in ENDED)

    async def lines(self, file_id: str | None) -> list[dict[str, Any]]:
        """Return the lines of a file; none without a file."""
        if file_id is None:
            return []
        content = b"".join([piece async for piece in self.objects.read(object_name(file_id))])
        assert content.endswith(b"\n")
        return [json.loads(line) for line in content.splitlines()]

    async def results(self, row: BatchRow) -> tuple[list[str], dict[str, str]]:
        """Return the custom ids of the output file, and codes by custom id of the error file."""
        good = [line["custom_id"] for line in await self.lines(row.output_file_id)]
        bad = [
            (line["custom_id"], line["error"]["code"])
            for line in await self.lines(row.error_file_id)
        ]
        assert len(dict(bad)) == len(bad)
        return good, dict(bad)

    def move_clock(self, seconds: float) -> None:
        self.hands.now_s += seconds
        self.service.wake()


def jsonl(ids: Sequence[str], *, body: Mapping[str, Any] | None = None) -> bytes:
    lines = (
        {"custom_id": one, "method": "POST", "url": CHAT, "body": body or {"model": "m"}}
        for one in ids
    )
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def opened(
    folder: Path,
    *,
    model: Model | None = None,
    hands: Hands | None = None,
    supply: Callable[[], int] | None = None,
    **overrides: object,
) -> Stage:
    """Make a service on the data directory in ``folder``, not started; on the event loop."""
    settings = Settings.from_env({}, data_dir=folder / "data", **overrides)
    database = database_in(settings.data_dir)
    objects = open_objects(settings)
    model, hands = model or Model(), hands or Hands()
    stage: Stage
    service = BatchService(
        settings=settings,
        database=database,
        objects=objects,
        run_line=model,
        supply=supply or (lambda: stage.supply),
        clock=hands.clock,
        rng=random.Random(1),
    )
    stage = Stage(settings, database, objects, Files(database), model, hands, service)
    return stage


@contextlib.asynccontextmanager
async def staged(
    folder: Path,
    *,
    model: Model | None = None,
    hands: Hands | None = None,
    start: bool = True,
    supply: Callable[[], int] | None = None,
    **overrides: object,
) -> AsyncIterator[Stage]:
    """Run a service on the data directory in ``folder``; drops what is under way at the end."""
    stage = opened(folder, model=model, hands=hands, supply=supply, **overrides)
    try:
        if start:
            await stage.service.start()
        yield stage
    finally:
        await stage.service.stop(0)
        stage.database.close()
