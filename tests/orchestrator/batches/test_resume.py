"""Whatever ends the server, every line ends in exactly one of its batch's files, once."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from sqlalchemy import delete

from orchestrator.batches.closing import problems
from orchestrator.batches.service import NewBatch, Once
from orchestrator.errors import BadRequest, Conflict, InternalError
from orchestrator.storage.batches import ENDED, Batches, BatchRow, LineRow
from orchestrator.storage.files import object_name
from orchestrator.storage.idempotent import Scope
from orchestrator.storage.schema import batches
from tests.orchestrator.batches.killed import LINES, says
from tests.orchestrator.batches.stage import (
    CHAT,
    MINE,
    OK,
    Answer,
    Hands,
    Model,
    Stage,
    jsonl,
    opened,
    staged,
)

ROOT = Path(__file__).resolve().parents[3]


def names(count: int) -> list[str]:
    return [str(at) for at in range(count)]


def left_over(stage: Stage) -> tuple[int, list[str]]:
    """Return the outcomes of lines and the spool folders that are still there."""
    with stage.database.connect() as connection:
        rows = connection.exec_driver_sql("SELECT count(*) FROM batch_lines").scalar_one()
    folder = stage.settings.data_dir / "batches"
    return rows, [path.name for path in folder.iterdir()] if folder.exists() else []


async def until_tidy(stage: Stage) -> None:
    async with asyncio.timeout(20):
        while left_over(stage) != (0, []):
            await asyncio.to_thread(left_over, stage)


async def begun(folder: Path) -> BatchRow:
    """Return a batch of six lines of which two are under way and none is answered, after a stop."""
    async with staged(folder, batch_under_way=2) as stage:
        stage.model.open.clear()
        row = await stage.submit(names(6))
        await stage.model.until_asked(lambda: len(stage.model.asked) == 2)
        return row


async def test_a_stopped_batch_goes_on_after_the_next_start(tmp_path: Path) -> None:
    row = await begun(tmp_path)

    async with staged(tmp_path) as stage:
        row = await stage.ended(row)

        assert (row.status, row.completed) == ("completed", 6)
        assert await stage.results(row) == (names(6), {})


async def test_counts_are_those_of_the_database_until_a_batch_is_taken_up(tmp_path: Path) -> None:
    row = await begun(tmp_path)

    async with staged(tmp_path, start=False) as stage:
        store = Batches(stage.database)
        store.record([(row.id, LineRow(0, True, b"{}")), (row.id, LineRow(1, False, b"{}"))])
        now = await stage.service.retrieve("p1", row.id)
        [listed], _ = await stage.service.page("p1", after=None, limit=1)

        assert (now.completed, now.failed) == (1, 1) == (listed.completed, listed.failed)


async def test_a_cancelled_batch_stays_cancelled(tmp_path: Path) -> None:
    async with staged(tmp_path, batch_under_way=2) as stage:
        stage.model.open.clear()
        row = await stage.submit(names(6))
        await stage.model.until_asked(lambda: len(stage.model.asked) == 2)
        await stage.service.cancel("p1", row.id)

    async with staged(tmp_path) as stage:
        row = await stage.ended(row)

        assert stage.model.asked == []
        assert row.status == "cancelled"
        assert await stage.results(row) == ([], dict.fromkeys(names(6), "batch_cancelled"))


async def test_a_batch_whose_time_was_over_meanwhile_expires(tmp_path: Path) -> None:
    row = await begun(tmp_path)

    async with staged(tmp_path, hands=Hands(row.expires_at)) as stage:
        row = await stage.ended(row)

        assert stage.model.asked == []
        assert row.status == "expired"
        assert await stage.results(row) == ([], dict.fromkeys(names(6), "batch_expired"))


async def test_a_batch_that_was_being_validated_is_validated_again(tmp_path: Path) -> None:
    good = await begun(tmp_path)
    async with staged(tmp_path, start=False) as stage:
        await asyncio.to_thread(set_back, stage, good)
        await stage.upload(b"x", file_id="file-bad")
        await stage.upload(jsonl(["a"]), file_id="file-gone")
        await stage.objects.delete(object_name("file-gone"))
        for file_id in ("file-bad", "file-gone"):
            row = replace(good, id=f"batch_{file_id}", input_file_id=file_id, status="validating")
            await asyncio.to_thread(Batches(stage.database).insert, replace(row, total=0))

    async with staged(tmp_path) as stage:
        good = await stage.ended(good)
        assert await stage.results(good) == (names(6), {})
        for file_id, message in (
            ("file-bad", "Line 1 is not valid JSON"),
            ("file-gone", "Input file object missing: file-gone"),
        ):
            row = await stage.service.retrieve("p1", f"batch_{file_id}")
            row = await stage.ended(row)
            assert row.status == "failed"
            assert orjson.loads(row.errors or "")["data"][0]["message"] == message
        await until_tidy(stage)


def set_back(stage: Stage, row: BatchRow) -> None:
    """Make a batch what it was before its input was checked."""
    with stage.database.begin() as connection:
        connection.execute(delete(batches).where(batches.c.id == row.id))
    Batches(stage.database).insert(replace(row, status="validating", total=0, in_progress_at=None))
    (stage.settings.data_dir / "batches" / row.id / "index").unlink()


async def test_a_batch_whose_files_were_being_written_completes(tmp_path: Path) -> None:
    async with staged(tmp_path, batch_retry_s=0.001) as stage:
        folder = stage.settings.data_dir / "files/files"
        stage.model.open.clear()
        row = await stage.submit(names(6))
        folder.rename(folder.with_name("away"))
        folder.write_bytes(b"")
        stage.model.open.set()
        await stage.until(row, lambda now: now.status == "finalizing")
    folder.unlink()
    folder.with_name("away").rename(folder)

    async with staged(tmp_path) as stage:
        row = await stage.ended(row)

        assert stage.model.asked == []
        assert row.status == "completed"
        assert await stage.results(row) == (names(6), {})


async def test_files_that_are_written_twice_are_the_same_files(tmp_path: Path) -> None:
    folder = tmp_path / "data/files/files"
    async with staged(tmp_path, batch_retry_s=0.001) as stage:
        with stage.database.begin() as connection:
            connection.exec_driver_sql(
                "CREATE TRIGGER full BEFORE INSERT ON files WHEN new.purpose = 'batch_output'"
                " BEGIN SELECT RAISE(ABORT, 'no room'); END"
            )
        row = await stage.submit(names(3))
        async with asyncio.timeout(20):
            # What is only half written has a # in its name.
            while sum("#" not in path.name for path in folder.iterdir()) < 2:
                await asyncio.to_thread(lambda: None)

    async with staged(tmp_path) as stage:
        with stage.database.begin() as connection:
            connection.exec_driver_sql("DROP TRIGGER full")
        row = await stage.ended(row)

        assert await stage.results(row) == (names(3), {})
        kept = {path.name for path in folder.iterdir()}
        assert kept == {row.input_file_id, row.output_file_id}


async def test_one_idempotency_key_makes_one_batch_through_restarts(tmp_path: Path) -> None:
    once = Once(Scope(MINE.project_id, MINE.key_id, "/v1/batches", "key"), b"digest")
    wanted = NewBatch(input_file_id="file-1", endpoint=CHAT)
    async with staged(tmp_path) as stage:
        await stage.upload(jsonl(names(3)))
        assert await stage.service.created_before(once) is None
        first, second = await asyncio.gather(
            stage.service.create(MINE, wanted, once=once),
            stage.service.create(MINE, wanted, once=once),
        )
        assert first.id == second.id

    async with staged(tmp_path) as stage:
        row = await stage.ended(first)

        assert await stage.service.created_before(once) == row
        assert await stage.service.create(MINE, wanted, once=once) == row
        assert await stage.service.page("p1", after=None, limit=9) == ([row], False)
        with pytest.raises(Conflict, match="Idempotency-Key"):
            await stage.service.created_before(replace(once, digest=b"other"))
        await until_tidy(stage)


async def test_a_batch_that_failed_for_our_fault_is_made_anew_with_its_idempotency_key(
    tmp_path: Path,
) -> None:
    once = Once(Scope(MINE.project_id, MINE.key_id, "/v1/batches", "key"), b"digest")
    wanted = NewBatch(input_file_id="file-1", endpoint=CHAT)
    async with staged(tmp_path) as stage:
        await stage.upload(jsonl(names(3)))
        first = await stage.ended(await stage.service.create(MINE, wanted, once=once))
        # As it is where the process that checks an input was killed.
        errors = problems([{"code": "internal_error", "message": "!", "line": None}])
        with stage.database.begin() as connection:
            connection.exec_driver_sql(
                "UPDATE batches SET status = 'failed', errors = ?", (errors,)
            )

        assert await stage.service.created_before(once) is None
        second = await stage.ended(await stage.service.create(MINE, wanted, once=once))

        assert second.id != first.id
        assert await stage.service.created_before(once) == second


async def test_a_damaged_copy_is_made_again_from_the_input_file(tmp_path: Path) -> None:
    row = await begun(tmp_path)
    (tmp_path / "data/batches" / row.id / "index").write_bytes(b"x")

    async with staged(tmp_path) as stage:
        row = await stage.ended(row)

        assert await stage.results(row) == (names(6), {})


async def test_a_batch_that_lost_its_input_fails_with_what_it_has(tmp_path: Path) -> None:
    model = Model()

    def one_only(custom_id: str) -> bytes:
        model.open.clear()
        return OK

    model.says = one_only
    async with staged(tmp_path, model=model, batch_under_way=1) as stage:
        row = await stage.submit(names(3))
        await stage.until(row, lambda now: now.completed == 1)
        await stage.objects.delete(object_name(row.input_file_id))
    for path in (tmp_path / "data/batches" / row.id).iterdir():
        path.unlink()

    async with staged(tmp_path) as stage:
        row = await stage.ended(row)

        assert (row.status, row.completed, row.failed) == ("failed", 1, 0)
        assert await stage.results(row) == (["0"], {})
        assert "1 of 3 lines have an outcome" in (row.errors or "")


async def test_what_a_crash_after_the_end_leaves_is_swept(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        row = await stage.ended(await stage.submit(names(2)))
        await until_tidy(stage)
    async with staged(tmp_path, start=False) as stage:
        Batches(stage.database).record([(row.id, LineRow(0, True, b"{}"))])
        for name in (row.id, "batch_never_written"):
            (stage.settings.data_dir / "batches" / name).mkdir()
            (stage.settings.data_dir / "batches" / name / "input.jsonl").write_bytes(b"")

    async with staged(tmp_path) as stage:
        await until_tidy(stage)


async def test_outlived_batches_and_files_are_swept(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        old = await stage.ended(await stage.submit(names(2)))
        stage.hands.now_s += 15 * 86_400
        young = await stage.ended(await stage.submit(["a"]))

    async with staged(tmp_path, hands=Hands(stage.hands.now_s + 16 * 86_400)) as stage:
        async with asyncio.timeout(20):
            while len((await stage.service.page("p1", after=None, limit=9))[0]) > 1:
                pass
        [left], _ = await stage.service.page("p1", after=None, limit=9)
        assert left.id == young.id
        assert stage.files.find("p1", old.output_file_id or "") is None
        assert await stage.objects.size(object_name(old.output_file_id or "")) is None
        assert stage.files.find("p1", young.output_file_id or "") is not None


# What is abandoned is not put away, on purpose.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("seed", range(8))
def test_a_server_that_ends_anywhere_loses_and_doubles_no_line(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)

    def unsteady(custom_id: str) -> Answer:
        if int(custom_id) % 11 == 0:
            return BadRequest("Never.")
        return InternalError("Now and then.") if rng.random() < 0.1 else OK

    async def live(stage: Stage) -> None:
        """Do what customers do until there are three batches, one of them cancelled perhaps."""
        await stage.service.start()
        if stage.files.find("p1", "file-1") is None:
            await stage.upload(jsonl(names(120)))
        rows, _ = await stage.service.page("p1", after=None, limit=10)
        for _ in range(len(rows), 3):
            await stage.service.create(MINE, NewBatch(input_file_id="file-1", endpoint=CHAT))
        if rows and seed % 3 == 0:
            with contextlib.suppress(Conflict):
                await stage.service.cancel("p1", rows[0].id)

    async def life(ticks: int) -> None:
        stages.append(opened(tmp_path, model=Model(unsteady), **options))
        living = asyncio.create_task(live(stages[-1]))
        for _ in range(ticks):
            stages[-1].move_clock(0.01)
            await asyncio.sleep(0)
        if living.done():
            living.result()
        # Whatever else is under way is cancelled where it stands, by `asyncio.run`.

    async def last_life() -> None:
        async with staged(tmp_path, model=Model(unsteady), start=False, **options) as stage:
            await live(stage)
            rows, _ = await stage.service.page("p1", after=None, limit=10)
            assert len(rows) >= 3
            for row in rows:
                stage.move_clock(100.0)
                await check(stage, await stage.until(row, lambda now: moved(stage, now)))
            await until_tidy(stage)

    def moved(stage: Stage, row: BatchRow) -> bool:
        stage.move_clock(0.01)
        return row.status in ENDED

    options: dict[str, Any] = {"batch_retry_s": 0.001, "batch_attempts": 100}
    stages: list[Stage] = []
    for _ in range(6):
        asyncio.run(life(rng.choice([30, 300, 1_000, 3_000, 6_000])))
        stages.pop().database.close()
        # What it has left open is complained about here, where that is expected.
        gc.collect()
    asyncio.run(last_life())
    gc.collect()


async def check(stage: Stage, row: BatchRow) -> None:
    """Assert that every line of the batch is in exactly one file, once."""
    assert row.status in ENDED
    good, bad = await stage.results(row)
    assert sorted([*good, *bad], key=int) == names(row.total)
    assert (len(good), len(bad)) == (row.completed, row.failed)
    with stage.database.connect() as connection:
        written = connection.exec_driver_sql(
            "SELECT count(*) FROM files WHERE filename LIKE ?", (f"{row.id}%",)
        ).scalar_one()
    assert written == (row.output_file_id is not None) + (row.error_file_id is not None)


@pytest.mark.slow
def test_a_killed_server_loses_and_doubles_no_line(tmp_path: Path) -> None:

    async def prepare() -> None:
        async with staged(tmp_path) as stage:
            await stage.upload(jsonl(names(LINES)))

    async def verify() -> None:
        async with staged(tmp_path, model=Model(says)) as stage:
            rows, _ = await stage.service.page("p1", after=None, limit=10)
            [row] = rows
            row = await stage.ended(row)
            await check(stage, row)
            assert (row.status, row.total) == ("completed", LINES)
            good, bad = await stage.results(row)
            assert set(bad) == {str(at) for at in range(0, LINES, 7)}
            assert len(good) + len(bad) == LINES
            await until_tidy(stage)

    asyncio.run(prepare())
    for letters in (1, 2, 15, 1, 30, 20):
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.orchestrator.batches.killed", str(tmp_path)],
            stdout=subprocess.PIPE,
            cwd=ROOT,
        )
        assert process.stdout is not None
        process.stdout.read(letters)
        process.kill()
        process.wait()
        process.stdout.close()
    asyncio.run(verify())
