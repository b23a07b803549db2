"""How lines are run: fairly, within limits, again where that helps, and kept in groups."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import pytest
from sqlalchemy import event

from orchestrator.batches.lines import Line, Lines
from orchestrator.batches.outcomes import LineOutcome
from orchestrator.batches.service import NewBatch
from orchestrator.errors import (
    ApiError,
    DeadlineExceeded,
    InternalError,
    NoCapacity,
    Overloaded,
    RateLimited,
    RequestTimeout,
)
from orchestrator.storage.batches import BatchRow
from tests.orchestrator.batches.stage import (
    CHAT,
    MINE,
    OK,
    PATIENCE_S,
    THEIRS,
    Answer,
    Model,
    Stage,
    jsonl,
    staged,
)

CHAT_BODY = {"model": "m", "text": "x" * (1 << 20)}


def names(prefix: str, count: int) -> list[str]:
    return [f"{prefix}{at}" for at in range(count)]


async def test_a_small_batch_does_not_wait_for_a_large_one(tmp_path: Path) -> None:
    model = Model()
    async with staged(tmp_path, model=model, batch_under_way=4) as stage:
        model.open.clear()
        await stage.submit(names("large", 500))
        await model.until_asked(lambda: len(model.asked) == 4)
        small = await stage.submit(names("small", 3))
        model.open.set()

        await stage.ended(small)

        # From when it came, every other line was its own.
        last = max(at for at, one in enumerate(model.asked) if one.startswith("small"))
        assert last <= 4 + 2 * 3


async def test_projects_take_turns_whatever_the_number_of_their_batches(tmp_path: Path) -> None:
    model = Model()
    async with staged(tmp_path, model=model, batch_under_way=1) as stage:
        stage.supply = 0
        for batch in range(3):
            await stage.submit(names(f"mine{batch}-", 20), principal=MINE)
        await stage.submit(names("theirs", 20), principal=THEIRS)
        stage.supply = 1
        stage.service.wake()
        await model.until_asked(lambda: len(model.asked) >= 40)

        theirs = Counter(one.startswith("theirs") for one in model.asked[:40])
        assert theirs == {True: 20, False: 20}


async def test_no_more_lines_are_under_way_than_allowed_or_supplied(tmp_path: Path) -> None:
    model = Model()
    async with staged(tmp_path, model=model, batch_under_way=7) as stage:
        stage.supply = 3
        row = await stage.submit(names("a", 50))
        await stage.until(row, lambda now: now.completed >= 10)
        assert model.most_under_way <= 3

        stage.supply = 100
        row = await stage.ended(row)

        assert row.completed == 50
        assert model.most_under_way <= 7


async def test_long_lines_are_under_way_a_few_at_a_time(tmp_path: Path) -> None:
    model = Model()
    async with staged(tmp_path, model=model, batch_line_max_bytes=2 << 20) as stage:
        model.open.clear()
        row = await stage.submit(names("a", 20), body=CHAT_BODY)
        await model.until_asked(lambda: len(model.asked) == 16)
        model.open.set()

        assert (await stage.ended(row)).completed == 20
        assert model.most_under_way <= 16


async def test_a_line_is_tried_four_times_with_growing_waits(tmp_path: Path) -> None:
    model = Model(says=lambda one: InternalError("It broke.") if one == "bad" else OK)
    async with staged(tmp_path, model=model) as stage:
        row = await stage.submit(["bad", "good"])
        await stage.until(row, lambda now: now.completed == 1)
        for tries in range(1, 4):
            assert model.asked.count("bad") == tries
            # Up to a quarter of jitter, and not a moment before the wait is over.
            stage.move_clock(2.0 * 2 ** (tries - 1) - 0.01)
            await stage.service.retrieve("p1", row.id)
            assert model.asked.count("bad") == tries
            stage.move_clock(2.0 * 2 ** (tries - 1) / 4 + 0.01)
            await model.until_asked_times(tries + 1, of="bad")

        row = await stage.ended(row)

        assert model.asked.count("bad") == 4
        assert (row.status, row.completed, row.failed) == ("completed", 1, 1)
        [line] = await stage.lines(row.error_file_id)
        assert line["error"]["code"] == "internal_error"
        assert line["error"]["message"].startswith(
            "[legacy:retries_exhausted] The line failed after 4 attempts"
        )


async def test_a_line_that_recovers_is_a_good_line(tmp_path: Path) -> None:
    failures = iter([RequestTimeout("Late."), InternalError("Broken.")])
    model = Model(says=lambda one: next(failures, OK))
    async with staged(tmp_path, model=model, batch_retry_s=0.001) as stage:
        row = await stage.submit(["a"])
        for tries in (1, 2):
            await model.until_asked_times(tries)
            stage.move_clock(1.0)

        row = await stage.ended(row)

        assert (row.completed, len(model.asked)) == (1, 3)


@pytest.mark.parametrize(
    "error",
    [
        NoCapacity("Nobody."),
        Overloaded("Full.", retry_after_s=1),
        RateLimited("Slower.", retry_after_s=1),
        DeadlineExceeded("Late."),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_a_fleet_that_is_away_costs_no_tries(tmp_path: Path, error: ApiError) -> None:
    here = False
    model = Model(says=lambda one: OK if here else error)
    async with staged(tmp_path, model=model, batch_under_way=8) as stage:
        row = await stage.submit(names("a", 30))
        await model.until_asked(lambda: len(model.asked) == 8)
        for probes in range(1, 8):
            # The event loop had its time: nothing more was sent meanwhile.
            await stage.service.retrieve("p1", row.id)
            assert len(model.asked) == 8 + probes - 1
            stage.move_clock(100.0)
            await model.until_asked_times(8 + probes)
        here = True
        now = await stage.service.retrieve("p1", row.id)
        assert (now.completed, now.failed) == (0, 0)

        for _ in range(20):
            stage.move_clock(100.0)
            await stage.service.retrieve("p1", row.id)
        row = await stage.ended(row)

        assert (row.completed, row.failed) == (30, 0)


async def test_a_batch_that_nobody_can_take_does_not_hold_up_others(tmp_path: Path) -> None:
    def says(one: str) -> Answer:
        return NoCapacity("Nobody.") if one.startswith("odd") else OK

    model = Model(says=says)
    async with staged(tmp_path, model=model, batch_under_way=2) as stage:
        odd = await stage.submit(names("odd", 50))
        row = await stage.ended(await stage.submit(names("even", 50), principal=MINE))

        assert row.completed == 50
        assert (await stage.service.retrieve("p1", odd.id)).status == "in_progress"
        assert sum(one.startswith("odd") for one in model.asked) <= 2


async def test_a_line_whose_run_breaks_is_tried_again_and_then_told(tmp_path: Path) -> None:
    class Broken(Model):
        async def __call__(self, batch: object, line: object) -> LineOutcome:
            raise ZeroDivisionError

    async with staged(tmp_path, model=Broken(), batch_attempts=1) as stage:
        row = await stage.ended(await stage.submit(["a"]))

        assert await stage.results(row) == ([], {"a": "internal_error"})


async def test_a_supply_that_breaks_once_does_not_stop_the_batches(tmp_path: Path) -> None:
    broken = iter([ZeroDivisionError])

    def supply() -> int:
        for error in broken:
            raise error
        return 10

    async with staged(tmp_path, supply=supply) as stage:
        row = await stage.submit(names("a", 3))
        stage.service.wake()

        assert (await stage.ended(row)).completed == 3


async def test_a_line_that_cannot_be_read_at_first_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Lines.__getitem__
    broken = iter([OSError(5, "Input/output error")])

    def unsteady(lines: Lines, at: int) -> Line:
        for error in broken:
            raise error
        return read(lines, at)

    monkeypatch.setattr(Lines, "__getitem__", unsteady)
    async with staged(tmp_path) as stage:
        row = await stage.submit(names("a", 3))
        async with asyncio.timeout(PATIENCE_S):
            while (await stage.service.retrieve("p1", row.id)).completed < 3:
                stage.move_clock(10.0)

        assert (await stage.ended(row)).completed == 3


@pytest.mark.parametrize("other", ["null", "5", '{"a":1}', '"b"'])
async def test_a_line_that_has_its_custom_id_twice_runs_by_the_last(
    tmp_path: Path, other: str
) -> None:
    async with staged(tmp_path) as stage:
        content = jsonl(["a"]).replace(b"{", b'{"custom_id":%b,' % other.encode(), 1)
        file_id = await stage.upload(content + jsonl(["c"]))
        row = await stage.service.create(MINE, NewBatch(input_file_id=file_id, endpoint=CHAT))

        row = await stage.ended(row)
        assert row.status == "completed"
        assert await stage.results(row) == (["a", "c"], {})


def damage(stage: Stage, row: BatchRow, custom_id: str) -> None:
    """Overwrite one line of the copy that a batch runs from."""
    [copy] = (stage.settings.data_dir / "batches" / row.id).glob("*.jsonl")
    content = copy.read_bytes()
    line = jsonl([custom_id])
    assert content.count(line) == 1
    copy.write_bytes(content.replace(line, b"x" * (len(line) - 1) + b"\n"))


async def test_a_line_whose_copy_is_damaged_ends_and_holds_up_no_other(tmp_path: Path) -> None:
    async with staged(tmp_path, batch_under_way=1) as stage:
        stage.model.open.clear()
        row = await stage.submit(names("a", 4))
        await stage.model.until_asked_times(1)
        damage(stage, row, "a2")
        stage.model.open.set()
        row = await stage.ended(row)

        assert (row.status, row.completed, row.failed) == ("completed", 3, 1)
        assert await stage.results(row) == (["a0", "a1", "a3"], {"": "internal_error"})


async def test_a_cancelled_batch_tells_of_its_lines_beside_a_damaged_one(tmp_path: Path) -> None:
    async with staged(tmp_path, batch_under_way=1) as stage:
        stage.model.open.clear()
        row = await stage.submit(names("a", 4))
        await stage.model.until_asked_times(1)
        damage(stage, row, "a2")
        await stage.service.cancel("p1", row.id)
        stage.move_clock(10.0)
        row = await stage.ended(row)

        assert row.status == "cancelled"
        _, bad = await stage.results(row)
        assert bad == dict.fromkeys(["a0", "a1", "", "a3"], "batch_cancelled")


async def test_outcomes_are_written_in_groups(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        commits = 0
        database = stage.database

        def count(_: object) -> None:
            nonlocal commits
            commits += 1

        event.listen(database.engine, "commit", count)
        row = await stage.ended(await stage.submit(names("a", 2_000)))

        assert row.completed == 2_000
        assert commits < 200


async def test_outcomes_wait_while_the_database_is_locked(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        stage.model.open.clear()
        row = await stage.submit(names("a", 5))
        await stage.model.until_asked(lambda: len(stage.model.asked) == 5)
        with stage.database.begin():
            stage.model.open.set()
            held = await stage.service.retrieve("p1", row.id)
            assert held.completed == 0

        assert (await stage.ended(row)).completed == 5


async def test_lines_do_not_hold_up_a_stop_for_as_long_as_requests_may(tmp_path: Path) -> None:
    model = Model()
    async with staged(tmp_path, model=model, batch_under_way=2) as stage:
        model.open.clear()
        row = await stage.submit(names("a", 6))
        await model.until_asked(lambda: len(model.asked) == 2)
        async with asyncio.timeout(60):
            await stage.service.stop(3600)
        row = await stage.service.retrieve("p1", row.id)
        assert (row.status, row.completed) == ("in_progress", 0)

    model.open.set()
    async with staged(tmp_path, model=model) as stage:
        row = await stage.ended(row)

        # Those that were under way are run again.
        assert sorted(model.asked) == sorted([*names("a", 2), *names("a", 6)])
        assert await stage.results(row) == (names("a", 6), {})


async def test_what_ends_within_the_drain_time_is_kept(tmp_path: Path) -> None:
    model = Model()
    async with staged(tmp_path, model=model, batch_under_way=2) as stage:
        model.open.clear()
        row = await stage.submit(names("a", 6))
        await model.until_asked(lambda: len(model.asked) == 2)
        stopping = asyncio.create_task(stage.service.stop(10))
        await stage.service.retrieve("p1", row.id)
        model.open.set()
        await stopping

        assert model.asked == ["a0", "a1"]
        row = await stage.service.retrieve("p1", row.id)
        assert (row.status, row.completed) == ("in_progress", 2)

    async with staged(tmp_path, model=model) as stage:
        row = await stage.ended(row)

        assert sorted(model.asked) == names("a", 6)
        assert await stage.results(row) == (names("a", 6), {})
