"""Where a job goes: hard constraints first, then the least expected finish time.

    finish_s = rtt_s + backlog_tokens / tokens_per_s + job_tokens / tokens_per_s
             + cold_load_s + penalty_s

The four documented signals are the four terms: proximity (round trip), load (backlog), capability
(measured throughput) and model availability (load time where the model is not there yet). The CPU
worker is not a candidate here: it is faster than any tab and next door, so it would win always; the
scheduler turns to it when no tab can.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec

from browser_node.protocol import ModelDigest, NodeId
from orchestrator.domain.model import Job, ModelSpec, Node

# A node without a measured round trip is taken to be a continent away.
UNKNOWN_RTT_S: Final = 0.15
PENALTY_PER_FAILURE_S: Final = 0.5
# Outstanding work per node: two micro-batches of 250 ms, so that one is computing while one waits.
WINDOW_S: Final = 0.5
# Beyond this many ready nodes a sample is as good as a scan (best of k choices).
SAMPLE: Final = 48


class Decision(msgspec.Struct, frozen=True):
    """The chosen node, or why each other node was passed over.

    ``soonest_s`` is the least expected finish time over nodes that could take the job once a slot
    is free.
    """

    node_id: NodeId | None
    finish_s: float
    soonest_s: float | None
    skipped: Mapping[str, int] = msgspec.field(default_factory=dict)


def finish_s(node: Node, *, digest: ModelDigest, tokens: int, cold_load_s: float = 0.0) -> float:
    """Return the expected seconds from now until ``node`` answers a job of ``tokens``."""
    speed = node.speeds[digest].tokens_per_s
    rtt = UNKNOWN_RTT_S if node.rtt_s is None else node.rtt_s
    backlog = node.outstanding_tokens / speed
    penalty = node.consecutive_failures * PENALTY_PER_FAILURE_S
    return rtt + backlog + tokens / speed + cold_load_s + penalty


def cold_load_s(node: Node, model: ModelSpec) -> float:
    """Return the expected seconds until a node that lacks ``model`` could run it."""
    return model.size_bytes / node.download_bytes_per_s + 1.0


def has_room(node: Node, *, digest: ModelDigest, tokens: int) -> bool:
    """Whether a slot is free and the node's outstanding tokens stay within its window."""
    if node.slots_used >= node.slots:
        return False
    window = node.speeds[digest].tokens_per_s * WINDOW_S
    return node.outstanding_tokens == 0 or node.outstanding_tokens + tokens <= window


def exclusion(node: Node, job: Job, model: ModelSpec, *, now: float) -> str | None:
    """Return why ``node`` must not get ``job`` at all, or None."""
    if node.draining or node.state == "draining":
        return "draining"
    if node.stale:
        return "silent"
    if node.state in ("paused", "hidden") or node.slots == 0:
        return node.state if node.state != "active" else "no_slots"
    if node.node_id in job.tried:
        return "already_tried"
    if node.retry_at > now:
        return "backing_off"
    if node.memory_mb is not None and node.memory_mb < model.min_memory_mb:
        return "no_memory"
    return None


def choose(
    job: Job,
    model: ModelSpec,
    candidates: Sequence[NodeId],
    nodes: Mapping[NodeId, Node],
    *,
    now: float,
    limit_s: float,
    rng: random.Random,
) -> Decision:
    """Choose the node with the least expected finish time within ``limit_s`` seconds from ``now``.

    ``candidates`` are the nodes that have the model ready. Ties are broken by node id, so that a
    decision can be replayed from the same state and seed.
    """
    sample: Iterable[NodeId] = candidates
    if len(candidates) > SAMPLE:
        sample = rng.sample(candidates, SAMPLE)
    best: tuple[float, NodeId] | None = None
    soonest: float | None = None
    skipped: dict[str, int] = {}
    for node_id in sample:
        node = nodes[node_id]
        reason = exclusion(node, job, model, now=now)
        if reason is None:
            finish = finish_s(node, digest=model.digest, tokens=job.spec.tokens)
            if soonest is None or finish < soonest:
                soonest = finish
            if not has_room(node, digest=model.digest, tokens=job.spec.tokens):
                reason = "busy"
            elif finish > limit_s:
                reason = "too_slow"
            elif best is None or (finish, node_id) < best:
                best = (finish, node_id)
        if reason is not None:
            skipped[reason] = skipped.get(reason, 0) + 1
    if best is None:
        return Decision(None, 0.0, soonest, skipped)
    return Decision(best[1], best[0], soonest, skipped)
