"""The desk of the page tests: real records of standings and orders, and an engine that obeys."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import msgspec

from browser_node.protocol import NodeId
from orchestrator.clock import Clock
from orchestrator.console.control import FleetControl, NodeOrder, StandingOrder
from orchestrator.domain import trust
from orchestrator.domain.effects import Evidence
from orchestrator.domain.fleet import DecisionRow, NodeRow
from orchestrator.domain.trust import Identity, Policy, RuntimeClass, Standing
from orchestrator.storage.audit_log import OperatorLog
from orchestrator.storage.nodes import NodeLog
from orchestrator.storage.standings import StandingLog
from orchestrator.storage.writer import Writer
from tests.orchestrator.databases import database_in
from tests.orchestrator.page_fakes import MODELS, STARTED_AT, FakeFleet

DECIDED = DecisionRow(
    request_id="req_4f1c", job="4f1c.0", project_id="prj_newsroom", model=MODELS[0], at=STARTED_AT,
    purpose="serve", node_id="n_9f3c1a", tokens=64, waited_s=0.0021, rtt_s=0.018, backlog_s=0.0,
    service_s=0.0412, cold_load_s=0.0, penalty_s=0.0, finish_s=0.0592, soonest_s=None,
    considered=7, skipped={}, outcome="answered", took_s=0.0631,
)  # fmt: skip


@dataclass
class FakeEngine:
    """Holds standings as the scheduler would and shows them on the rows of the fleet."""

    fleet: FakeFleet
    log: StandingLog
    nodes: NodeLog
    clock: Clock
    placed: list[DecisionRow] = field(default_factory=list)
    standings: dict[tuple[Identity, RuntimeClass], Standing] = field(default_factory=dict)

    def decisions(self, count: int) -> list[DecisionRow]:
        return self.placed[::-1][:count]

    def decide(self, **fields: object) -> DecisionRow:
        """Place one more job."""
        self.placed.append(msgspec.structs.replace(DECIDED, **fields))
        return self.placed[-1]

    def order_node(self, node_id: str, order: NodeOrder) -> bool:
        if all(row.id != node_id for row in self.fleet.rows):
            return False
        self.fleet.change(node_id, state="draining" if order == "drain" else "active")
        return True

    def order_standing(
        self,
        identity: Identity,
        runtime: RuntimeClass,
        order: StandingOrder,
        standing: Standing | None,
    ) -> bool:
        held = self._held(identity, runtime) or standing
        if held is None:
            return False
        if order == "release":
            trust.release(held)
        else:
            held.banned = held.banned or order == "ban"
            held.quarantined = held.quarantined or order == "quarantine"
            held.reason = "banned by an operator" if held.banned else "quarantined by an operator"
        self.log.changed(held, now=self.clock.wall(), released=order == "release")
        self._show(held)
        return True

    def disagree(
        self, row: NodeRow, reason: str, *, min_cosine: float = 0.41,
        kind: Literal["audit", "replay", "pair"] = "audit",
    ) -> None:  # fmt: skip
        """Let an audit show that a node's answer was wrong."""
        held = self._held(Identity(row.identity), RuntimeClass(row.runtime))
        assert held is not None, f"{row.id} is not connected"
        trust.disagreed(held, reason)
        totals = self.fleet.totals
        self.fleet.totals = msgspec.structs.replace(totals, disagreed=totals.disagreed + 1)
        evidence = Evidence(NodeId(row.id), MODELS[0], kind, min_cosine, reason)
        self.log.disagreed(held, evidence, now=self.clock.wall())
        self._show(held)

    def _held(self, identity: Identity, runtime: RuntimeClass) -> Standing | None:
        key = identity, runtime
        if key not in self.standings:
            for row in self.fleet.rows:
                if (row.identity, row.runtime) == key:
                    held = Standing(identity, runtime, consecutive=row.agreed, agreed=row.agreed)
                    held.real = row.agreed if row.level == "trusted" else 0
                    self.standings[key] = held
        return self.standings.get(key)

    def _show(self, standing: Standing) -> None:
        for row in self.fleet.rows:
            if (row.identity, row.runtime) == (standing.identity, standing.runtime):
                self.fleet.change(
                    row.id,
                    level=trust.level(standing, Policy()),
                    agreed=standing.agreed,
                    disagreed=standing.disagreed,
                )


@contextlib.contextmanager
def open_desk(
    folder: Path, fleet: FakeFleet, clock: Clock
) -> Iterator[tuple[FakeEngine, FleetControl]]:
    """Open a database in ``folder`` and put the desk's records in it."""
    database = database_in(folder)
    writer = Writer(database, queue_max=1_000, flush_s=0.01)
    engine = FakeEngine(fleet, StandingLog(writer), NodeLog(writer), clock)
    try:
        yield (
            engine,
            FleetControl(
                engine=engine,
                database=database,
                log=OperatorLog(writer),
                flush=writer.flush,
                clock=clock,
            ),
        )
    finally:
        writer.close(5.0)
        database.close()
