"""A database that fails while a batch is made only delays it: no batch is stuck or lost."""

from __future__ import annotations

import asyncio
from itertools import count
from pathlib import Path

import pytest
from sqlalchemy import event

from orchestrator.batches.service import NewBatch
from orchestrator.errors import InvalidBatch
from orchestrator.storage.batches import BatchRow
from tests.orchestrator.batches.stage import CHAT, MINE, PATIENCE_S, Stage, jsonl, staged


@pytest.mark.parametrize(
    ("content", "before", "after"),
    [
        (jsonl(["a", "b"]), "in_progress", "completed"),
        (b"x", "failed", "failed"),
    ],
)
async def test_a_database_that_fails_only_delays_the_check_of_an_input(
    tmp_path: Path, content: bytes, before: str, after: str
) -> None:
    async with staged(tmp_path, batch_retry_s=0.001) as stage:
        refused_twice = await refuse_status(stage, before)
        await stage.upload(content)
        creating = asyncio.create_task(
            stage.service.create(MINE, NewBatch(input_file_id="file-1", endpoint=CHAT))
        )
        await asyncio.wait_for(first_of(refused_twice, creating), PATIENCE_S)
        assert not creating.done()
        [row], _ = await stage.service.page("p1", after=None, limit=1)
        assert row.status == "validating"
        await allow_status(stage)

        if before == "failed":
            with pytest.raises(InvalidBatch, match="Line 1"):
                await creating
        else:
            assert (await creating).status == "in_progress"
        assert (await stage.ended(row)).status == after


async def test_a_batch_cancelled_while_its_database_fails_is_cancelled(tmp_path: Path) -> None:
    async with staged(tmp_path, batch_retry_s=0.001) as stage:
        refused_twice = await refuse_status(stage, "in_progress")
        await stage.upload(jsonl(["a", "b"]))
        creating = asyncio.create_task(
            stage.service.create(MINE, NewBatch(input_file_id="file-1", endpoint=CHAT))
        )
        await asyncio.wait_for(first_of(refused_twice, creating), PATIENCE_S)
        [row], _ = await stage.service.page("p1", after=None, limit=1)
        assert (await stage.service.cancel("p1", row.id)).status == "cancelling"

        assert (await creating).id == row.id
        row = await stage.ended(row)

        assert await stage.results(row) == ([], dict.fromkeys("ab", "batch_cancelled"))


async def refuse_status(stage: Stage, status: str) -> asyncio.Event:
    """Let the database fail for each batch that is to have this status.

    Returns what is set once it did so twice.
    """
    loop, twice, times = asyncio.get_running_loop(), asyncio.Event(), count(1)

    def refused(_: object) -> None:
        if next(times) == 2:
            loop.call_soon_threadsafe(twice.set)

    event.listen(stage.database.engine, "handle_error", refused)

    def change() -> None:
        with stage.database.begin() as connection:
            connection.exec_driver_sql(
                "CREATE TRIGGER refusing BEFORE UPDATE ON batches"
                f" WHEN new.status = '{status}'"
                " BEGIN SELECT RAISE(ABORT, 'no room'); END"
            )

    await asyncio.to_thread(change)
    return twice


async def first_of(happened: asyncio.Event, ends: asyncio.Task[BatchRow]) -> None:
    """Wait until the event happened; the task ends before only if it fails."""
    waiting = asyncio.create_task(happened.wait())
    await asyncio.wait([waiting, ends], return_when=asyncio.FIRST_COMPLETED)
    if not happened.is_set():
        waiting.cancel()
        ends.result()


async def allow_status(stage: Stage) -> None:
    def change() -> None:
        with stage.database.begin() as connection:
            connection.exec_driver_sql("DROP TRIGGER refusing")

    await asyncio.to_thread(change)
