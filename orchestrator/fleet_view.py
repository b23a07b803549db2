"""What an operator and a customer see of the scheduler: rows made from its books, on demand."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Mapping, Sequence
from typing import Final

from browser_node.models import Manifest
from browser_node.protocol import ModelDigest, NodeId, Runtime
from orchestrator.domain import fleet as fl
from orchestrator.domain.decisions import Placed
from orchestrator.domain.model import JobId, Node
from orchestrator.domain.scheduler import Scheduler

# A page of 500 rows is more than anybody reads, and a browser still redraws it once a second.
ROWS_SHOWN: Final = 500


def node_row(
    node: Node, runtime: Runtime | None, *, models: Mapping[ModelDigest, Manifest], now: float
) -> fl.NodeRow:
    """Return one node's row."""
    speeds = [speed.tokens_per_s for speed in node.speeds.values()]
    standing = node.standing
    return fl.NodeRow(
        id=node.node_id,
        kind=runtime.kind if runtime else "native",
        backend=runtime.backend if runtime else "",
        state=_state(node),
        reason=_reason(node),
        models=tuple(sorted(models[digest].id for digest in node.speeds)),
        tokens_per_s=max(speeds, default=None),
        rtt_ms=None if node.rtt_s is None else node.rtt_s * 1000,
        slots_used=node.slots_used,
        slots=node.slots,
        jobs_done=node.jobs_done,
        failures=node.failures,
        reroutes=node.reroutes,
        connected_s=now - node.joined_at,
        agent=runtime.agent if runtime else "",
        region=node.region,
        level="trusted" if node.trusted else node.level,
        identity=standing.identity,
        runtime=standing.runtime,
        agreed=standing.agreed,
        disagreed=standing.disagreed,
    )


def foremost(nodes: Collection[Node]) -> Collection[Node]:
    """Return `ROWS_SHOWN` nodes of a large fleet: who is in doubt, then who has done most."""
    if len(nodes) <= ROWS_SHOWN:
        return nodes
    return heapq.nsmallest(ROWS_SHOWN, nodes, key=_concern)


def _concern(node: Node) -> tuple[int, int, NodeId]:
    """Return where a node stands in line."""
    if node.trusted:
        place = 0
    elif node.level in ("quarantined", "banned"):
        place = 1
    elif node.level == "newcomer" and node.standing.disagreed:
        place = 2
    else:
        place = 3
    # Not by slots in use: a list whose end is another one each second would be sent over and over.
    return place, -node.jobs_done, node.node_id


def _state(node: Node) -> fl.NodeRowState:
    if node.draining:
        return "draining"
    return node.state if node.speeds else "loading"


def _reason(node: Node) -> str:
    if node.draining:
        return "drained by the operator"
    if not node.speeds:
        return "loading models" if node.loading else "waiting for known answers"
    if node.stale:
        return "does not answer; its job went elsewhere"
    return node.reason


def totals(
    scheduler: Scheduler, *, latencies_s: Sequence[float], cpu_worker: fl.WorkerState
) -> fl.Totals:
    """Return the counts alone: cheap enough for a scrape."""
    board, counters = scheduler.board, scheduler.counters
    edge = [node for node in board.nodes.values() if not node.trusted]
    ordered = sorted(latencies_s)
    return fl.Totals(
        nodes=len(edge),
        nodes_active=sum(bool(node.speeds) and node.state == "active" for node in edge),
        queued=scheduler.queued,
        running=scheduler.running,
        answered_edge=counters.answered_edge,
        answered_cloud=counters.answered_cloud,
        rerouted=counters.rerouted,
        failed=counters.failed,
        p50_ms=_percentile_ms(ordered, 0.5),
        p95_ms=_percentile_ms(ordered, 0.95),
        cpu_worker=cpu_worker,
        hedged=counters.hedged,
        audited=counters.audits + counters.replays + counters.trials,
        disagreed=counters.disagreed,
        dropped=counters.audits_dropped,
        late=counters.late_results,
        newcomers=sum(node.level == "newcomer" for node in edge),
        quarantined=sum(node.level == "quarantined" for node in edge),
    )


def model_rows(scheduler: Scheduler, now: float) -> tuple[fl.ModelRow, ...]:
    """Return where each model is and what is asked of it."""
    board = scheduler.board
    queued: dict[ModelDigest, int] = {}
    for key, queue in board.queues.all.items():
        queued[key.digest] = queued.get(key.digest, 0) + len(queue)
    return tuple(
        fl.ModelRow(
            id=model.model_id,
            ready=len(board.index.fleets[digest].ready),
            loading=len(board.index.fleets[digest].loading),
            queued=queued.get(digest, 0),
            demand_tokens_per_s=round(scheduler.placement.demand[digest].rate(now), 1),
            supply_tokens_per_s=round(max(board.index.fleets[digest].supply_tokens_per_s, 0.0), 1),
            groups=dict(board.index.fleets[digest].groups),
        )
        for digest, model in board.models.items()
    )


def project_rows(scheduler: Scheduler) -> tuple[fl.ProjectRow, ...]:
    """Return what each project has waiting and running, the busiest first."""
    held: dict[str, list[float]] = {}
    for job in scheduler.board.jobs.values():
        row = held.setdefault(job.spec.project_id, [0, 0, job.spec.rules.weight])
        row[0 if job.waits_in is not None else 1] += 1
    rows = [
        fl.ProjectRow(id=project, queued=int(queued), running=int(running), weight=weight)
        for project, (queued, running, weight) in held.items()
    ]
    return tuple(sorted(rows, key=lambda row: (-row.queued - row.running, row.id)))


def decision_row(placed: Placed, *, now: float, wall: float) -> fl.DecisionRow:
    """Return a placement for people; ``now`` and ``wall`` are the same moment on both clocks."""
    decision = placed.decision
    number, _, _ = placed.job_id.partition(".")
    return fl.DecisionRow(
        request_id=f"req_{number}",
        job=JobId(placed.job_id),
        project_id=placed.project_id,
        model=placed.model_id,
        at=wall - (now - placed.at_s),
        purpose=placed.purpose,
        node_id=decision.node_id,
        tokens=placed.tokens,
        waited_s=placed.waited_s,
        rtt_s=decision.rtt_s,
        backlog_s=decision.backlog_s,
        service_s=decision.service_s,
        cold_load_s=decision.cold_load_s,
        penalty_s=decision.penalty_s,
        finish_s=decision.finish_s,
        soonest_s=decision.soonest_s,
        considered=decision.considered,
        skipped=decision.skipped,
        outcome=placed.outcome,
        took_s=placed.took_s,
    )


def _percentile_ms(ordered_s: Sequence[float], share: float) -> float | None:
    if not ordered_s:
        return None
    return ordered_s[min(int(len(ordered_s) * share), len(ordered_s) - 1)] * 1000
