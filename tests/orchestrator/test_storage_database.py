"""The database file: lock, migrations, backups, a second process beside the server."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from orchestrator.domain.model import DEFAULT_RULES
from orchestrator.errors import DataDirLocked, OperatorError, SchemaMismatch
from orchestrator.storage import database as db
from orchestrator.storage.lock import lock_data_dir
from orchestrator.storage.projects import list_projects
from orchestrator.storage.schema import metadata

ROOT = Path(__file__).resolve().parents[2]


def at_schema(data_dir: Path, schema: str) -> Path:
    """Make a database as the version with ``schema`` left it, with a project in it."""
    data_dir.mkdir()
    path = data_dir / db.FILE_NAME
    engine = db._engine(path)
    db.migrate(engine, to=schema)
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO projects (id, name, created_at) VALUES ('p1', 'old', 1.0)"
        )
    engine.dispose()
    return path


def tables(path: Path) -> set[str]:
    connection = sqlite3.connect(path)
    names = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
    connection.close()
    return names


def test_the_newest_migration_leaves_the_tables_that_the_code_knows(tmp_path: Path) -> None:
    database = db.open_database(tmp_path)
    with database.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        differences = compare_metadata(context, metadata)
        current = context.get_current_revision()
    database.close()

    assert differences == []
    assert current == db.SCHEMA


def test_the_schema_constant_is_the_newest_migration() -> None:
    scripts = ScriptDirectory(str(db._MIGRATIONS))

    assert scripts.get_current_head() == db.SCHEMA
    revisions = [script.revision for script in scripts.walk_revisions()]
    assert revisions == sorted(revisions, reverse=True)


def test_writes_are_journalled_ahead_and_keys_enforced(tmp_path: Path) -> None:
    database = db.open_database(tmp_path)
    with database.connect() as connection:
        values = [
            connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "busy_timeout", "foreign_keys")
        ]
    database.close()

    assert values == ["wal", 1, 5000, 1]


@pytest.mark.parametrize("schema", ["0001", "0002", "0003"])
def test_an_older_schema_is_copied_then_upgraded_and_keeps_its_rows(
    tmp_path: Path, schema: str
) -> None:
    path = at_schema(tmp_path / "data", schema)
    before = tables(path)

    database = db.open_database(path.parent)
    with database.connect() as connection:
        names = connection.exec_driver_sql("SELECT name FROM projects").scalars().all()
    database.close()

    assert names == ["old"]
    assert {"console_sessions", "standings", "disagreements", "operator_actions"} <= tables(path)
    [backup] = (path.parent / "backups").iterdir()
    assert backup.name.startswith(f"zerogpu-{schema}-")
    assert tables(backup) == before
    assert backup.stat().st_mode & 0o777 == 0o600


def test_projects_from_before_there_were_rules_get_the_default_ones(tmp_path: Path) -> None:
    path = at_schema(tmp_path / "data", "0003")

    database = db.open_database(path.parent)
    [project] = list_projects(database)
    database.close()

    assert project.rules == DEFAULT_RULES


def test_requests_logged_before_are_kept_and_lie_by_project_in_order_of_time(
    tmp_path: Path,
) -> None:
    path = at_schema(tmp_path / "data", "0006")
    log = sqlite3.connect(path)
    rows = [
        (f"req_{number:02}", project, "k1", 1.0, None, "/v1/files", 499, 2.0, None, 0, 0, 0, None)
        for number, project in enumerate(["p2", "p1", "p2", "p1"])
    ]
    row = ", ".join("?" * len(rows[0]))
    log.executemany(f"INSERT INTO requests VALUES ({row}, 'client_disconnected')", reversed(rows))
    log.commit()
    log.close()

    database = db.open_database(path.parent)
    with database.connect() as connection:
        kept = connection.exec_driver_sql("SELECT * FROM requests").all()
        latest = "SELECT id FROM requests WHERE project_id = 'p1' ORDER BY id DESC LIMIT 1"
        plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {latest}").all()
        found = connection.exec_driver_sql(latest).scalar()
    database.close()

    by_project = sorted(rows, key=lambda row: (row[1], row[0]))
    assert [tuple(row) for row in kept] == [(*row, "client_disconnected") for row in by_project]
    assert found == "req_03"
    # Nothing to sort, and no second tree to look into.
    assert [step[-1] for step in plan] == ["SEARCH requests USING PRIMARY KEY (project_id=?)"]


def test_a_current_schema_is_neither_copied_nor_changed(tmp_path: Path) -> None:
    db.open_database(tmp_path).close()
    db.open_database(tmp_path).close()

    assert not (tmp_path / "backups").exists()


def test_a_newer_schema_is_refused_in_words(tmp_path: Path) -> None:
    database = db.open_database(tmp_path)
    with database.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0999'")
    database.close()

    with pytest.raises(SchemaMismatch, match=r"newer version of zerogpu \(schema 0999"):
        db.open_database(tmp_path)
    with pytest.raises(SchemaMismatch):
        db.open_for_command(tmp_path)


def test_a_failed_migration_leaves_the_old_schema_whole(tmp_path: Path) -> None:
    path = at_schema(tmp_path / "data", "0001")
    connection = sqlite3.connect(path)
    # What the third step wants to make is in its way: the second step must be undone too.
    connection.execute("CREATE TABLE nodes (id TEXT)")
    connection.commit()
    connection.close()

    with pytest.raises(Exception, match="nodes"):
        db.open_database(path.parent)

    assert "requests" not in tables(path)
    assert db._current_schema(path) == "0001"
    lock_data_dir(path.parent).release()


def test_a_file_that_is_no_database_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / db.FILE_NAME).write_bytes(b"not a database, not even nearly" * 100)

    with pytest.raises(OperatorError, match="is not a database"):
        db.open_database(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="the system refuses root nothing")
@pytest.mark.parametrize("name", [db.FILE_NAME, "."])
def test_a_database_that_cannot_be_written_to_is_refused_at_the_start(
    tmp_path: Path, name: str
) -> None:
    db.open_database(tmp_path).close()
    mode = (tmp_path / name).stat().st_mode
    (tmp_path / name).chmod(mode & 0o555)

    with pytest.raises(OperatorError, match=f"the data directory {tmp_path} cannot be used"):
        db.open_database(tmp_path)

    (tmp_path / name).chmod(mode)
    assert db._current_schema(tmp_path / db.FILE_NAME) == db.SCHEMA


def test_a_second_server_is_told_who_has_the_directory(tmp_path: Path) -> None:
    database = db.open_database(tmp_path)

    with pytest.raises(DataDirLocked, match=f"process {os.getpid()}"):
        db.open_database(tmp_path)

    database.close()
    db.open_database(tmp_path).close()


def test_the_lock_ends_with_its_process_however_that_ends(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from orchestrator.storage.database import *\n"
        "held = open_database(Path(sys.argv[1])); print('locked', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"locked\n"
        with pytest.raises(DataDirLocked, match=f"process {holder.pid}"):
            db.open_database(tmp_path)
        holder.kill()

    db.open_database(tmp_path).close()


def test_a_command_works_beside_a_server_and_before_the_first(tmp_path: Path) -> None:
    first = db.open_for_command(tmp_path / "fresh")
    first.close()
    server = db.open_database(tmp_path / "fresh")
    beside = db.open_for_command(tmp_path / "fresh")

    with beside.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO projects (id, name, created_at) VALUES ('p1', 'x', 1.0)"
        )
    with server.connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM projects").scalar() == 1
    beside.close()
    server.close()


def test_a_command_does_not_upgrade_under_a_running_server(tmp_path: Path) -> None:
    path = at_schema(tmp_path / "data", "0002")
    lock = lock_data_dir(path.parent)

    with pytest.raises(DataDirLocked):
        db.open_for_command(path.parent)

    lock.release()
    db.open_for_command(path.parent).close()
    assert db._current_schema(path) == db.SCHEMA
