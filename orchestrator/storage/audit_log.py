"""The audit log: what people who run the server ordered, by which way, and when."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, func, insert, select

from orchestrator.storage.database import Database
from orchestrator.storage.schema import operator_actions
from orchestrator.storage.writer import Insert, Writer

COMMAND_LINE: Final = "command line"
"""Who orders from a terminal, in ``who``."""
_COLUMNS: Final = ("at", "who", "action", "target", "detail")
_INSERT: Final = Insert(operator_actions.name, _COLUMNS)
_DETAIL_MAX_CHARS: Final = 1_000


@dataclass(frozen=True)
class OperatorAction:
    """One order. ``target`` is an id: of a node, an identity, a project."""

    at: float
    who: str
    action: str
    target: str
    detail: str


class OperatorLog:
    """Where a running server notes its operators' orders."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    def record(self, who: str, action: str, target: str, detail: str, now: float) -> None:
        """Note one order; never blocks."""
        self._writer.append(_INSERT, (now, who, action, target, detail[:_DETAIL_MAX_CHARS]))


def note(
    connection: Connection, who: str, action: str, target: str, detail: str, *, now: float
) -> None:
    """Note one order in the transaction that carries it out: of both or neither there is a row."""
    row = (now, who, action, target, detail[:_DETAIL_MAX_CHARS])
    values = dict(zip(_COLUMNS, row, strict=True))
    connection.execute(insert(operator_actions).values(values))


def list_actions(database: Database, limit: int = 100) -> list[OperatorAction]:
    """Return the latest orders, newest first."""
    columns = operator_actions.c
    query = (
        select(columns.at, columns.who, columns.action, columns.target, columns.detail)
        .order_by(columns.id.desc())
        .limit(limit)
    )
    with database.connect() as connection:
        return [OperatorAction(*row) for row in connection.execute(query)]


def newest_action(database: Database) -> int:
    """Return the number of the latest order; 0 if there was none."""
    with database.connect() as connection:
        return connection.execute(select(func.max(operator_actions.c.id))).scalar() or 0


def actions_after(
    database: Database, number: int, limit: int = 100
) -> list[tuple[int, OperatorAction]]:
    """Return orders later than ``number`` with their own numbers, oldest first."""
    columns = operator_actions.c
    query = (
        select(columns.id, columns.at, columns.who, columns.action, columns.target, columns.detail)
        .where(columns.id > number)
        .order_by(columns.id)
        .limit(limit)
    )
    with database.connect() as connection:
        return [(row[0], OperatorAction(*row[1:])) for row in connection.execute(query)]
