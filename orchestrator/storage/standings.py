"""What audits have shown of nodes, and the evidence against those that answered wrongly.

The server appends through the one writer; operators' commands write beside it. So that a word from
the command line outlives what the server still has in memory, what audits show never lifts a
quarantine or a ban: only a release does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec
from sqlalchemy import Row, select

from browser_node.protocol import NodeId
from orchestrator.domain import trust
from orchestrator.domain.effects import Evidence
from orchestrator.domain.trust import Identity, RuntimeClass, Standing
from orchestrator.storage import audit_log
from orchestrator.storage.database import Database
from orchestrator.storage.schema import disagreements, nodes, standings
from orchestrator.storage.writer import Insert, Writer

EVIDENCE_KEPT: Final = 50
_REASON_MAX_CHARS: Final = 400

Only = Literal["quarantined", "banned", "disagreed"]
Order = Literal["quarantine", "ban", "release"]

_KEY: Final = ("identity", "runtime")
_LOCKS: Final = ("quarantined", "banned")
_COLUMNS: Final = tuple(standings.columns.keys())


def _upsert(*, lifts: bool) -> Insert:
    """Return the statement that keeps a standing; whether it may undo a quarantine or a ban.

    A ban is of a key, whatever it runs in, and so is its end.
    """
    news = {name: f"excluded.{name}" for name in _COLUMNS if name not in _KEY}
    if not lifts:
        news |= {name: f"standings.{name} OR excluded.{name}" for name in _LOCKS}
        news["reason"] = (
            "CASE WHEN excluded.reason = '' AND (standings.quarantined OR standings.banned)"
            " THEN standings.reason ELSE excluded.reason END"
        )
    changes = ", ".join(f"{name} = {value}" for name, value in news.items())
    return Insert(
        standings.name,
        _COLUMNS,
        f" ON CONFLICT ({', '.join(_KEY)}) DO UPDATE SET {changes}",
        then="UPDATE standings SET banned = 0 WHERE identity = ?" if lifts else "",
        then_columns=1,
    )


_CHANGED: Final = _upsert(lifts=False)
_RELEASED: Final = _upsert(lifts=True)
_DISAGREED: Final = Insert(
    disagreements.name,
    ("identity", "runtime", "at", "node_id", "model", "kind", "min_cosine", "reason"),
    then=(
        "DELETE FROM disagreements WHERE id IN (SELECT id FROM disagreements"  # noqa: S608
        f" WHERE identity = ? AND runtime = ? ORDER BY id DESC LIMIT -1 OFFSET {EVIDENCE_KEPT})"
    ),
    then_columns=len(_KEY),
)


@dataclass(frozen=True)
class StandingRecord:
    """A standing as it is kept, and when it last changed (Unix seconds)."""

    standing: Standing
    updated_at: float


@dataclass(frozen=True)
class Disagreement:
    """One wrong answer and when it was found (Unix seconds)."""

    at: float
    evidence: Evidence


class StandingLog:
    """Where the engine puts what audits and operators say of nodes. Nothing here blocks."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    def changed(self, standing: Standing, *, now: float, released: bool = False) -> None:
        """Keep ``standing``, the latest record of its identity in its runtime class.

        Only with ``released``, an operator's word, is a kept quarantine lifted, and a kept ban in
        every runtime class.
        """
        self._writer.append(_RELEASED if released else _CHANGED, _row(standing, now))

    def disagreed(self, standing: Standing, evidence: Evidence, *, now: float) -> None:
        """Keep ``standing`` and the evidence that moved it, of which the latest 50 are kept."""
        self.changed(standing, now=now)
        row = (
            standing.identity,
            standing.runtime,
            now,
            evidence.node_id,
            evidence.model_id,
            evidence.kind,
            evidence.min_cosine,
            evidence.reason[:_REASON_MAX_CHARS],
        )
        self._writer.append(_DISAGREED, row)


