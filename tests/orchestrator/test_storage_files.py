"""The table of files in a real database, and the sweep of files whose time is over."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final

import pytest

from orchestrator.errors import BadRequest, StorageError
from orchestrator.settings import Settings
from orchestrator.storage.database import Database
from orchestrator.storage.files import File, Files, object_name, sweep_files, sweep_orphans
from orchestrator.storage.objects import Objects, open_objects
from tests.orchestrator.databases import database_in

MINE: Final = "proj_mine"
THEIRS: Final = "proj_theirs"


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = database_in(tmp_path)
    yield opened
    opened.close()


@pytest.fixture
def files(database: Database) -> Files:
    return Files(database)


@pytest.fixture
def objects(tmp_path: Path) -> Objects:
    return open_objects(Settings(data_dir=tmp_path))


def a_file(
    number: int, *, created_at: float = 1.5, purpose: str = "batch", project_id: str = MINE
) -> File:
    return File(
        id=f"file-{number:024x}",
        project_id=project_id,
        filename=f"{number}.jsonl",
        purpose=purpose,
        bytes=number,
        created_at=created_at,
        expires_at=created_at + 100,
    )


def pages(
    files: Files,
    *,
    limit: int,
    now: float = 0.0,
    ascending: bool = True,
    purpose: str | None = None,
) -> Iterator[list[str]]:
    """Yield the ids of every page, as a customer walks through them."""
    after = None
    while True:
        page, has_more = files.page(
            MINE, now=now, purpose=purpose, ascending=ascending, after=after, limit=limit
        )
        yield [file.id for file in page]
        if not has_more:
            return
        after = page[-1].id


def test_a_file_is_found_by_its_own_project_only(files: Files) -> None:
    files.insert(a_file(1))

    assert files.find(MINE, a_file(1).id) == a_file(1)
    assert files.find(THEIRS, a_file(1).id) is None
    assert files.find(MINE, a_file(2).id) is None


def test_a_file_whose_time_is_over_is_gone_before_the_sweep(files: Files) -> None:
    files.insert(a_file(1))
    files.insert(a_file(2, created_at=50.0))

    assert files.find(MINE, a_file(1).id, now=101.4) == a_file(1)
    assert files.find(MINE, a_file(1).id, now=101.5) is None
    assert list(pages(files, limit=1, now=101.4)) == [[a_file(1).id], [a_file(2).id]]
    assert list(pages(files, limit=1, now=101.5)) == [[a_file(2).id]]
    assert files.outlived(101.5, 9) == [a_file(1)]
    # A walk that is under way goes on from it.
    after, _ = files.page(
        MINE, now=101.5, purpose=None, ascending=True, after=a_file(1).id, limit=9
    )
    assert [file.id for file in after] == [a_file(2).id]


def test_the_older_form_of_an_id_means_the_same_file(files: Files) -> None:
    files.insert(a_file(1))
    legacy = a_file(1).id.replace("file-", "file_")

    assert files.find(MINE, legacy) == a_file(1)
    after = files.page(MINE, now=2.0, purpose=None, ascending=True, after=legacy, limit=9)
    assert after == ([], False)
    assert files.delete(MINE, legacy, now=2.0)


def test_a_deleted_file_is_gone_everywhere_and_its_row_stays(
    files: Files, database: Database
) -> None:
    files.insert(a_file(1))

    assert not files.delete(THEIRS, a_file(1).id, now=2.0)
    assert files.delete(MINE, a_file(1).id, now=2.0)
    assert not files.delete(MINE, a_file(1).id, now=3.0)

    assert files.find(MINE, a_file(1).id) is None
    assert list(pages(files, limit=9)) == [[]]
    assert files.outlived(1_000, 9) == []
    assert files.live_among([a_file(1).id]) == set()
    with database.connect() as connection:
        rows = connection.exec_driver_sql("SELECT id, deleted_at FROM files").all()
    assert [tuple(row) for row in rows] == [(a_file(1).id, 2.0)]


@pytest.mark.parametrize("ascending", [True, False])
@pytest.mark.parametrize("limit", [1, 2, 3, 7, 8])
def test_pages_visit_every_file_once_though_many_are_of_one_moment(
    files: Files, limit: int, ascending: bool
) -> None:
    for number, created_at in ((3, 1.5), (1, 1.5), (2, 1.5), (5, 1.25), (4, 9.0), (6, 9.0), (7, 2)):
        files.insert(a_file(number, created_at=created_at))
    files.insert(a_file(8, project_id=THEIRS))

    seen = list(itertools.chain(*pages(files, limit=limit, ascending=ascending)))

    expected = [a_file(number).id for number in (5, 1, 2, 3, 7, 4, 6)]
    assert seen == (expected if ascending else expected[::-1])


def test_a_walk_goes_on_after_a_file_that_was_deleted_meanwhile(files: Files) -> None:
    for number in range(4):
        files.insert(a_file(number))
    walk = pages(files, limit=2)

    first = next(walk)
    files.delete(MINE, first[-1], now=2.0)

    assert next(walk) == [a_file(2).id, a_file(3).id]


def test_a_page_holds_files_of_one_purpose_where_that_is_asked(files: Files) -> None:
    files.insert(a_file(1))
    files.insert(a_file(2, purpose="batch_output"))

    assert list(pages(files, limit=9, purpose="batch_output")) == [[a_file(2).id]]


def test_a_page_after_a_file_the_project_never_had_is_refused(files: Files) -> None:
    files.insert(a_file(1, project_id=THEIRS))

    for never in (a_file(1).id, "nonsense"):
        with pytest.raises(BadRequest, match="must be the id of one of your files") as refused:
            files.page(MINE, now=2.0, purpose=None, ascending=True, after=never, limit=9)
        assert (refused.value.code, refused.value.param) == ("invalid_after", "after")


async def stored(objects: Objects, name: str) -> None:
    async def one() -> AsyncIterator[bytes]:
        yield b"x"

    await objects.put(name, one())


async def test_a_sweep_deletes_what_is_over_and_keeps_the_rest(
    files: Files, objects: Objects
) -> None:
    for number, created_at in ((1, 0.0), (2, 0.5), (3, 50.0)):
        files.insert(a_file(number, created_at=created_at))
        await stored(objects, object_name(a_file(number).id))

    assert await sweep_files(files, objects, now=100.5) == 2
    assert await sweep_files(files, objects, now=100.5) == 0

    sizes = [await objects.size(object_name(a_file(number).id)) for number in (1, 2, 3)]
    assert sizes == [None, None, 1]
    assert list(pages(files, limit=9)) == [[a_file(3).id]]


async def test_a_sweep_repairs_one_that_ended_between_object_and_row(
    files: Files, objects: Objects
) -> None:
    # The first of two: its object is gone, its row does not say so yet.
    files.insert(a_file(1))
    files.insert(a_file(2))
    await stored(objects, object_name(a_file(2).id))

    assert await sweep_files(files, objects, now=1_000) == 2

    assert await objects.size(object_name(a_file(2).id)) is None
    assert list(pages(files, limit=9)) == [[]]


async def test_a_file_whose_object_cannot_be_deleted_is_swept_next_time(
    files: Files, objects: Objects, tmp_path: Path
) -> None:
    for number in (1, 2):
        files.insert(a_file(number))
    # A folder in its place: the store deletes files only.
    stuck = tmp_path / "files" / object_name(a_file(1).id)
    stuck.mkdir()
    (stuck / "x").touch()
    with pytest.raises(StorageError):
        await objects.delete(object_name(a_file(1).id))

    assert await sweep_files(files, objects, now=1_000) == 1

    assert [file.id for file in files.outlived(1_000, 9)] == [a_file(1).id]
    (stuck / "x").unlink()
    stuck.rmdir()
    assert await sweep_files(files, objects, now=1_000) == 1


async def test_objects_of_no_file_are_swept_once_they_are_old(
    files: Files, objects: Objects
) -> None:
    files.insert(a_file(1))
    files.insert(a_file(2))
    for number in (1, 2, 3):
        await stored(objects, object_name(a_file(number).id))
    files.delete(MINE, a_file(2).id, now=2.0)
    later = 4e9

    assert await sweep_orphans(files, objects, now=0) == 0
    assert await sweep_orphans(files, objects, now=later) == 2

    sizes = [await objects.size(object_name(a_file(number).id)) for number in (1, 2, 3)]
    assert sizes == [1, None, None]


async def test_a_sweep_leaves_what_others_keep_in_the_same_folder(
    files: Files, objects: Objects
) -> None:
    await stored(objects, "files/taxes.txt")

    assert await sweep_orphans(files, objects, now=4e9) == 0

    assert await objects.size("files/taxes.txt") == 1
