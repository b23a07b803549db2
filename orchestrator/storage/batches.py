"""Batches and the outcomes of their lines, in the database. Everything here blocks.

Rules: a status changes by compare-and-set, in one statement, so that of two who want to change it
only one does. A line's outcome is a row with the batch and the line as its primary key: a second
one is ignored. A batch ends in one transaction with the rows of its files; afterwards its lines go.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import chain
from typing import Any, Final, Literal

from sqlalchemy import Connection, Row, and_, delete, exists, func, insert, or_, select, update

from orchestrator.storage.database import Database
from orchestrator.storage.files import File
from orchestrator.storage.schema import batch_lines, batches, files

Status = Literal[
    "validating",
    "failed",
    "in_progress",
    "finalizing",
    "completed",
    "expired",
    "cancelling",
    "cancelled",
]
ENDED: Final[tuple[Status, ...]] = ("completed", "failed", "expired", "cancelled")
UNDER_WAY: Final[tuple[Status, ...]] = ("validating", "in_progress", "finalizing", "cancelling")

# Rows of one statement, as the driver lets go of the interpreter once a statement.
_ROWS_A_STATEMENT: Final = 20
_RECORD: Final = "INSERT OR IGNORE INTO batch_lines (batch_id, line, ok, payload) VALUES "
_CHUNK_ROWS: Final = 500
_CHUNK_BYTES: Final = 1 << 20


@dataclass(frozen=True)
class BatchRow:
    """One row of ``batches``. Times are seconds since the epoch; ``metadata``, ``errors`` JSON."""

    id: str
    project_id: str
    key_id: str
    endpoint: str
    input_file_id: str
    completion_window: str
    status: Status
    created_at: float
    expires_at: float
    total: int = 0
    completed: int = 0
    failed: int = 0
    output_file_id: str | None = None
    error_file_id: str | None = None
    in_progress_at: float | None = None
    finalizing_at: float | None = None
    completed_at: float | None = None
    failed_at: float | None = None
    expired_at: float | None = None
    cancelling_at: float | None = None
    cancelled_at: float | None = None
    metadata: str = "{}"
    errors: str | None = None
    # How long the result files are to be kept, in seconds from when they are made.
    output_expires_s: int | None = None


@dataclass(frozen=True, slots=True)
class LineRow:
    """The outcome of the line at position ``at`` (from 0) of a batch's input."""

    at: int
    ok: bool
    payload: bytes


@dataclass(frozen=True)
class Done:
    """Which lines of a batch have an outcome."""

    at: list[int]
    completed: int
    failed: int


_COLUMNS: Final = [batches.c[field.name] for field in fields(BatchRow)]
_TIMES: Final[dict[Status, str]] = {
    "in_progress": "in_progress_at",
    "finalizing": "finalizing_at",
    "completed": "completed_at",
    "failed": "failed_at",
    "expired": "expired_at",
    "cancelling": "cancelling_at",
    "cancelled": "cancelled_at",
}


