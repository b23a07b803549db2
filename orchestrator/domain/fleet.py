"""What an operator sees of the fleet at one moment: frozen rows, totals and recent events.

The engine makes a `FleetSnapshot` on demand; the console sends it as JSON, field names as written
here. Times are wall-clock seconds since the epoch (``at``) or durations in the unit of their name.
Nothing here identifies a volunteer: no address, no key, no prompt.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from browser_node.protocol import NodeState

NodeKind = Literal["browser", "native", "cpu"]
EventKind = Literal["joined", "left", "rerouted", "failed", "quarantined", "worker"]
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
    state: NodeState | Literal["loading"]
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


class FleetEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened. ``seq`` grows by one from 1; ``text`` is a sentence for people."""

    seq: int
    at: float
    kind: EventKind
    text: str
    node_id: str | None = None


class FleetSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """The fleet at ``at``; ``events`` are the most recent ones, oldest first."""

    at: float
    totals: Totals
    nodes: tuple[NodeRow, ...] = ()
    events: tuple[FleetEvent, ...] = ()
