"""What a node shows of itself: one value for the page, the log and the tests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from browser_node.protocol import NodeState
from browser_node.session import State

Phase = Literal[
    "loading", "calibrating", "ready", "working", "paused", "reconnecting", "stopped", "error"
]
ModelState = Literal["loading", "calibrating", "ready", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRow:
    id: str
    state: ModelState


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """See the message contract in ``static/worker/node.js``; names are in snake case here."""

    phase: Phase
    state: NodeState = "active"
    reason: str = ""
    done_bytes: int = 0
    total_bytes: int = 0
    jobs_done: int = 0
    tokens_done: int = 0
    tokens_per_s: float = 0.0
    node_id: str | None = None
    models: tuple[ModelRow, ...] = ()
    notice: str = ""


def phase_of(
    session: State, *, keeps_work: bool, working: bool, models: tuple[ModelState, ...], met: bool
) -> Phase:
    """Return the phase; ``met`` tells whether this node was ever welcomed."""
    if session == "stopped":
        return "stopped"
    if not keeps_work:
        return "paused"
    if session not in ("serving", "draining"):
        return "reconnecting" if met or session == "waiting" else "loading"
    if working:
        return "working"
    if "ready" in models:
        return "ready"
    if "calibrating" in models:
        return "calibrating"
    if "loading" in models or not models:
        return "loading"
    return "error"
