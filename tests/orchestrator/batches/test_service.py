"""Batches from creation to their end: states, files, counts, refusals."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from orchestrator.batches.service import CREATING_MAX, METADATA_MAX_BYTES, NewBatch
from orchestrator.errors import (
    BadRequest,
    Conflict,
    InternalError,
    InvalidBatch,
    NotFound,
    RateLimited,
    ShuttingDown,
)
from orchestrator.storage.batches import Batches, BatchRow
from orchestrator.storage.files import object_name
from tests.orchestrator.batches.stage import (
    CHAT,
    MINE,
    THEIRS,
    Model,
    Stage,
    jsonl,
    staged,
)


def spools(stage: Stage) -> list[str]:
    folder = stage.settings.data_dir / "batches"
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


async def until_tidy(stage: Stage) -> None:
    async with asyncio.timeout(10):
        while spools(stage):
            await asyncio.to_thread(spools, stage)


async def test_a_batch_runs_to_two_files(tmp_path: Path) -> None:
    model = Model(says=lambda one: BadRequest("No.") if one == "b" else b'{"said":"%b"}' % b"x")
    async with staged(tmp_path, model=model) as stage:
        model.open.clear()
        made = await stage.submit(["a", "b", "c"])

        assert (made.status, made.total, made.completed, made.failed) == ("in_progress", 3, 0, 0)
        assert made.output_file_id is made.error_file_id is None
        assert made.expires_at == made.created_at + 86_400
        assert made.id.startswith("batch_")
        assert len(made.id) == 32

        model.open.set()
        row = await stage.ended(made)

        assert (row.status, row.completed, row.failed) == ("completed", 2, 1)
        assert row.finalizing_at is not None
        assert row.completed_at is not None
        assert (await stage.lines(row.output_file_id))[0] == {
            "id": "batch_req_" + (await stage.lines(row.output_file_id))[0]["id"][10:],
            "custom_id": "a",
            "response": {"status_code": 200, "request_id": "req_a", "body": {"said": "x"}},
            "error": None,
        }
        [bad] = await stage.lines(row.error_file_id)
        assert bad["response"] is None
        assert bad["error"] == {
            "code": "invalid_request_error",
            "message": "[legacy:http_400] No.",
            "param": None,
        }
        output = stage.files.find("p1", row.output_file_id or "")
        error = stage.files.find("p1", row.error_file_id or "")
        assert output is not None
        assert error is not None
        assert (output.purpose, output.filename, output.is_error) == (
            "batch_output",
            f"{row.id}_output.jsonl",
            False,
        )
        assert (error.filename, error.is_error) == (f"{row.id}_errors.jsonl", True)
        assert output.bytes == await stage.objects.size(object_name(output.id))
        await until_tidy(stage)
        assert (
            stage.database.engine.connect()
            .exec_driver_sql("SELECT count(*) FROM batch_lines")
            .scalar()
            == 0
        )


async def test_only_files_that_have_lines_are_written(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        row = await stage.ended(await stage.submit(["a"]))

        assert row.error_file_id is None
        assert row.output_file_id is not None


@pytest.mark.parametrize(
    ("wanted", "kind", "message"),
    [
        (("", CHAT, "{}"), BadRequest, "input_file_id is required"),
        (("file-1", "", "{}"), BadRequest, "endpoint is required"),
        (("file-x", CHAT, "{}"), NotFound, "Input file not found: file-x"),
        (("file-gone", CHAT, "{}"), NotFound, "Input file object missing: file-gone"),
        (("file-1", CHAT * 4, "{}"), BadRequest, "endpoint has 80 characters; it must be one of"),
        (
            ("file-1", CHAT, "x" * (METADATA_MAX_BYTES + 1)),
            BadRequest,
            "metadata is 65,537 bytes of JSON",
        ),
    ],
)
async def test_a_request_that_is_wrong_makes_no_batch(
    tmp_path: Path, wanted: tuple[str, str, str], kind: type[Exception], message: str
) -> None:
    async with staged(tmp_path) as stage:
        await stage.upload(jsonl(["a"]))
        await stage.upload(jsonl(["a"]), file_id="file-gone")
        await stage.objects.delete(object_name("file-gone"))
        file_id, endpoint, metadata = wanted

        with pytest.raises(kind) as refused:
            await stage.service.create(
                MINE, NewBatch(input_file_id=file_id, endpoint=endpoint, metadata=metadata)
            )

        assert str(refused.value).startswith(message)
        assert await stage.service.page("p1", after=None, limit=10) == ([], False)
        assert spools(stage) == []


async def test_a_file_of_another_project_is_not_found(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.upload(jsonl(["a"]))

        with pytest.raises(NotFound, match="Input file not found: file-1"):
            await stage.service.create(THEIRS, NewBatch(input_file_id="file-1", endpoint=CHAT))


async def test_a_batch_s_own_output_is_no_input(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        row = await stage.ended(await stage.submit(["a"]))
        assert row.output_file_id is not None

        with pytest.raises(BadRequest, match='purpose "batch_output"'):
            await stage.service.create(
                MINE, NewBatch(input_file_id=row.output_file_id, endpoint=CHAT)
            )


@pytest.mark.parametrize(
    ("endpoint", "url", "message"),
    [
        (CHAT + "/", CHAT, f'endpoint "{CHAT}/" does not match the url "{CHAT}" used by the input'),
        ("/v1/responses", CHAT, f'endpoint "/v1/responses" does not match the url "{CHAT}" used'),
        ("/v1/x", "/v1/x", 'Line 1 url "/v1/x" is not an allowed batch endpoint'),
        (CHAT, "/v1/x", 'Line 1 url "/v1/x" is not an allowed batch endpoint'),
    ],
)
async def test_an_endpoint_that_is_not_that_of_the_lines_is_refused_in_the_documented_words(
    tmp_path: Path, endpoint: str, url: str, message: str
) -> None:
    async with staged(tmp_path) as stage:
        await stage.upload(jsonl(["a", "b"]).replace(CHAT.encode(), url.encode()))

        with pytest.raises(InvalidBatch) as refused:
            await stage.service.create(MINE, NewBatch(input_file_id="file-1", endpoint=endpoint))

        assert refused.value.message.startswith(message)
        row = await stage.service.retrieve("p1", refused.value.batch_id or "")
        assert (row.status, row.endpoint) == ("failed", endpoint)


async def test_a_refused_input_leaves_a_failed_batch_with_all_problems(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.upload(b"{}x\n" + jsonl(["a", "b", "a"]) + b"[]\n")

        with pytest.raises(InvalidBatch, match="Line 1 is not valid JSON") as refused:
            await stage.service.create(MINE, NewBatch(input_file_id="file-1", endpoint=CHAT))

        assert refused.value.line == 1
        row = await stage.service.retrieve("p1", refused.value.batch_id or "")
        assert (row.status, row.total, row.completed, row.failed) == ("failed", 0, 0, 0)
        assert row.failed_at is not None
        assert row.in_progress_at is None
        assert orjson.loads(row.errors or "") == {
            "object": "list",
            "data": [
                {
                    "code": "invalid_request_error",
                    "message": message,
                    "line": line,
                    "param": None,
                }
                for line, message in [
                    (1, "Line 1 is not valid JSON"),
                    (4, 'Line 4 duplicates custom_id "a"'),
                    (5, "Line 5 must be a JSON object"),
                ]
            ],
        }
        assert spools(stage) == []


async def test_another_project_s_batch_is_not_found(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        made = await stage.submit(["a"])

        for ask in (stage.service.retrieve, stage.service.cancel):
            with pytest.raises(NotFound, match=f"Batch not found: {made.id}"):
                await ask("p2", made.id)


async def test_counts_are_live_while_a_batch_runs(tmp_path: Path) -> None:
    model = Model(says=lambda one: InternalError("!") if one == "b" else b"{}")
    async with staged(tmp_path, model=model, batch_attempts=1) as stage:
        stage.supply = 1
        model.open.clear()
        made = await stage.submit(["a", "b", "c"])
        await model.until_asked(lambda: model.asked == ["a"])
        assert (await stage.service.retrieve("p1", made.id)).completed == 0

        stage.supply = 0
        model.open.set()
        row = await stage.until(made, lambda now: now.completed == 1)
        assert (row.status, row.failed) == ("in_progress", 0)
        [listed], _ = await stage.service.page("p1", after=None, limit=1)
        assert (listed.completed, listed.failed) == (1, 0)

        stage.supply = 1
        stage.service.wake()
        row = await stage.ended(made)
        assert (row.completed, row.failed) == (2, 1)


async def test_deleting_the_input_file_does_not_stop_its_batch(tmp_path: Path) -> None:
    model = Model()
    async with staged(tmp_path, model=model, batch_under_way=1) as stage:
        model.open.clear()
        made = await stage.submit(["a", "b", "c"])
        await model.until_asked(lambda: model.asked == ["a"])
        await stage.objects.delete(object_name(made.input_file_id))
        stage.files.delete("p1", made.input_file_id, stage.hands.now_s)
        model.open.set()

        row = await stage.ended(made)

        assert await stage.results(row) == (["a", "b", "c"], {})


async def test_a_cancelled_batch_finishes_what_was_dispatched(tmp_path: Path) -> None:
    model = Model()
    async with staged(tmp_path, model=model, batch_under_way=2) as stage:
        model.open.clear()
        made = await stage.submit(["a", "b", "c", "d"])
        await model.until_asked(lambda: len(model.asked) == 2)

        cancelling = await stage.service.cancel("p1", made.id)
        assert cancelling.status == "cancelling"
        assert cancelling.cancelling_at is not None
        again = await stage.service.cancel("p1", made.id)
        assert replace(again, completed=0) == cancelling

        model.open.set()
        row = await stage.ended(made)

        assert (row.status, row.completed, row.failed) == ("cancelled", 2, 2)
        assert row.cancelled_at is not None
        assert row.finalizing_at is None
        assert await stage.results(row) == (
            ["a", "b"],
            {"c": "batch_cancelled", "d": "batch_cancelled"},
        )
        assert model.asked == ["a", "b"]
        assert await stage.service.cancel("p1", made.id) == row


async def test_who_cancels_and_leaves_has_cancelled_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moving, go = threading.Event(), threading.Event()
    move = Batches.move

    def slow(batches: Batches, batch_id: str, **how: Any) -> BatchRow | None:
        if how["to"] == "cancelling":
            moving.set()
            assert go.wait(10)
        return move(batches, batch_id, **how)

    monkeypatch.setattr(Batches, "move", slow)
    async with staged(tmp_path, batch_under_way=1) as stage:
        stage.model.open.clear()
        row = await stage.submit(["a", "b", "c"])
        await stage.model.until_asked_times(1)
        cancelling = asyncio.create_task(stage.service.cancel("p1", row.id))
        assert await asyncio.to_thread(moving.wait, 10)
        cancelling.cancel()
        await asyncio.sleep(0)
        go.set()
        await asyncio.wait([cancelling])
        stage.model.open.set()
        row = await stage.ended(row)

        assert cancelling.cancelled()
        assert row.status == "cancelled"
        assert stage.model.asked == ["a"]


async def test_a_cancelled_batch_drops_lines_that_take_long(tmp_path: Path) -> None:
    model = Model()
    async with staged(tmp_path, model=model, batch_under_way=3) as stage:
        model.open.clear()
        made = await stage.submit(["a", "b", "c", "d"])
        await model.until_asked(lambda: len(model.asked) == 3)
        await stage.service.cancel("p1", made.id)
        stage.move_clock(1.9)
        await stage.service.cancel("p1", made.id)
        assert model.under_way == 3

        stage.move_clock(0.1)
        row = await stage.ended(made)

        assert (row.status, model.under_way) == ("cancelled", 0)
        assert await stage.results(row) == ([], dict.fromkeys("abcd", "batch_cancelled"))


@pytest.mark.parametrize(("wanted_s", "kept_s"), [(3600, 3600), (2_592_000, 86_400)])
async def test_result_files_are_kept_as_long_as_asked_but_no_longer_than_all_files(
    tmp_path: Path, wanted_s: int, kept_s: int
) -> None:
    model = Model(says=lambda one: BadRequest("No.") if one == "b" else b"{}")
    async with staged(tmp_path, model=model, file_retention_s=86_400) as stage:
        file_id = await stage.upload(jsonl(["a", "b"]))
        wanted = NewBatch(input_file_id=file_id, endpoint=CHAT, output_expires_s=wanted_s)

        row = await stage.ended(await stage.service.create(MINE, wanted))

        for result_id in (row.output_file_id, row.error_file_id):
            file = stage.files.find("p1", result_id or "")
            assert file is not None
            assert file.expires_at == file.created_at + kept_s


async def test_a_batch_that_has_ended_cannot_be_cancelled(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        row = await stage.ended(await stage.submit(["a"]))

        with pytest.raises(Conflict, match=f"Batch {row.id} is completed and can no longer"):
            await stage.service.cancel("p1", row.id)


async def test_a_batch_can_be_cancelled_while_it_is_validated(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.upload(jsonl([f"l{at}" for at in range(20_000)]))
        creating = asyncio.create_task(
            stage.service.create(MINE, NewBatch(input_file_id="file-1", endpoint=CHAT))
        )
        async with asyncio.timeout(10):
            while not (rows := (await stage.service.page("p1", after=None, limit=1))[0]):
                pass
        assert rows[0].status == "validating"
        assert (await stage.service.cancel("p1", rows[0].id)).status == "cancelling"

        assert (await creating).status == "cancelling"
        row = await stage.ended(rows[0])

        assert (row.status, row.total, row.completed, row.failed) == (
            "cancelled",
            20_000,
            0,
            20_000,
        )
        assert stage.model.asked == []
        good, bad = await stage.results(row)
        assert (good, len(bad), set(bad.values())) == ([], 20_000, {"batch_cancelled"})


async def test_a_project_has_only_so_many_batches_checked_at_once_and_others_their_turn(
    tmp_path: Path,
) -> None:
    async with staged(tmp_path) as stage:
        await stage.upload(b"x" + jsonl([str(at) for at in range(3_000)]))
        await stage.upload(jsonl(["a"]), file_id="file-2", project_id="p2")
        wanted = NewBatch(input_file_id="file-1", endpoint=CHAT)
        many = [
            asyncio.create_task(stage.service.create(MINE, wanted)) for _ in range(CREATING_MAX)
        ]
        await asyncio.sleep(0)
        with pytest.raises(RateLimited, match="128 batches of this project are being checked"):
            await stage.service.create(MINE, wanted)
        another = await stage.service.create(
            THEIRS, NewBatch(input_file_id="file-2", endpoint=CHAT)
        )
        waiting = [one for one in many if not one.done()]

        assert another.status == "in_progress"
        assert len(waiting) > CREATING_MAX // 2
        # Once one is checked, there is room for another.
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        with pytest.raises(InvalidBatch):
            await stage.service.create(MINE, wanted)
        for one in many:
            one.cancel()


async def test_a_client_that_leaves_does_not_take_its_batch_with_it(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.upload(jsonl(["a"]))
        creating = asyncio.create_task(
            stage.service.create(MINE, NewBatch(input_file_id="file-1", endpoint=CHAT))
        )
        await asyncio.to_thread(lambda: None)
        creating.cancel()
        async with asyncio.timeout(10):
            while not (rows := (await stage.service.page("p1", after=None, limit=1))[0]):
                pass

        assert (await stage.ended(rows[0])).status == "completed"


@pytest.mark.parametrize(("within_s", "status"), [(10, "in_progress"), (0, "validating")])
async def test_a_batch_that_is_being_checked_when_the_server_stops_is_made(
    tmp_path: Path, within_s: int, status: str
) -> None:
    async with staged(tmp_path) as stage:
        await stage.upload(jsonl([f"l{at}" for at in range(20_000)]))
        creating = asyncio.create_task(
            stage.service.create(MINE, NewBatch(input_file_id="file-1", endpoint=CHAT))
        )
        async with asyncio.timeout(10):
            while not (await stage.service.page("p1", after=None, limit=1))[0]:
                pass
        await stage.service.stop(within_s)

        made = await creating
        assert made.status == status

    async with staged(tmp_path) as stage:
        assert (await stage.ended(made)).completed == 20_000


@pytest.mark.parametrize("turns", range(12))
async def test_who_is_told_to_try_again_has_no_batch_yet(tmp_path: Path, turns: int) -> None:
    async with staged(tmp_path) as stage:
        await stage.upload(jsonl(["a", "b"]))
        creating = asyncio.create_task(
            stage.service.create(MINE, NewBatch(input_file_id="file-1", endpoint=CHAT))
        )
        for _ in range(turns):
            await asyncio.to_thread(lambda: None)
        await stage.service.stop(0)
        [made] = await asyncio.gather(creating, return_exceptions=True)

    async with staged(tmp_path) as stage:
        rows, _ = await stage.service.page("p1", after=None, limit=9)
        if isinstance(made, ShuttingDown):
            assert rows == []
        else:
            assert [row.id for row in rows] == [getattr(made, "id", None)]
            assert (await stage.ended(rows[0])).completed == 2


async def test_a_batch_not_done_in_time_keeps_what_is_done(tmp_path: Path) -> None:
    model = Model()

    def one_only(custom_id: str) -> bytes:
        model.open.clear()
        return b"{}"

    model.says = one_only
    async with staged(tmp_path, model=model, batch_under_way=1, batch_window_s=60) as stage:
        made = await stage.submit(["a", "b", "c"])
        await stage.until(made, lambda now: now.completed == 1)
        await model.until_asked(lambda: model.asked == ["a", "b"])
        stage.move_clock(59.0)
        assert (await stage.service.retrieve("p1", made.id)).status == "in_progress"

        stage.move_clock(1.0)
        row = await stage.ended(made)

        assert (row.status, row.expired_at) == ("expired", row.expires_at)
        assert await stage.results(row) == (["a"], {"b": "batch_expired", "c": "batch_expired"})
        assert model.under_way == 0
        with pytest.raises(Conflict, match="is expired"):
            await stage.service.cancel("p1", made.id)


async def test_batches_are_listed_newest_first_in_pages(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        made = [await stage.submit([f"a{at}"]) for at in range(5)]
        await stage.submit(["b"], principal=THEIRS)
        newest_first = sorted((row.id for row in made), key=lambda one: one, reverse=True)
        seen: list[str] = []
        after, more = None, True
        while more:
            rows, more = await stage.service.page("p1", after=after, limit=2)
            seen += [row.id for row in rows]
            after = seen[-1]

        assert seen == newest_first
        with pytest.raises(BadRequest, match="after must be the id of one of your batches"):
            await stage.service.page("p2", after=made[0].id, limit=2)


async def test_a_store_that_is_down_only_delays_the_end(tmp_path: Path) -> None:
    async with staged(tmp_path, batch_retry_s=0.001) as stage:
        folder = stage.settings.data_dir / "files/files"
        stage.model.open.clear()
        made = await stage.submit(["a"])
        # A folder that is a file: nothing can be written there.
        folder.rename(folder.with_name("away"))
        folder.write_bytes(b"")
        stage.model.open.set()
        row = await stage.until(made, lambda now: now.status == "finalizing")
        assert row.completed == 1
        with pytest.raises(Conflict, match="is finalizing"):
            await stage.service.cancel("p1", made.id)

        folder.unlink()
        folder.with_name("away").rename(folder)

        row = await stage.ended(made)
        assert await stage.results(row) == (["a"], {})
