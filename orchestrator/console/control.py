"""What an operator may know and order beyond the live stream, and who keeps the records of it.

The routes speak to a `Control`; `FleetControl` is the one that runs: the engine obeys, the database
remembers. Every order is recorded, whether or not there was anything left to obey it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, Literal, Protocol

import msgspec

from orchestrator.clock import Clock
from orchestrator.domain.fleet import DecisionRow
from orchestrator.domain.trust import Identity, Level, Policy, RuntimeClass, Standing, level
from orchestrator.storage.audit_log import OperatorAction, OperatorLog, list_actions
from orchestrator.storage.database import Database
from orchestrator.storage.nodes import find_node
from orchestrator.storage.standings import (
    Disagreement,
    Only,
    find_standing,
    list_disagreements,
    list_standings,
)

NodeOrder = Literal["drain", "resume"]
StandingOrder = Literal["quarantine", "ban", "release"]

# An ill database must not hold up an order that was carried out already.
_FLUSH_S: Final = 1.0


class StandingRow(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one identity in one runtime class.

    ``at`` is when that last changed; a list tells it, a single standing's evidence has the times.
    """

    identity: Identity
    runtime: RuntimeClass
    level: Level
    agreed: int
    disagreed: int
    consecutive: int
    strikes: int
    reason: str
    at: float | None = None


class EvidenceRow(msgspec.Struct, frozen=True, kw_only=True):
    """One answer that a trusted one contradicted: neither prompt nor answer is kept."""

    at: float
    node_id: str
    model: str
    kind: str
    min_cosine: float
    reason: str


class StandingDetail(msgspec.Struct, frozen=True, kw_only=True):
    """A standing with what speaks against it, newest first."""

    standing: StandingRow
    evidence: tuple[EvidenceRow, ...]


class Control(Protocol):
    """What the console's routes ask for."""

    def decisions(self, limit: int) -> Sequence[DecisionRow]:
        """Return the last placements, newest first."""

    async def standings(self, only: Only, *, limit: int, offset: int) -> Sequence[StandingRow]:
        """Return identities that are ``only`` so, last changed first."""

    async def standing(self, identity: Identity, runtime: RuntimeClass) -> StandingDetail | None:
        """Return an identity's record and the evidence; None if it was never seen."""

    async def actions(self, limit: int) -> Sequence[OperatorAction]:
        """Return the operators' last orders, newest first."""

    async def order_node(self, node_id: str, order: NodeOrder, *, who: str) -> bool:
        """Order and record; False when the node is not connected."""

    async def order_standing(
        self, identity: Identity, runtime: RuntimeClass, order: StandingOrder, *, who: str
    ) -> bool:
        """Order and record; False when the identity was never seen."""


class Obedient(Protocol):
    """The part of the engine that obeys operators; on the event loop only."""

    def decisions(self, count: int) -> list[DecisionRow]: ...

    def order_node(self, node_id: str, order: NodeOrder) -> bool:
        """Return whether the node is connected."""

    def order_standing(
        self,
        identity: Identity,
        runtime: RuntimeClass,
        order: StandingOrder,
        standing: Standing | None,
    ) -> bool:
        """Return whether there was a record to change: a connected node's, else ``standing``."""


class FleetControl:
    """A `Control` of the running engine and its database, which is read off the event loop.

    ``flush`` waits until queued rows are written: who gives an order may read it back at once.
    """

    def __init__(
        self,
        *,
        engine: Obedient,
        database: Database,
        log: OperatorLog,
        flush: Callable[[float], bool],
        clock: Clock,
        policy: Policy = Policy(),  # noqa: B008 — frozen
    ) -> None:
        self._engine = engine
        self._database = database
        self._log = log
        self._flush = flush
        self._clock = clock
        self._policy = policy

    def decisions(self, limit: int) -> Sequence[DecisionRow]:
        return self._engine.decisions(limit)

    async def standings(self, only: Only, *, limit: int, offset: int) -> Sequence[StandingRow]:
        records = await asyncio.to_thread(
            list_standings, self._database, only=only, limit=limit, offset=offset
        )
        return [self._row(record.standing, at=record.updated_at) for record in records]

    async def standing(self, identity: Identity, runtime: RuntimeClass) -> StandingDetail | None:
        standing = await asyncio.to_thread(self._recall, identity, runtime)
        if standing is None:
            return None
        found = await asyncio.to_thread(list_disagreements, self._database, identity, runtime)
        return StandingDetail(
            standing=self._row(standing), evidence=tuple(_evidence(one) for one in found)
        )

    async def actions(self, limit: int) -> Sequence[OperatorAction]:
        return await asyncio.to_thread(list_actions, self._database, limit)

    async def order_node(self, node_id: str, order: NodeOrder, *, who: str) -> bool:
        here = self._engine.order_node(node_id, order)
        await self._record(who, order, node_id, "" if here else "was not connected")
        return here

    async def order_standing(
        self, identity: Identity, runtime: RuntimeClass, order: StandingOrder, *, who: str
    ) -> bool:
        standing = await asyncio.to_thread(self._recall, identity, runtime)
        known = self._engine.order_standing(identity, runtime, order, standing)
        await self._record(who, order, identity, runtime if known else f"{runtime}: never seen")
        return known

    async def _record(self, who: str, action: str, target: str, detail: str) -> None:
        self._log.record(who, action, target, detail, self._clock.wall())
        await asyncio.to_thread(self._flush, _FLUSH_S)

    def _recall(self, identity: Identity, runtime: RuntimeClass) -> Standing | None:
        """Return what is kept of an identity; who was here but never audited has a blank record."""
        standing = find_standing(self._database, identity, runtime)
        if standing is None:
            seen = find_node(self._database, identity)
            if seen is not None and seen.runtime == runtime:
                standing = Standing(identity, runtime)
        return standing

    def _row(self, standing: Standing, *, at: float | None = None) -> StandingRow:
        return StandingRow(
            identity=standing.identity,
            runtime=standing.runtime,
            level=level(standing, self._policy),
            agreed=standing.agreed,
            disagreed=standing.disagreed,
            consecutive=standing.consecutive,
            strikes=standing.strikes,
            reason=standing.reason,
            at=at,
        )


def _evidence(one: Disagreement) -> EvidenceRow:
    evidence = one.evidence
    return EvidenceRow(
        at=one.at,
        node_id=evidence.node_id,
        model=evidence.model_id,
        kind=evidence.kind,
        min_cosine=evidence.min_cosine,
        reason=evidence.reason,
    )
