"""What an operator sees of the fleet at one moment: frozen rows, totals and recent events.

The engine makes a `FleetSnapshot` on demand; the console sends it as JSON, field names as written
here. Times are wall-clock seconds since the epoch (``at``) or durations in the unit of their name.
Nothing here identifies a volunteer: no address, no key, no prompt.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from browser_node.protocol import NodeState
from orchestrator.domain.trust import Level

NodeKind = Literal["browser", "native", "cpu"]
NodeRowState = NodeState | Literal["loading"]
EventKind = Literal["joined", "left", "rerouted", "failed", "trusted", "quarantined", "worker"]
WorkerState = Literal["off", "starting", "ready", "restarting"]


class NodeRow(msgspec.Struct, frozen=True, kw_only=True):
    """One connected node.

    ``state`` and ``reason`` are the node's own word (``"loading"`` until its first model is
    ready); ``models`` are the ids it is ready to run. ``tokens_per_s`` is the best measured speed
    over its models, ``rtt_ms`` the windowed minimum; both are absent until measured.
    """

    id: str
    kind: NodeKind
    backend: str
    state: NodeRowState
    reason: str = ""
    models: tuple[str, ...] = ()
    tokens_per_s: float | None = None
    rtt_ms: float | None = None
    slots_used: int = 0
    slots: int = 0
    jobs_done: int = 0
    failures: int = 0
    reroutes: int = 0
    connected_s: float = 0.0
    agent: str = ""
    region: str = ""
    level: Level = "newcomer"
    identity: str = ""
    runtime: str = ""
    agreed: int = 0
    disagreed: int = 0


class Totals(msgspec.Struct, frozen=True, kw_only=True):
    """Counts over the whole fleet.

    ``nodes`` and ``nodes_active`` count edge nodes, never the CPU worker. ``answered_*``,
    ``rerouted`` and ``failed`` count jobs since the server started; ``p50_ms`` and ``p95_ms`` are
    the answer times of recent jobs, absent until there is one.
    """

    nodes: int = 0
    nodes_active: int = 0
    queued: int = 0
    running: int = 0
    answered_edge: int = 0
    answered_cloud: int = 0
    rerouted: int = 0
    failed: int = 0
    p50_ms: float | None = None
    p95_ms: float | None = None
    cpu_worker: WorkerState = "off"
    hedged: int = 0
    audited: int = 0
    disagreed: int = 0
    dropped: int = 0
    late: int = 0
    newcomers: int = 0
    quarantined: int = 0


class ModelRow(msgspec.Struct, frozen=True, kw_only=True):
    """Where one model is: nodes that are ready for it and why the others are not or cannot take
    more (``groups``), what is asked of it and what its nodes could do (tokens per second)."""

    id: str
    ready: int = 0
    loading: int = 0
    queued: int = 0
    demand_tokens_per_s: float = 0.0
    supply_tokens_per_s: float = 0.0
    groups: Mapping[str, int] = msgspec.field(default_factory=dict)


class ProjectRow(msgspec.Struct, frozen=True, kw_only=True):
    """What one project has waiting and running."""

    id: str
    queued: int = 0
    running: int = 0
    weight: float = 1.0


class FleetEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened. ``seq`` grows by one from 1; ``text`` is a sentence for people."""

    seq: int
    at: float
    kind: EventKind
    text: str
    node_id: str | None = None


class DecisionRow(msgspec.Struct, frozen=True, kw_only=True):
    """Why one job went where it went (`orchestrator.domain.decisions`), for people.

    ``job`` is the request's number and the job's place in it; ``node_id`` is None when nobody could
    take it, and ``skipped`` then says why, by group of nodes. Terms are seconds and add up to
    ``finish_s``, the expected time to the answer; ``took_s`` is the real one.
    """

    request_id: str
    job: str
    project_id: str
    model: str
    at: float
    purpose: str
    node_id: str | None
    tokens: int
    waited_s: float
    rtt_s: float
    backlog_s: float
    service_s: float
    cold_load_s: float
    penalty_s: float
    finish_s: float
    soonest_s: float | None
    considered: int
    skipped: Mapping[str, int]
    outcome: str
    took_s: float | None


class FleetSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """The fleet at ``at``; ``events`` are the most recent ones, oldest first."""

    at: float
    totals: Totals
    nodes: tuple[NodeRow, ...] = ()
    events: tuple[FleetEvent, ...] = ()
    models: tuple[ModelRow, ...] = ()
    projects: tuple[ProjectRow, ...] = ()
