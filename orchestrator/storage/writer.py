"""One thread writes rows in batches; appending never blocks, whatever the disk does.

Rules: at most `BATCH_MAX` rows a transaction, at most ``flush_s`` of waiting for more. What does
not fit the queue is dropped and counted. While the database cannot be written (locked, disk full)
rows wait and are tried again; a row that it refuses on its merits is dropped alone.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from functools import cache
from typing import Final

import structlog
from sqlalchemy import Connection, exc

from orchestrator.storage.database import Database

BATCH_MAX: Final = 1_000
_RETRY_S: Final = 0.5

# Rows of one statement, as many as fit first. The driver lets go of the interpreter once a
# statement, and while the event loop is busy each time costs more than writing the row does. Few
# sizes: the driver keeps what it has prepared of the latest statements.
_ROWS_A_STATEMENT: Final = (100, 20, 4, 1)


@dataclass(frozen=True, eq=False)
class Insert:
    """An INSERT of ``columns``; ``tail`` may say what to do on a conflict.

    One is equal to itself only: rows are sorted by it, and to compare fields would cost each more
    than its part of the statement.
    ``then`` is a statement for the same transaction, run after the rows once for every different
    value of their first ``then_columns`` columns, which are its parameters.
    """

    table: str
    columns: tuple[str, ...]
    tail: str = ""
    then: str = ""
    then_columns: int = 0

    def sql(self, rows: int) -> str:
        """Return the statement for so many rows, with positional parameters."""
        row = f"({', '.join('?' * len(self.columns))})"
        values = ", ".join([row] * rows)
        names = ", ".join(self.columns)
        return f"INSERT INTO {self.table} ({names}) VALUES {values}{self.tail}"  # noqa: S608


Write = tuple[Insert, tuple[object, ...]]

log = structlog.get_logger("storage")


class Writer:
    """A bounded queue and its thread, which runs from the start until `close`."""

    def __init__(self, database: Database, *, queue_max: int, flush_s: float) -> None:
        self._database = database
        self._queue: deque[Write] = deque()
        self._queue_max = queue_max
        self._flush_s = flush_s
        self._failing = False
        self._wakeup = threading.Event()
        # Whether the thread has been woken for what is queued: to ask its event is slower.
        self._woken = False
        self._closing = threading.Event()
        self._closed = False
        # The time to close is up: what is not written by now is lost.
        self._given_up = threading.Event()
        self._settling = threading.Condition()
        self._appended = 0
        self.written = 0
        self.dropped = 0
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)
        self._thread.start()

    @property
    def queued(self) -> int:
        return self._appended - self.written - self.dropped

    def append(self, insert: Insert, row: tuple[object, ...]) -> None:
        """Queue one row; a full queue drops it. Called on the event loop only: it never blocks."""
        self._appended += 1
        if len(self._queue) >= self._queue_max or self._closed:
            self._settle(dropped=1)
            return
        self._queue.append((insert, row))
        # Waking a thread costs more than looking whether it is awake.
        if not self._woken:
            self._woken = True
            self._wakeup.set()

    def flush(self, timeout_s: float) -> bool:
        """Block until what was appended so far is written or dropped; False after ``timeout_s``."""
        target = self._appended
        with self._settling:
            return self._settling.wait_for(lambda: self.written + self.dropped >= target, timeout_s)

    def close(self, timeout_s: float) -> bool:
        """Write what is queued and stop; False when rows were left unwritten."""
        self._closed = True
        self._closing.set()
        self._wakeup.set()
        self._thread.join(timeout_s)
        self._given_up.set()
        left = self.queued
        if left:
            log.error("request log rows lost at shutdown", rows=left)
        return left == 0

    def _run(self) -> None:
        while not self._closing.is_set():
            self._wakeup.wait()
            # Gather: a transaction a row would cost ten times as much.
            self._closing.wait(self._flush_s)
            # Cleared before the queue is read: a row appended from here on sets it again. In this
            # order: between the two, a row sees a thread that was woken, and is read below.
            self._wakeup.clear()
            self._woken = False
            while batch := self._take():
                self._write(batch)

    def _take(self) -> list[Write]:
        return [self._queue.popleft() for _ in range(min(len(self._queue), BATCH_MAX))]

    def _write(self, batch: list[Write]) -> None:
        """Write ``batch``, whatever it takes, until the time to close is up."""
        while True:
            try:
                self._transact(batch)
            except exc.OperationalError as error:
                self._note_failure(error)
                if self._given_up.wait(_RETRY_S):
                    return
            except Exception as error:
                # The log must go on whatever one row holds: find that row by writing them singly.
                if len(batch) > 1:
                    for write in batch:
                        self._write([write])
                    return
                log.error("row refused", error=type(error).__name__, table=batch[0][0].table)
                self._settle(dropped=1)
                return
            else:
                self._settle(written=len(batch))
                if self._failing:
                    self._failing = False
                    log.info("database can be written again", queued=self.queued)
                return

    def _transact(self, batch: list[Write]) -> None:
        # The values of an insert's rows, one after the other: they are parameters next.
        by_insert: dict[Insert, list[object]] = {}
        for insert, row in batch:
            values = by_insert.get(insert)
            if values is None:
                values = by_insert[insert] = []
            values += row
        with self._database.begin() as connection:
            for insert, values in by_insert.items():
                _insert(connection, insert, values)
                if insert.then:
                    firsts = range(0, len(values), len(insert.columns))
                    subjects = {tuple(values[at : at + insert.then_columns]) for at in firsts}
                    connection.exec_driver_sql(insert.then, list(subjects))

    def _note_failure(self, error: exc.OperationalError) -> None:
        if not self._failing:
            self._failing = True
            log.error("database cannot be written", error=str(error.orig), queued=self.queued)

    def _settle(self, *, written: int = 0, dropped: int = 0) -> None:
        with self._settling:
            self.written += written
            self.dropped += dropped
            self._settling.notify_all()


def _insert(connection: Connection, insert: Insert, values: list[object]) -> None:
    start = 0
    for rows in _ROWS_A_STATEMENT:
        size = rows * len(insert.columns)
        while len(values) - start >= size:
            connection.exec_driver_sql(_sql(insert, rows), tuple(values[start : start + size]))
            start += size


@cache
def _sql(insert: Insert, rows: int) -> str:
    return insert.sql(rows)
