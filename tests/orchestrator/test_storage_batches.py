"""Batches and their lines in a real database."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest

from orchestrator.storage.batches import Batches, BatchRow, LineRow, Status
from orchestrator.storage.database import Database
from orchestrator.storage.files import File, Files
from tests.orchestrator.databases import database_in

ROW = BatchRow(
    id="batch_1",
    project_id="p1",
    key_id="k1",
    endpoint="/v1/chat/completions",
    input_file_id="file-1",
    completion_window="24h",
    status="validating",
    created_at=10.0,
    expires_at=20.0,
    metadata='{"a":1}',
)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = database_in(tmp_path)
    yield opened
    opened.close()


@pytest.fixture
def batches(database: Database) -> Batches:
    return Batches(database)


def lines(count: int, *, ok: bool = True, batch_id: str = "batch_1") -> list[tuple[str, LineRow]]:
    return [(batch_id, LineRow(at, ok, b"%d" % at)) for at in range(count)]


def output(size_bytes: int = 3) -> File:
    return File(
        id="file-out",
        project_id="p1",
        filename="batch_1_output.jsonl",
        purpose="batch_output",
        bytes=size_bytes,
        created_at=11.0,
        expires_at=99.0,
    )


def test_a_batch_is_found_as_it_was_inserted_by_its_project_only(batches: Batches) -> None:
    batches.insert(ROW)

    assert batches.find("batch_1") == ROW == batches.find("batch_1", project_id="p1")
    assert batches.find("batch_1", project_id="p2") is None
    assert batches.find("batch_2") is None


def test_a_status_changes_only_from_where_it_is_thought_to_be(batches: Batches) -> None:
    batches.insert(ROW)

    moved = batches.move("batch_1", before=["validating"], to="in_progress", now=12.0, total=7)
    assert moved == replace(ROW, status="in_progress", in_progress_at=12.0, total=7)
    assert batches.move("batch_1", before=["validating"], to="cancelling", now=13.0) is None
    assert batches.find("batch_1") == moved


def test_pages_are_newest_first_and_stable_where_times_are_equal(batches: Batches) -> None:
    for at in range(7):
        batches.insert(replace(ROW, id=f"batch_{at}", created_at=float(at // 3)))
    batches.insert(replace(ROW, id="batch_x", project_id="p2"))

    seen: list[str] = []
    after, more = None, True
    while more:
        rows, more = batches.page("p1", after=after, limit=2)
        seen += [row.id for row in rows]
        after = rows[-1]

    assert seen == [f"batch_{at}" for at in (6, 5, 4, 3, 2, 1, 0)]
    assert batches.page("p1", after=after, limit=2) == ([], False)


def test_the_second_outcome_of_a_line_is_ignored(batches: Batches) -> None:
    assert batches.record(lines(45)) == 45
    assert batches.record([*lines(46, ok=False), *lines(1, batch_id="batch_2")]) == 2

    assert batches.counts("batch_1") == (45, 1)
    done = batches.done("batch_1")
    assert (sorted(done.at), done.completed, done.failed) == (list(range(46)), 45, 1)


def test_payloads_come_in_order_and_in_chunks_of_bounded_size(batches: Batches) -> None:
    large = b"x" * (300 << 10)
    batches.record([("batch_1", LineRow(at, at % 2 == 0, large)) for at in reversed(range(40))])
    batches.record(lines(1_200, batch_id="batch_2"))

    for batch_id, expected, most in (("batch_1", list(range(0, 40, 2)), 4), ("batch_2", None, 500)):
        after, seen = -1, []
        while rows := batches.payloads(batch_id, ok=True, after=after):
            assert len(rows) <= most
            seen += [row.at for row in rows]
            after = rows[-1].at
        assert seen == (expected or list(range(1_200)))


def test_counts_of_a_batch_under_way_are_those_of_its_lines(batches: Batches) -> None:
    batches.insert(replace(ROW, status="in_progress", total=9))
    batches.record(lines(4))

    counted = batches.find_counted("batch_1", project_id="p1")
    assert counted is not None
    assert (counted.completed, counted.failed) == (4, 0)
    assert batches.find_counted("batch_1", project_id="p2") is None


def test_a_batch_ends_with_its_files_or_not_at_all(database: Database, batches: Batches) -> None:
    batches.insert(replace(ROW, status="cancelling", total=9))
    files = Files(database)

    def end(before: str) -> BatchRow | None:
        return batches.end(
            "batch_1",
            before=before,  # type: ignore[arg-type]
            to="cancelled",
            now=15.0,
            completed=4,
            failed=5,
            output=output(),
            error=None,
        )

    assert end("finalizing") is None
    assert files.find("p1", "file-out") is None
    ended = end("cancelling")
    assert ended is not None
    assert (ended.status, ended.cancelled_at, ended.completed, ended.failed) == (
        "cancelled",
        15.0,
        4,
        5,
    )
    assert (ended.output_file_id, ended.error_file_id) == ("file-out", None)
    assert files.find("p1", "file-out") == output()
    assert end("cancelling") is None


def test_lines_are_dropped_of_one_batch_only(batches: Batches) -> None:
    batches.insert(replace(ROW, status="completed"))
    batches.insert(replace(ROW, id="batch_2", status="in_progress"))
    batches.record([*lines(1_300), *lines(3, batch_id="batch_2")])
    assert batches.ended_with_lines() == ["batch_1"]

    batches.drop_lines("batch_1")

    assert batches.ended_with_lines() == []
    assert batches.counts("batch_1") == (0, 0)
    assert batches.counts("batch_2") == (3, 0)


def test_only_batches_that_have_not_ended_are_under_way(batches: Batches) -> None:
    statuses = get_args(Status)
    for at, status in enumerate(statuses):
        batches.insert(replace(ROW, id=status, status=status, created_at=float(at)))

    live = ["validating", "in_progress", "finalizing", "cancelling"]
    assert [row.id for row in batches.under_way()] == live
    assert batches.still_under_way([*statuses, "other"]) == set(live)


def test_batches_are_deleted_by_when_they_ended(batches: Batches) -> None:
    batches.insert(replace(ROW, id="a", status="completed", completed_at=50.0))
    batches.insert(replace(ROW, id="b", status="failed", failed_at=99.0))
    batches.insert(replace(ROW, id="c", status="expired", expired_at=101.0))
    batches.insert(replace(ROW, id="d", status="in_progress"))

    assert batches.delete_ended(before=100.0) == 2
    assert [batches.find(one) is not None for one in "abcd"] == [False, False, True, True]
