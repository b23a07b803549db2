"""The writer thread: batches, bounds, and a database that cannot be written."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from orchestrator.domain.model import KeyId, ProjectId
from orchestrator.storage.database import Database
from orchestrator.storage.request_log import RequestLog, RequestRow
from orchestrator.storage.writer import Insert, Writer
from tests.orchestrator.databases import database_in


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = database_in(tmp_path)
    yield opened
    opened.close()


def row(number: int) -> RequestRow:
    return (
        f"req_{number:06}",
        ProjectId("p1"),
        KeyId("k1"),
        float(number),
        "m",
        "/v1/responses",
        200,
        1.5,
        "edge",
        10,
        2,
        1,
        "n1",
        None,
    )


def stored(database: Database) -> list[str]:
    with database.connect() as connection:
        return list(
            connection.exec_driver_sql("SELECT id FROM requests ORDER BY id").scalars().all()
        )


def test_rows_are_written_whole_and_in_order(database: Database) -> None:
    writer = Writer(database, queue_max=10_000, flush_s=0.005)
    log = RequestLog(writer)
    for number in range(1_327):
        log.append(row(number))

    assert writer.flush(10)
    assert (writer.written, writer.dropped, log.queued, log.dropped) == (1_327, 0, 0, 0)
    assert stored(database) == [f"req_{number:06}" for number in range(1_327)]
    with database.connect() as connection:
        first = connection.exec_driver_sql("SELECT * FROM requests ORDER BY id LIMIT 1").one()
    assert tuple(first) == tuple(row(0))
    assert writer.close(10)


def test_close_writes_what_is_queued_and_takes_nothing_more(database: Database) -> None:
    writer = Writer(database, queue_max=100, flush_s=60)
    RequestLog(writer).append(row(1))

    assert writer.close(10)
    RequestLog(writer).append(row(2))

    assert stored(database) == ["req_000001"]
    assert writer.dropped == 1


def test_a_full_queue_drops_and_counts_and_never_blocks(database: Database) -> None:
    writer = Writer(database, queue_max=10, flush_s=60)
    log = RequestLog(writer)
    for number in range(25):
        log.append(row(number))

    assert log.dropped == 15
    assert writer.close(10)
    assert len(stored(database)) == 10


def test_rows_wait_while_another_process_holds_the_database(
    database: Database, tmp_path: Path
) -> None:
    other = sqlite3.connect(database.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    writer = Writer(database, queue_max=100, flush_s=0)
    RequestLog(writer).append(row(1))

    assert not writer.flush(0.05)
    other.execute("ROLLBACK")
    other.close()

    assert writer.close(20)
    assert stored(database) == ["req_000001"]


def test_rows_are_tried_again_for_as_long_as_there_is_to_close(database: Database) -> None:
    writer = Writer(database, queue_max=100, flush_s=0)
    with database.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE requests RENAME TO hidden")
    RequestLog(writer).append(row(1))
    assert not writer.flush(0.05)

    with ThreadPoolExecutor(1) as threads:
        closing = threads.submit(writer.close, 20)
        assert writer._closing.wait(10)
        with database.begin() as connection:
            connection.exec_driver_sql("ALTER TABLE hidden RENAME TO requests")
        assert closing.result()

    assert stored(database) == ["req_000001"]


def test_a_row_that_is_refused_does_not_take_its_batch_along(database: Database) -> None:
    writer = Writer(database, queue_max=100, flush_s=60)
    log = RequestLog(writer)
    for number in (1, 2, 2, 3):
        log.append(row(number))

    assert writer.close(10)
    assert stored(database) == ["req_000001", "req_000002", "req_000003"]
    assert writer.dropped == 1


def test_a_database_that_cannot_be_written_keeps_its_rows_queued(database: Database) -> None:
    writer = Writer(database, queue_max=100, flush_s=0)
    with database.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE requests RENAME TO hidden")
    RequestLog(writer).append(row(1))
    assert not writer.flush(0.05)

    with database.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE hidden RENAME TO requests")

    assert writer.flush(10)
    assert stored(database) == ["req_000001"]
    assert writer.close(10)


def test_what_follows_rows_is_run_for_their_subjects_in_the_same_transaction(
    database: Database,
) -> None:
    with database.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE notes (subject TEXT, text TEXT UNIQUE)")
    last = Insert(
        "notes",
        ("subject", "text"),
        then="DELETE FROM notes WHERE subject = ? AND rowid NOT IN"
        " (SELECT max(rowid) FROM notes GROUP BY subject)",
        then_columns=1,
    )
    writer = Writer(database, queue_max=100, flush_s=60)
    for number in range(30):
        writer.append(last, (f"subject {number % 2}", f"text {number}"))
    # Refused: its batch is written row by row, and what follows goes on following.
    writer.append(last, ("subject 0", "text 29"))

    assert writer.close(10)
    assert (writer.written, writer.dropped) == (30, 1)
    with database.connect() as connection:
        rows = connection.exec_driver_sql("SELECT * FROM notes ORDER BY subject").all()
    assert [tuple(row) for row in rows] == [("subject 0", "text 28"), ("subject 1", "text 29")]
