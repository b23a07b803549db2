"""The scheduler's books: nodes, jobs, attempts, who is ready for what, and the timers.

Only bookkeeping lives here, so that a slot is taken and given back in one place each.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable

from browser_node.protocol import AttemptId, ModelDigest, NodeId
from orchestrator.domain.model import Attempt, Job, JobId, Node, Speed

MIN_TOKENS_PER_S = 1.0


class Board:
    """Mutable state with the invariants that belong to it: indexes always match the nodes."""

    def __init__(self, digests: Iterable[ModelDigest]) -> None:
        self.nodes: dict[NodeId, Node] = {}
        self.workers: dict[NodeId, Node] = {}
        self.jobs: dict[JobId, Job] = {}
        self.attempts: dict[AttemptId, Attempt] = {}
        self.ready: dict[ModelDigest, list[NodeId]] = {digest: [] for digest in digests}
        self._timers: list[tuple[float, int, AttemptId | JobId]] = []
        self._timer_ids = itertools.count()

    # ── nodes ────────────────────────────────────────────────────────────────────────────────────

    def add_node(self, node: Node) -> None:
        self.nodes[node.node_id] = node
        if node.trusted:
            self.workers[node.node_id] = node

    def remove_node(self, node_id: NodeId) -> Node | None:
        node = self.nodes.pop(node_id, None)
        if node is not None:
            self.workers.pop(node_id, None)
            for digest in list(node.speeds):
                self.lose_model(node, digest)
        return node

    def gain_model(self, node: Node, digest: ModelDigest, tokens_per_s: float) -> None:
        node.loading.discard(digest)
        node.lost.discard(digest)
        if digest not in node.speeds and not node.trusted:
            self.ready[digest].append(node.node_id)
        node.speeds[digest] = Speed(max(tokens_per_s, MIN_TOKENS_PER_S))

    def lose_model(self, node: Node, digest: ModelDigest) -> None:
        node.loading.discard(digest)
        node.lost.add(digest)
        if node.speeds.pop(digest, None) is not None and not node.trusted:
            self.ready[digest].remove(node.node_id)

    # ── attempts ─────────────────────────────────────────────────────────────────────────────────

    def take(self, job: Job, node: Node, attempt: Attempt) -> None:
        """Give ``attempt`` one of the node's slots."""
        # Counted before it is sent: a node that crashes on receipt must still use up a try.
        job.attempts += 1
        if not node.trusted:
            job.edge_attempts += 1
            job.tried.add(node.node_id)
        job.running = attempt.attempt_id
        self.attempts[attempt.attempt_id] = attempt
        node.attempts[attempt.attempt_id] = attempt
        node.outstanding_tokens += attempt.tokens
        self.arm(attempt.lease_at, attempt.attempt_id)

    def release(self, attempt: Attempt) -> None:
        """Give the slot back; the job is no longer running."""
        self.attempts.pop(attempt.attempt_id, None)
        node = self.nodes.get(attempt.node_id)
        if node is not None and node.attempts.pop(attempt.attempt_id, None) is not None:
            node.outstanding_tokens -= attempt.tokens
        job = self.jobs.get(attempt.job_id)
        if job is not None and job.running == attempt.attempt_id:
            job.running = None

    # ── timers ───────────────────────────────────────────────────────────────────────────────────

    def arm(self, at: float, what: AttemptId | JobId) -> None:
        """Have ``what`` looked at when monotonic time reaches ``at``."""
        heapq.heappush(self._timers, (at, next(self._timer_ids), what))

    def next_timer(self) -> float | None:
        while self._timers and not self._is_live(self._timers[0][2]):
            heapq.heappop(self._timers)
        return self._timers[0][0] if self._timers else None

    def due(self, now: float) -> Attempt | Job | None:
        """Return one attempt or job whose timer has run out, or None."""
        while self._timers and self._timers[0][0] <= now:
            _, _, what = heapq.heappop(self._timers)
            found = self.attempts.get(AttemptId(what)) or self.jobs.get(JobId(what))
            if found is not None:
                return found
        return None

    def _is_live(self, what: AttemptId | JobId) -> bool:
        return what in self.attempts or what in self.jobs
