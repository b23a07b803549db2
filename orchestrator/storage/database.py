"""Opens the SQLite database of a data directory: lock, backup, migrations, connection settings.

The server holds the directory's lock for as long as it runs and is the only one to migrate a
database in use. A command is a second process on the same file: it waits for locks, it holds none.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import sqlalchemy
from sqlalchemy import Connection, Engine, event, exc

from orchestrator.errors import OperatorError, SchemaMismatch
from orchestrator.storage.lock import DataDirLock, lock_data_dir

# The newest migration. Revisions are four digits, so that their order is that of their names.
SCHEMA: Final = "0007"
FILE_NAME: Final = "zerogpu.db"
_MIGRATIONS: Final = Path(__file__).with_name("migrations")
_BUSY_TIMEOUT_MS: Final = 5_000
_IMMEDIATE: Final = "zerogpu_immediate"
# What the system refuses. SQLite's other errors are faults of ours, whose traceback is wanted.
_REFUSED: Final = frozenset(
    {
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
    }
)
# The low byte of an error code is the kind of error, the others are its details.
_KIND: Final = 0xFF


@dataclass(frozen=True)
class Database:
    """An open database. `begin` is for writing, `connect` for reading; both may block."""

    engine: Engine
    path: Path
    lock: DataDirLock | None = None

    @contextlib.contextmanager
    def begin(self) -> Iterator[Connection]:
        """A transaction that takes the write lock at once: it never fails half-way for it."""
        with self.engine.execution_options(**{_IMMEDIATE: True}).begin() as connection:
            yield connection

    @contextlib.contextmanager
    def connect(self) -> Iterator[Connection]:
        """A consistent view for reading."""
        with self.engine.connect() as connection:
            yield connection

    def close(self) -> None:
        self.engine.dispose()
        if self.lock is not None:
            self.lock.release()


def open_database(data_dir: Path) -> Database:
    """Open for serving: take the lock, back up and migrate where needed.

    Raises `DataDirLocked` when another server runs on ``data_dir`` and `SchemaMismatch` when the
    database is newer than this program; `OperatorError` when the system refuses it.
    """
    with usable(data_dir):
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = lock_data_dir(data_dir)
        try:
            return Database(_open_migrated(data_dir), data_dir / FILE_NAME, lock)
        except BaseException:
            lock.release()
            raise


def open_for_command(data_dir: Path) -> Database:
    """Open for a command that runs beside a server, or before the first one ever ran.

    Migrates only when no server holds the directory. Raises as `open_database` does.
    """
    path = data_dir / FILE_NAME
    with usable(data_dir):
        if path.exists() and _current_schema(path) == SCHEMA:
            return Database(_engine(path), path)
    database = open_database(data_dir)
    if database.lock is not None:
        database.lock.release()
    return Database(database.engine, path)


@contextlib.contextmanager
def usable(data_dir: Path) -> Iterator[None]:
    """Tell, as an `OperatorError`, what the system refuses to do in ``data_dir``."""
    try:
        yield
    except OSError as error:
        raise _refusal(data_dir, f"{error.strerror}: {error.filename or data_dir}") from error
    except (sqlite3.OperationalError, exc.OperationalError) as error:
        if not was_refused(error):
            raise
        path = data_dir / FILE_NAME
        cause = error.orig if isinstance(error, exc.OperationalError) else error
        if _kind_of(error) == sqlite3.SQLITE_BUSY:
            raise OperatorError(
                f"another process has kept {path} locked for {_BUSY_TIMEOUT_MS / 1000:g} s: try"
                " again, or end that process"
            ) from error
        raise _refusal(data_dir, f"{cause}: {path}") from error


def was_refused(error: sqlite3.OperationalError | exc.OperationalError) -> bool:
    """Whether the system or another process is what a statement failed for, and not we."""
    return _kind_of(error) in _REFUSED


def _kind_of(error: sqlite3.OperationalError | exc.OperationalError) -> int | None:
    cause = error.orig if isinstance(error, exc.OperationalError) else error
    # What the driver itself refuses has no code of SQLite's.
    code = getattr(cause, "sqlite_errorcode", None)
    return None if code is None else code & _KIND


def _refusal(data_dir: Path, reason: str) -> OperatorError:
    return OperatorError(
        f"the data directory {data_dir} cannot be used ({reason}): it must be a folder that this"
        " user may read and write, on a disk with room; or choose another with --data-dir"
    )


def _open_migrated(data_dir: Path) -> Engine:
    path = data_dir / FILE_NAME
    current = _current_schema(path)
    if current is not None and current > SCHEMA:
        raise SchemaMismatch(
            f"{path} was written by a newer version of zerogpu (schema {current}; this one knows up"
            f" to {SCHEMA}): upgrade zerogpu, or restore a copy from {data_dir}/backups"
        )
    if current is not None and current < SCHEMA:
        _back_up(path, data_dir / "backups", current)
    engine = _engine(path)
    try:
        if current != SCHEMA:
            migrate(engine)
        # A database that cannot be written to is found out now, not at the first request. To begin
        # is not enough: SQLite makes do with a transaction for reading.
        with engine.begin() as connection:
            connection.exec_driver_sql("DELETE FROM alembic_version WHERE false")
        return engine
    except BaseException:
        engine.dispose()
        raise


def migrate(engine: Engine, *, to: str = SCHEMA) -> None:
    """Bring the database to schema ``to`` in one transaction: all of it or nothing."""
    # Imported here: most starts have nothing to migrate, and Alembic takes a while to load.
    from alembic import command  # noqa: PLC0415
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    with engine.execution_options(**{_IMMEDIATE: True}).begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, to)


def _current_schema(path: Path) -> str | None:
    """Return the schema of the database at ``path``; None if there is none or it is empty."""
    if not path.exists():
        return None
    with contextlib.closing(_plain(path)) as connection:
        try:
            row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        except sqlite3.OperationalError as error:
            if "no such table" in str(error):
                return None
            if error.sqlite_errorcode & _KIND in _REFUSED:
                raise
            raise OperatorError(f"{path} cannot be read: {error}") from error
        except sqlite3.DatabaseError as error:
            raise OperatorError(
                f"{path} is not a database ({error}): restore a copy from {path.parent}/backups"
            ) from error
    return None if row is None else str(row[0])


def _back_up(path: Path, folder: Path, schema: str) -> Path:
    """Copy the database, pages of the write-ahead log included, before it is changed."""
    folder.mkdir(exist_ok=True, mode=0o700)
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    target = folder / f"zerogpu-{schema}-{stamp}.db"
    partial = target.with_suffix(".partial")
    with (
        contextlib.closing(_plain(path)) as source,
        contextlib.closing(sqlite3.connect(partial)) as copy,
    ):
        source.backup(copy)
    partial.chmod(0o600)
    # Renamed when complete: whatever ends in .db can be restored.
    return partial.replace(target)


def _plain(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=_BUSY_TIMEOUT_MS / 1000)


def _engine(path: Path) -> Engine:
    if not path.exists():
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    engine = sqlalchemy.create_engine(f"sqlite:///{path}", hide_parameters=True)
    event.listen(engine, "connect", _on_connect)
    event.listen(engine, "begin", _on_begin)
    return engine


def _on_connect(connection: sqlite3.Connection, _record: object) -> None:
    # The driver must not begin transactions by itself: it leaves out those of schema changes.
    connection.isolation_level = None
    for pragma in (
        f"busy_timeout={_BUSY_TIMEOUT_MS}",
        "journal_mode=WAL",
        "synchronous=NORMAL",
        "foreign_keys=ON",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _on_begin(connection: Connection) -> None:
    options: dict[str, Any] = dict(connection.get_execution_options())
    connection.exec_driver_sql("BEGIN IMMEDIATE" if options.get(_IMMEDIATE) else "BEGIN")