def find_standing(database: Database, identity: Identity, runtime: RuntimeClass) -> Standing | None:
    """Return what is kept of an identity in one runtime class; rows still queued are not seen.

    Who is banned in another class is banned in this one.
    """
    query = select(standings).where(standings.c.identity == identity)
    with database.connect() as connection:
        kept = [_record(row).standing for row in connection.execute(query)]
    own = next((standing for standing in kept if standing.runtime == runtime), None)
    ban = next((standing for standing in kept if standing.banned), None)
    if ban is not None and (own is None or not own.banned):
        own = own or Standing(identity, runtime)
        own.banned, own.reason = True, ban.reason
    return own


def list_standings(
    database: Database, *, only: Only | None = None, limit: int = 100, offset: int = 0
) -> list[StandingRecord]:
    """Return standings, those that changed last first."""
    query = select(standings).order_by(
        standings.c.updated_at.desc(), standings.c.identity, standings.c.runtime
    )
    match only:
        case "quarantined":
            query = query.where(standings.c.quarantined)
        case "banned":
            query = query.where(standings.c.banned)
        case "disagreed":
            query = query.where(standings.c.disagreed > 0)
        case None:
            pass
    with database.connect() as connection:
        return [_record(row) for row in connection.execute(query.limit(limit).offset(offset))]


def list_disagreements(
    database: Database, identity: Identity, runtime: RuntimeClass, limit: int = EVIDENCE_KEPT
) -> list[Disagreement]:
    """Return the evidence against an identity in one runtime class, the latest first."""
    query = (
        select(disagreements)
        .where(disagreements.c.identity == identity, disagreements.c.runtime == runtime)
        .order_by(disagreements.c.id.desc())
        .limit(limit)
    )
    with database.connect() as connection:
        return [
            Disagreement(
                row.at,
                Evidence(NodeId(row.node_id), row.model, row.kind, row.min_cosine, row.reason),
            )
            for row in connection.execute(query)
        ]


def find_identities(database: Database, prefix: str, *, limit: int = 2) -> list[Identity]:
    """Return identities that were ever seen and begin with ``prefix`` (hex digits)."""
    found = select(standings.c.identity).union(select(nodes.c.key_digest)).subquery()
    query = (
        select(found.c.identity)
        .where(found.c.identity.startswith(prefix, autoescape=True))
        .order_by(found.c.identity)
        .limit(limit)
    )
    with database.connect() as connection:
        return [Identity(name) for name in connection.execute(query).scalars()]


def carry_out(
    database: Database, identity: Identity, order: Order, *, who: str, now: float
) -> list[StandingRecord]:
    """Carry out an operator's word on an identity, in every runtime class it was seen in.

    Written at once, not through the writer, together with its line in the audit log. Returns the
    standings as they are now; none if the identity was never seen.
    """
    with database.begin() as connection:
        kept = connection.execute(select(standings).where(standings.c.identity == identity))
        records = {record.standing.runtime: record for record in map(_record, kept)}
        seen = connection.execute(
            select(nodes.c.runtime).where(nodes.c.key_digest == identity)
        ).scalar()
        if seen is not None:
            blank = Standing(identity, RuntimeClass(seen))
            records.setdefault(blank.runtime, StandingRecord(blank, now))
        if not records:
            return []
        ordered = [
            StandingRecord(_ordered(record.standing, order), now) for record in records.values()
        ]
        rows = [_row(record.standing, now) for record in ordered]
        connection.exec_driver_sql(_RELEASED.sql(1), rows)
        audit_log.note(connection, who, order, identity, ", ".join(sorted(records)), now=now)
    return ordered


def _ordered(standing: Standing, order: Order) -> Standing:
    match order:
        case "release":
            trust.release(standing)
        case "quarantine":
            standing.quarantined = True
            standing.reason = "an operator's order"
        case "ban":
            standing.banned = True
            standing.reason = "an operator's order"
    return standing


def _row(standing: Standing, now: float) -> tuple[object, ...]:
    """Return the table's row: the fields of `Standing` are its first columns, in their order."""
    *fields, reason = msgspec.structs.astuple(standing)
    return (*fields, reason[:_REASON_MAX_CHARS], now)


def _record(row: Row[Any]) -> StandingRecord:
    fields = {name: row._mapping[name] for name in Standing.__struct_fields__}
    return StandingRecord(Standing(**fields), row.updated_at)
