"""Databases for tests: migrated once in a test run's process, then copied."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Final

from orchestrator.storage.database import FILE_NAME, Database, open_database

_DATABASE_MODE: Final = 0o600


@functools.cache
def _migrated() -> bytes:
    """Return the file that `open_database` makes of an empty folder."""
    with tempfile.TemporaryDirectory() as folder:
        database = open_database(Path(folder))
        database.close()
        # Closing the last connection has moved the write-ahead log into the file.
        assert not list(database.path.parent.glob("*-wal"))
        return database.path.read_bytes()


def database_in(data_dir: Path) -> Database:
    """Open for serving as `open_database` does; where there is no database, without migrating."""
    data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = data_dir / FILE_NAME
    if not path.exists():
        path.touch(mode=_DATABASE_MODE)
        path.write_bytes(_migrated())
    return open_database(data_dir)
