"""Where a job goes: hard constraints first, then the least expected finish time.

    finish_s = rtt_s + overhead_s + backlog_tokens / tokens_per_s + job_tokens / tokens_per_s
             + cold_load_s + penalty_s

The backlog is what runs before the job: for an interactive one that is no more than one micro-batch
of what the node holds in the background.

The documented four signals are the four terms: proximity (round trip), load (backlog), capability
(measured throughput) and model availability (load time where the model is not there yet). The CPU
worker is not a candidate here: it is faster than any tab and next door, so it would win always; the
scheduler turns to it when no tab can.

The index hands over only nodes that have room, fastest first: the search looks at a few of each
step and ends where even an idle node of the next could not be better.
"""

from __future__ import annotations

import math
import random
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from browser_node.protocol import ModelDigest, NodeId
from orchestrator.domain.decisions import Decision
from orchestrator.domain.index import (
    PENALTY_PER_FAILURE_S,
    STANDARD_TOKENS,
    WINDOW_S,
    OpenSet,
    ahead_tokens,
    has_background_room,
    is_full,
    rtt_s,
)
from orchestrator.domain.model import ModelSpec, Node

# Of each step so many are looked at, and so many in all (best of k choices): more cost time and
# find nothing that is better by more than the forecast's error.
PER_STEP: Final = 8
SAMPLE: Final = 32
# A node not heard for so long is asked before it gets work.
STALE_S: Final = 60.0

Rule = Literal["finish", "least_loaded", "random"]
"""How candidates are compared; all but the first exist to be measured against."""


def finish_s(
    node: Node,
    digest: ModelDigest,
    tokens: int,
    background: bool = False,
    cold_load_s: float = 0.0,
) -> float:
    """Return the expected seconds from now until ``node`` answers a job of ``tokens``."""
    speed = node.speeds[digest]
    ahead = node.outstanding_tokens if background else ahead_tokens(node, speed.tokens_per_s)
    service = speed.overhead_s + (ahead + tokens) / speed.tokens_per_s
    penalty = node.consecutive_failures * PENALTY_PER_FAILURE_S
    return rtt_s(node) + service + cold_load_s + penalty


def cold_load_s(node: Node, model: ModelSpec) -> float:
    """Return the expected seconds until a node that lacks ``model`` could run it."""
    if model.digest in node.cached:
        return 1.0
    return model.size_bytes / node.download_bytes_per_s + 1.0


def has_room(node: Node, *, digest: ModelDigest, tokens: int, background: bool = False) -> bool:
    """Whether a slot is free and the node's outstanding tokens stay within its window.

    The background has a part of the window, whether or not the rest is taken: it always gets on.
    """
    if node.alone or len(node.attempts) >= node.slots:
        return False
    tokens_per_s = node.speeds[digest].tokens_per_s
    if background:
        return has_background_room(node, tokens_per_s, tokens=tokens)
    return not is_full(node, tokens_per_s, tokens=tokens)


def explain(
    node: Node,
    digest: ModelDigest,
    tokens: int,
    considered: int,
    skipped: Mapping[str, int],
    background: bool = False,
    cold_s: float = 0.0,
) -> Decision:
    """Return the decision for ``node`` with every term of its expected finish time."""
    speed = node.speeds.get(digest)
    rate, overhead = (1000.0, 0.0) if speed is None else (speed.tokens_per_s, speed.overhead_s)
    ahead: float = node.outstanding_tokens
    if node.background_tokens and not background:
        ahead = ahead_tokens(node, rate)
    rtt = rtt_s(node) if node.rtt_s is None else node.rtt_s
    backlog, service = ahead / rate, overhead + tokens / rate
    penalty = node.consecutive_failures * PENALTY_PER_FAILURE_S
    total = rtt + backlog + service + cold_s + penalty
    return Decision(
        node.node_id, rtt, backlog, service, cold_s, penalty, total, None, considered, skipped
    )


@dataclass(eq=False)
class Found:
    """What a search saw: nodes compared, why others were not, and the soonest that lacks room."""

    considered: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    soonest_s: float | None = None

    def skip(self, reason: str) -> None:
        self.skipped[reason] = self.skipped.get(reason, 0) + 1

    def sooner(self, finish_s: float | None) -> None:
        if finish_s is not None and (self.soonest_s is None or finish_s < self.soonest_s):
            self.soonest_s = finish_s


