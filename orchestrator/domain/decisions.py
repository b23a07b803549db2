"""Why jobs went where they went: the last decisions, with every term of the expected finish time.

finish_s = rtt_s + backlog_s + service_s + cold_load_s + penalty_s
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from browser_node.protocol import AttemptId, NodeId

if TYPE_CHECKING:
    from orchestrator.domain.model import JobId, ProjectId, Purpose

KEPT: Final = 2_000


@dataclass(eq=False)
class Decision:
    """One placement. ``at_s`` is monotonic; ``waited_s`` counts from the job's submission.

    ``node_id`` is None when nobody could take the job: then ``skipped`` says why, by group of
    nodes. ``considered`` nodes were compared in full; ``soonest_s`` is the least finish time over
    nodes that could take the job once a slot is free.
    """

    node_id: NodeId | None
    rtt_s: float = 0.0
    backlog_s: float = 0.0
    service_s: float = 0.0
    cold_load_s: float = 0.0
    penalty_s: float = 0.0
    finish_s: float = 0.0
    soonest_s: float | None = None
    considered: int = 0
    skipped: Mapping[str, int] = field(default_factory=dict)


@dataclass(eq=False)
class Placed:
    """A decision, what it was about, and what came of it.

    ``outcome`` is "running", "answered", "cancelled", "unplaced" or the cause of the attempt's end;
    ``took_s`` is its time from placement to that end.
    """

    at_s: float
    job_id: JobId
    project_id: ProjectId
    model_id: str
    tokens: int
    purpose: Purpose | str
    attempt_id: AttemptId | None
    waited_s: float
    decision: Decision
    outcome: str = "running"
    took_s: float | None = None


class Decisions:
    """A ring of the last `KEPT` placements."""

    def __init__(self, kept: int = KEPT) -> None:
        self._ring: deque[Placed] = deque(maxlen=kept)

    def add(self, placed: Placed) -> None:
        self._ring.append(placed)

    def latest(self, count: int) -> list[Placed]:
        """Return the newest ``count``, newest first."""
        newest = reversed(self._ring)
        return [placed for placed, _ in zip(newest, range(count), strict=False)]

    def of_request(self, number: str) -> list[Placed]:
        """Return what is kept of the jobs of request ``number``, oldest first."""
        prefix = f"{number}."
        return [p for p in self._ring if p.job_id.startswith(prefix)]
