"""What is known of files: whose, how long, until when. Their bytes are in the object store.

A file that is deleted or has outlived its time keeps its row, marked; to customers it is gone.
Calls block: run them in a thread.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Final

from sqlalchemy import ColumnElement, Connection, RowMapping, insert, select, tuple_, update

from orchestrator.errors import BadRequest, StorageError
from orchestrator.storage.database import Database
from orchestrator.storage.objects import FOLDER, Objects
from orchestrator.storage.schema import files

PREFIX: Final = "file-"
_LEGACY_PREFIX: Final = "file_"
_SWEEP_FILES: Final = 500
# An object is written before its row: one younger than this may still get it.
_ORPHAN_AGE_S: Final = 86_400.0


@dataclass(frozen=True, kw_only=True)
class File:
    """A file of a project; ``created_at`` and ``expires_at`` in Unix seconds."""

    id: str
    project_id: str
    filename: str
    purpose: str
    bytes: int
    created_at: float
    expires_at: float
    is_error: bool = False


def object_name(file_id: str) -> str:
    """Return the name of a file's bytes in the object store."""
    return f"{FOLDER}/{file_id}"


def insert_file(connection: Connection, file: File) -> None:
    """Make a file known as a part of a transaction."""
    connection.execute(insert(files).values(asdict(file)))


class Files:
    """The files of all projects; none is shown to another project than its own."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def insert(self, file: File) -> None:
        """Make a file known; its object is there already."""
        with self.database.begin() as connection:
            insert_file(connection, file)

    def find(self, project_id: str, file_id: str, now: float | None = None) -> File | None:
        """Return a file that the project has at ``now`` (Unix seconds).

        Without a time, also one whose time is over and that the next sweep will delete.
        """
        query = select(*_COLUMNS).where(*_one(project_id, file_id), _LIVE)
        if now is not None:
            query = query.where(files.c.expires_at > now)
        with self.database.connect() as connection:
            row = connection.execute(query).mappings().first()
        return None if row is None else _file(row)

    def page(
        self,
        project_id: str,
        *,
        now: float,
        purpose: str | None,
        ascending: bool,
        after: str | None,
        limit: int,
    ) -> tuple[list[File], bool]:
        """Return up to ``limit`` of the files of ``now`` by age, and whether there are more.

        ``after`` is the last file of the page before, which may be gone since. Raises
        `BadRequest` if the project never had it.
        """
        place = tuple_(files.c.created_at, files.c.id)
        query = (
            select(*_COLUMNS)
            .where(files.c.project_id == project_id, _LIVE, files.c.expires_at > now)
            .order_by(*(column.asc() if ascending else column.desc() for column in _ORDER))
            .limit(limit + 1)
        )
        if purpose is not None:
            query = query.where(files.c.purpose == purpose)
        with self.database.connect() as connection:
            if after is not None:
                last = connection.execute(select(*_ORDER).where(*_one(project_id, after))).first()
                if last is None:
                    raise BadRequest(
                        f"after must be the id of one of your files, not {after[:100]!r}: send the"
                        " last_id of the page before.",
                        code="invalid_after",
                        param="after",
                    )
                query = query.where(place > tuple(last) if ascending else place < tuple(last))
            found = [_file(row) for row in connection.execute(query).mappings()]
        return found[:limit], len(found) > limit

    def delete(self, project_id: str, file_id: str, now: float) -> bool:
        """Mark a file as deleted; returns whether the project had it."""
        change = update(files).where(*_one(project_id, file_id), _LIVE).values(deleted_at=now)
        with self.database.begin() as connection:
            return connection.execute(change).rowcount > 0

    def undelete(self, project_id: str, file_id: str) -> None:
        """Take back that a file was marked as deleted."""
        change = update(files).where(*_one(project_id, file_id)).values(deleted_at=None)
        with self.database.begin() as connection:
            connection.execute(change)

    def outlived(self, now: float, limit: int) -> list[File]:
        """Return up to ``limit`` files whose time is over, the oldest first."""
        query = (
            select(*_COLUMNS)
            .where(files.c.expires_at <= now, _LIVE)
            .order_by(files.c.expires_at)
            .limit(limit)
        )
        with self.database.connect() as connection:
            return [_file(row) for row in connection.execute(query).mappings()]

    def mark_deleted(self, ids: Sequence[str], now: float) -> None:
        """Mark files as deleted, whosever they are."""
        change = update(files).where(files.c.id.in_(ids), _LIVE).values(deleted_at=now)
        with self.database.begin() as connection:
            connection.execute(change)

    def live_among(self, ids: Sequence[str]) -> set[str]:
        """Return those of ``ids`` that are files now."""
        query = select(files.c.id).where(files.c.id.in_(ids), _LIVE)
        with self.database.connect() as connection:
            return set(connection.execute(query).scalars())


async def sweep_files(store: Files, objects: Objects, now: float) -> int:
    """Delete the files whose time is over; returns how many.

    Objects go first: after a crash in between, the next sweep finds the rows again. So it does
    when the object store fails.
    """
    swept = 0
    while outlived := await asyncio.to_thread(store.outlived, now, _SWEEP_FILES):
        gone = await _delete_objects(objects, (file.id for file in outlived))
        await asyncio.to_thread(store.mark_deleted, gone, now)
        swept += len(gone)
        if len(gone) < len(outlived):
            break
    return swept


async def sweep_orphans(store: Files, objects: Objects, now: float) -> int:
    """Delete the objects of no file, which crashes leave behind; returns how many.

    Lists the whole store: once a day is often enough.
    """
    swept = 0
    async for names in objects.older_than(now - _ORPHAN_AGE_S):
        ids = [name.removeprefix(f"{FOLDER}/") for name in names]
        live = await asyncio.to_thread(store.live_among, ids)
        swept += len(await _delete_objects(objects, (one for one in ids if one not in live)))
    return swept


async def _delete_objects(objects: Objects, ids: Iterable[str]) -> list[str]:
    gone = []
    for file_id in ids:
        # The store has logged why; the other files need not wait for this one.
        with contextlib.suppress(StorageError):
            await objects.delete(object_name(file_id))
            gone.append(file_id)
    return gone


_COLUMNS: Final = (
    files.c.id,
    files.c.project_id,
    files.c.filename,
    files.c.purpose,
    files.c.bytes,
    files.c.created_at,
    files.c.expires_at,
    files.c.is_error,
)
_ORDER: Final = (files.c.created_at, files.c.id)
_LIVE: Final = files.c.deleted_at.is_(None)


def _one(project_id: str, file_id: str) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    if file_id.startswith(_LEGACY_PREFIX):
        file_id = PREFIX + file_id.removeprefix(_LEGACY_PREFIX)
    return files.c.project_id == project_id, files.c.id == file_id


def _file(row: RowMapping) -> File:
    return File(**row)