class Batches:
    """The tables ``batches`` and ``batch_lines``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def insert(self, row: BatchRow) -> None:
        with self._database.begin() as connection:
            insert_batch(connection, row)

    def find(self, batch_id: str, *, project_id: str | None = None) -> BatchRow | None:
        """Return a batch, of that project if one is given; its counts are as in its row."""
        with self._database.connect() as connection:
            return _find(connection, batch_id, project_id)

    def find_counted(self, batch_id: str, *, project_id: str) -> BatchRow | None:
        """Return a batch of the project with its counts as they are now."""
        with self._database.connect() as connection:
            row = _find(connection, batch_id, project_id)
            if row is None or row.status in ENDED:
                return row
            completed, failed = _counts(connection, batch_id)
            return replace(row, completed=completed, failed=failed)

    def page(
        self, project_id: str, *, after: BatchRow | None, limit: int
    ) -> tuple[list[BatchRow], bool]:
        """Return up to ``limit`` batches, newest first, and whether there are more."""
        columns = batches.c
        query = (
            select(*_COLUMNS)
            .where(columns.project_id == project_id)
            .order_by(columns.created_at.desc(), columns.id.desc())
            .limit(limit + 1)
        )
        if after is not None:
            older = columns.created_at < after.created_at
            same = and_(columns.created_at == after.created_at, columns.id < after.id)
            query = query.where(or_(older, same))
        with self._database.connect() as connection:
            rows = [_batch(row) for row in connection.execute(query)]
        return rows[:limit], len(rows) > limit

    def under_way(self) -> list[BatchRow]:
        """Return the batches that have not ended, oldest first."""
        query = (
            select(*_COLUMNS)
            .where(batches.c.status.in_(UNDER_WAY))
            .order_by(batches.c.created_at, batches.c.id)
        )
        with self._database.connect() as connection:
            return [_batch(row) for row in connection.execute(query)]

    def move(
        self,
        batch_id: str,
        *,
        before: Collection[Status],
        to: Status,
        now: float,
        **values: int | str | None,
    ) -> BatchRow | None:
        """Change the status, note when, set ``values``; None if it is in none of ``before``."""
        with self._database.begin() as connection:
            row = connection.execute(
                update(batches)
                .where(batches.c.id == batch_id, batches.c.status.in_(before))
                .values(**{"status": to, _TIMES[to]: now, **values})
                .returning(*_COLUMNS)
            ).first()
        return None if row is None else _batch(row)

    def set_total(self, batch_id: str, total: int) -> None:
        """Note how many lines a batch has that was cancelled before that was known."""
        with self._database.begin() as connection:
            connection.execute(update(batches).where(batches.c.id == batch_id).values(total=total))

    def record(self, rows: Sequence[tuple[str, LineRow]]) -> int:
        """Keep outcomes of lines, of any batches, in one transaction; returns how many were new."""
        new = 0
        with self._database.begin() as connection:
            for start in range(0, len(rows), _ROWS_A_STATEMENT):
                some = rows[start : start + _ROWS_A_STATEMENT]
                places = ", ".join(["(?, ?, ?, ?)"] * len(some))
                values = chain.from_iterable(
                    (batch_id, row.at, row.ok, row.payload) for batch_id, row in some
                )
                new += connection.exec_driver_sql(_RECORD + places, tuple(values)).rowcount
        return new

    def done(self, batch_id: str) -> Done:
        """Return the lines that have an outcome, and how many of them are good and bad."""
        query = select(batch_lines.c.line, batch_lines.c.ok).where(
            batch_lines.c.batch_id == batch_id
        )
        found: list[int] = []
        completed = 0
        with self._database.connect() as connection:
            # In parts: making 50,000 rows in one go keeps the interpreter from all others.
            result = connection.execute(query.execution_options(yield_per=_CHUNK_ROWS))
            for rows in result.partitions():
                found += [row.line for row in rows]
                completed += sum(row.ok for row in rows)
        return Done(found, completed, len(found) - completed)

    def counts(self, batch_id: str) -> tuple[int, int]:
        """Return how many lines of a batch under way are completed and failed."""
        with self._database.connect() as connection:
            return _counts(connection, batch_id)

    def payloads(self, batch_id: str, *, ok: bool, after: int) -> list[LineRow]:
        """Return the next outcomes of one kind beyond position ``after`` (-1: from the start).

        In the order of the input, about a mebibyte of them; empty at the end.
        """
        columns = batch_lines.c
        query = (
            select(columns.line, columns.ok, columns.payload)
            .where(columns.batch_id == batch_id, columns.line > after, columns.ok == ok)
            .order_by(columns.line)
            .limit(_CHUNK_ROWS)
            # A few at a time: payloads can be long, and what lies beyond the chunk is not loaded.
            .execution_options(yield_per=20)
        )
        found: list[LineRow] = []
        held_bytes = 0
        with self._database.connect() as connection:
            for row in connection.execute(query):
                found.append(LineRow(row.line, row.ok, row.payload))
                held_bytes += len(row.payload)
                if held_bytes >= _CHUNK_BYTES:
                    break
        return found

    def end(
        self,
        batch_id: str,
        *,
        before: Status,
        to: Status,
        now: float,
        completed: int,
        failed: int,
        output: File | None,
        error: File | None,
        errors: str | None = None,
    ) -> BatchRow | None:
        """End a batch together with the rows of its files; None if it is not in ``before``."""
        with self._database.begin() as connection:
            row = connection.execute(
                update(batches)
                .where(batches.c.id == batch_id, batches.c.status == before)
                .values(
                    status=to,
                    completed=completed,
                    failed=failed,
                    output_file_id=None if output is None else output.id,
                    error_file_id=None if error is None else error.id,
                    errors=errors,
                    **{_TIMES[to]: now},
                )
                .returning(*_COLUMNS)
            ).first()
            if row is None:
                return None
            for file in (output, error):
                if file is not None:
                    connection.execute(insert(files).values(**asdict(file)))
        return _batch(row)

    def drop_lines(self, batch_id: str) -> None:
        """Delete the outcomes of a batch that has ended, some at a time: others write as well."""
        while self._drop_some(batch_id):
            pass

    def _drop_some(self, batch_id: str) -> bool:
        columns = batch_lines.c
        some = select(columns.line).where(columns.batch_id == batch_id).limit(_CHUNK_ROWS)
        with self._database.begin() as connection:
            gone = connection.execute(
                delete(batch_lines).where(columns.batch_id == batch_id, columns.line.in_(some))
            )
        return gone.rowcount == _CHUNK_ROWS

    def ended_with_lines(self) -> list[str]:
        """Return the batches that ended and were not tidied up since."""
        query = select(batches.c.id).where(
            batches.c.status.in_(ENDED), exists().where(batch_lines.c.batch_id == batches.c.id)
        )
        with self._database.connect() as connection:
            return [row.id for row in connection.execute(query)]

    def still_under_way(self, batch_ids: Collection[str]) -> set[str]:
        """Return which of these are batches that have not ended."""
        query = select(batches.c.id).where(
            batches.c.id.in_(batch_ids), batches.c.status.in_(UNDER_WAY)
        )
        with self._database.connect() as connection:
            return {row.id for row in connection.execute(query)}

    def delete_ended(self, *, before: float) -> int:
        """Delete the batches that ended before then; returns how many."""
        columns = batches.c
        ended_at = func.coalesce(
            columns.completed_at, columns.failed_at, columns.expired_at, columns.cancelled_at
        )
        with self._database.begin() as connection:
            gone = connection.execute(
                delete(batches).where(columns.status.in_(ENDED), ended_at < before)
            )
        return gone.rowcount


def insert_batch(connection: Connection, row: BatchRow) -> None:
    """Insert a batch as part of what else is being written."""
    connection.execute(insert(batches).values(**asdict(row)))


def _find(connection: Connection, batch_id: str, project_id: str | None) -> BatchRow | None:
    query = select(*_COLUMNS).where(batches.c.id == batch_id)
    if project_id is not None:
        query = query.where(batches.c.project_id == project_id)
    row = connection.execute(query).first()
    return None if row is None else _batch(row)


def _counts(connection: Connection, batch_id: str) -> tuple[int, int]:
    query = (
        select(batch_lines.c.ok, func.count())
        .where(batch_lines.c.batch_id == batch_id)
        .group_by(batch_lines.c.ok)
    )
    by_ok = {row[0]: row[1] for row in connection.execute(query)}
    return by_ok.get(True, 0), by_ok.get(False, 0)


def _batch(row: Row[Any]) -> BatchRow:
    return BatchRow(**row._mapping)