def choose(
    candidates: OpenSet,
    digest: ModelDigest,
    tokens: int,
    tried: Collection[NodeId],
    now: float,
    limit_s: float,
    rng: random.Random,
    silent: list[Node],
    networks: Collection[str] = (),
    rule: Rule = "finish",
    geo: bool = True,
    idle_only: bool = False,
    background: bool = False,
    kept_free_from: float = math.inf,
) -> tuple[Node | None, Found]:
    """Return the best node within ``limit_s``, and what the search saw.

    Nodes in ``tried`` and of ``networks`` are passed over, as is every node that a request came to
    after ``kept_free_from`` and, with ``idle_only``, every node that has work. Nodes that have been
    silent for long are put into ``silent``: they are to be probed before they are used.
    """
    best: Node | None = None
    best_s = limit_s
    best_cost = math.inf
    found = Found()
    # A job shorter than the standard one may be done sooner than its step says.
    shrink = tokens / STANDARD_TOKENS if tokens < STANDARD_TOKENS else 1.0
    stale_at = now - STALE_S
    finishes = rule == "finish"
    ordered = finishes and geo
    barred = bool(tried or networks)
    keeps_free = kept_free_from < math.inf
    steps = candidates.in_order if ordered else [(-math.inf, _any(candidates, rng))]
    for floor_s, nodes_of_step in steps:
        if floor_s * shrink >= best_s:
            break
        nodes = nodes_of_step
        if ordered and len(nodes) > PER_STEP:
            nodes = _some(nodes, rng)
        found.considered += len(nodes)
        for node in nodes:
            if barred and (node.node_id in tried or node.network in networks):
                found.skip("already_tried")
                continue
            if node.last_frame_at < stale_at:
                silent.append(node)
                found.skip("silent")
                continue
            if keeps_free and node.requested_at > kept_free_from:
                found.skip("kept_for_requests")
                continue
            measured = node.speeds[digest]
            speed = measured.tokens_per_s
            outstanding = node.outstanding_tokens
            ahead: float = outstanding
            if node.background_tokens and not background:
                ahead = ahead_tokens(node, speed)
            finish = measured.overhead_s + (ahead + tokens) / speed
            if geo:
                # Mostly measured: then the call is saved, in the innermost of all loops.
                measured_s = node.rtt_s
                finish += measured_s if measured_s is not None else rtt_s(node)
            if node.consecutive_failures:
                finish += node.consecutive_failures * PENALTY_PER_FAILURE_S
            if outstanding and (
                idle_only
                or (
                    not has_background_room(node, speed, tokens=tokens)
                    if background
                    else ahead + tokens > speed * WINDOW_S and is_full(node, speed, tokens=tokens)
                )
            ):
                found.skip("busy")
                found.sooner(finish)
                continue
            if finish > best_s:
                if finish > limit_s:
                    found.skip("too_slow")
            elif finishes:
                # Equals are told apart by their ids, so that their order says nothing.
                if finish < best_s or best is None or node.node_id < best.node_id:
                    best, best_s = node, finish
            else:
                cost = rng.random() if rule == "random" else float(len(node.attempts))
                if cost < best_cost:
                    best, best_cost = node, cost
        if found.considered >= SAMPLE:
            break
    return best, found


def soonest_s(
    busy: OpenSet, *, digest: ModelDigest, tokens: int, rng: random.Random
) -> float | None:
    """Return the least expected finish time over some of the nodes that will have room again."""
    return min(
        (
            finish_s(node, digest=digest, tokens=tokens)
            for _, nodes in busy.in_order
            for node in _some(nodes, rng)
        ),
        default=None,
    )


def _some(nodes: list[Node], rng: random.Random) -> list[Node]:
    """Return `PER_STEP` of the nodes from a random place on: their order says nothing."""
    count = len(nodes)
    if count <= PER_STEP:
        return nodes
    start = int(rng.random() * count)
    some = nodes[start : start + PER_STEP]
    return some if len(some) == PER_STEP else some + nodes[: PER_STEP - len(some)]


def _any(candidates: OpenSet, rng: random.Random) -> list[Node]:
    """Return some regardless of steps: what a rule that knows nothing of them chooses from."""
    if len(candidates) <= SAMPLE:
        return list(candidates)
    return [candidates.any(rng) for _ in range(SAMPLE)]
