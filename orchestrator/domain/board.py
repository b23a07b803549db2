"""The scheduler's books: nodes, jobs, attempts, indexes, timers, and the effects being gathered.

Only bookkeeping lives here, so that a slot is taken and given back in one place each, and a job has
one place where it begins, one where it is delivered and one where it fails.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import cast

from browser_node.protocol import Answer, AttemptId, JobItem, ModelDigest, NodeId, Task
from orchestrator.domain import effects as fx
from orchestrator.domain.decisions import Decision, Decisions, Placed
from orchestrator.domain.index import Index
from orchestrator.domain.leases import MAX_LEASE_S, Leases
from orchestrator.domain.model import (
    Answered,
    Attempt,
    Claim,
    FailureCode,
    Job,
    JobFailure,
    JobId,
    ModelSpec,
    Node,
    Place,
    ProjectId,
    Purpose,
    Speed,
    Subject,
)
from orchestrator.domain.queues import Queues
from orchestrator.domain.speeds import set_speed
from orchestrator.domain.timers import Timers
from orchestrator.domain.trust import Identity, Standing

# A process of its own takes up to 30 s to start and has 10 s for the job; others may be before it.
ISOLATED_LEASE_S = 60.0
NEWCOMER_LEASE_S = 10.0


@dataclass(eq=False)
class Counters:
    """Totals since the start of the process. ``*_tokens`` are what extra work cost."""

    answered_edge: int = 0
    answered_cloud: int = 0
    rerouted: int = 0
    failed: int = 0
    late_results: int = 0
    hedged: int = 0
    audits: int = 0
    replays: int = 0
    trials: int = 0
    disagreed: int = 0
    audits_dropped: int = 0
    edge_tokens: int = 0
    cloud_tokens: int = 0
    hedge_tokens: int = 0
    audit_tokens: int = 0
    replay_tokens: int = 0
    trial_tokens: int = 0
    purposes: dict[str, int] = field(default_factory=dict)


class Board:
    """Mutable state with the invariants that belong to it: indexes always match the nodes."""

    def __init__(
        self,
        models: Mapping[ModelDigest, ModelSpec],
        *,
        new_attempt_id: Callable[[], AttemptId],
        leases: Leases,
    ) -> None:
        self.models = models
        self.leases = leases
        self.nodes: dict[NodeId, Node] = {}
        self.workers: dict[NodeId, Node] = {}
        self.sessions: dict[Identity, tuple[Node, ...]] = {}
        self.jobs: dict[JobId, Job] = {}
        self.attempts: dict[AttemptId, Attempt] = {}
        self.index = Index(models)
        self.queues = Queues()
        self.decisions = Decisions()
        self.counters = Counters()
        self.effects: list[fx.Effect] = []
        # Attempts of newcomers on customers' texts, by network.
        self._shown: dict[str, set[AttemptId]] = {}
        self._outbox: dict[NodeId, list[JobItem]] = {}
        self._new_attempt_id = new_attempt_id
        # Who a timer is for is known by its id alone, and no two of any kind are alike.
        self._attempt_of = cast("Callable[[str], Attempt | None]", self.attempts.get)
        self._job_of = cast("Callable[[str], Job | None]", self.jobs.get)
        self._node_of = cast("Callable[[str], Node | None]", self.nodes.get)
        self.timers = Timers(self._find, self._job_of)

    # ── nodes ────────────────────────────────────────────────────────────────────────────────────

    def add_node(self, node: Node) -> None:
        self.nodes[node.node_id] = node
        if node.trusted:
            self.workers[node.node_id] = node
        else:
            self.index.join(node)
            identity = node.standing.identity
            self.sessions[identity] = (*self.sessions.get(identity, ()), node)

    def remove_node(self, node_id: NodeId) -> Node | None:
        node = self.nodes.pop(node_id, None)
        if node is None:
            return None
        self._outbox.pop(node_id, None)
        if node.trusted:
            del self.workers[node_id]
        else:
            self.index.leave(node)
            identity = node.standing.identity
            others = tuple(n for n in self.sessions[identity] if n is not node)
            if others:
                self.sessions[identity] = others
            else:
                del self.sessions[identity]
        return node

    def nodes_of(self, standing: Standing) -> list[Node]:
        """Return the connected nodes of an identity and runtime class: they share its record."""
        sessions = self.sessions.get(standing.identity, ())
        return [node for node in sessions if node.standing is standing]

    def loading(self, node: Node, digest: ModelDigest, *, now: float, begun: bool = True) -> None:
        """The node was told to load a model; ``begun`` once it has what it needs to start."""
        if digest not in node.loading:
            node.loading = (*node.loading, digest)
            node.load_began_at = now
        if begun and not node.trusted:
            self.index.fleets[digest].loading[node.node_id] = node

    def _loaded(self, node: Node, digest: ModelDigest) -> None:
        node.loading = tuple(other for other in node.loading if other != digest)
        self.index.fleets[digest].loading.pop(node.node_id, None)

    def gain_model(self, node: Node, digest: ModelDigest, tokens_per_s: float, now: float) -> None:
        self._loaded(node, digest)
        node.lost = tuple(other for other in node.lost if other != digest)
        speed = node.speeds.setdefault(digest, Speed(tokens_per_s))
        set_speed(speed, tokens_per_s, is_believed=node.trusted)
        if not node.trusted:
            self.index.host(node, digest)
        self.changed(node, now)

    def lose_model(self, node: Node, digest: ModelDigest, *, unloaded: bool = False) -> None:
        self._loaded(node, digest)
        if not unloaded and digest not in node.lost:
            node.lost = (*node.lost, digest)
        if digest in node.speeds:
            if not node.trusted:
                self.index.drop(node, digest)
            del node.speeds[digest]

    def changed(self, node: Node, now: float) -> None:
        """Something about ``node`` is different: put it into the group it belongs to now."""
        if not node.trusted:
            self.index.update(node, now)

    # ── attempts ─────────────────────────────────────────────────────────────────────────────────

    def start(
        self,
        node: Node,
        decision: Decision,
        digest: ModelDigest,
        task: Task,
        tokens: int,
        now: float,
        purpose: Purpose,
        job: Job | None = None,
        alone: bool = False,
        subject: Subject | None = None,
        background: bool = False,
        known: Answer | None = None,
        claimed: Claim | None = None,
        real: bool = False,
        project_id: ProjectId | None = None,
        stream: bool = False,
    ) -> Attempt:
        """Give a new attempt one of the node's slots and queue it for sending."""
        isolated = alone and node.trusted
        lease_s, hard_s, hedge_s = self.leases.size(node, digest, decision.finish_s)
        if isolated:
            lease_s = hard_s = ISOLATED_LEASE_S
        elif node.level == "newcomer" and not node.trusted:
            # Nobody waits for it, and it may be busy with measuring its next model.
            lease_s, hard_s = max(lease_s, NEWCOMER_LEASE_S), MAX_LEASE_S
        elif background:
            # What comes meanwhile goes first; as long as that is answered, so will be this.
            hard_s = MAX_LEASE_S
        attempt_id, lease_at, hedge_at = self._new_attempt_id(), now + lease_s, math.inf
        job_id = placed = None
        if job is not None:
            job_id = job.spec.job_id
            placed = self._note(job, attempt_id, purpose, decision, now)
            edge = node.level == "trusted" and not node.trusted
            if edge and self.workers and not background:
                hedge_at = now + hedge_s
        attempt = Attempt(
            attempt_id,
            job_id,
            node.node_id,
            digest,
            tokens,
            now,
            decision.finish_s,
            lease_at,
            now + hard_s,
            purpose,
            hedge_at,
            False,
            task,
            known,
            claimed,
            subject,
            real,
            project_id,
            alone,
            background,
            placed,
        )
        # Counted before it is sent: a node that crashes on receipt must still use up a try.
        if job is not None:
            if job.waits_in is not None:
                self.queues.remove(job, served=True)
            job.attempts += 1
            if node.trusted:
                job.cloud_attempts += 1
            else:
                job.edge_attempts += 1
                job.tried.append(node.node_id)
            job.live.append(attempt_id)
        if purpose != "serve":
            self._count(attempt)
        if node.network and node.level == "newcomer" and (job is not None or real):
            self._shown.setdefault(node.network, set()).add(attempt_id)
        self.attempts[attempt_id] = node.attempts[attempt_id] = attempt
        node.outstanding_tokens += tokens
        if background:
            node.background += 1
            node.background_tokens += tokens
        elif job is not None:
            node.requested_at = now
        if alone or node.alone:
            node.alone = not node.trusted and alone
        self.timers.arm(hedge_at if hedge_at < lease_at else lease_at, attempt_id)
        if not node.trusted:
            self.index.took(node, now)
        item = JobItem(
            attempt_id=attempt_id,
            digest=digest,
            lease_s=hard_s,
            tokens=tokens,
            input=task.input,
            params=task.params,
            isolated=isolated,
            stream=stream or (job is not None and job.spec.stream),
            background=background,
        )
        self._outbox.setdefault(node.node_id, []).append(item)
        return attempt

    def _note(
        self, job: Job, attempt_id: AttemptId, purpose: Purpose, decision: Decision, now: float
    ) -> Placed:
        spec, waited_s = job.spec, now - job.submitted_at
        model_id = self.models[spec.digest].model_id
        placed = Placed(
            now, spec.job_id, spec.project_id, model_id, spec.tokens, purpose, attempt_id, waited_s,
            decision,
        )  # fmt: skip
        self.decisions.add(placed)
        return placed

    def _count(self, attempt: Attempt) -> None:
        counters, purpose, tokens = self.counters, attempt.purpose, attempt.tokens
        if purpose == "trial":
            counters.trials += 1
            counters.trial_tokens += tokens
        elif purpose == "hedge":
            counters.hedged += 1
            counters.hedge_tokens += tokens
        elif purpose == "audit":
            counters.audits += 1
            counters.audit_tokens += tokens
        elif purpose == "replay":
            counters.replays += 1
            counters.replay_tokens += tokens

    def release(self, attempt: Attempt, outcome: str, now: float, regroup: bool = True) -> None:
        """Give the slot back; the attempt is over. Without ``regroup`` the caller sees to that."""
        attempt_id, job_id = attempt.attempt_id, attempt.job_id
        if self.attempts.pop(attempt_id, None) is None:
            return
        node = self.nodes.get(attempt.node_id)
        if node is not None and node.attempts.pop(attempt_id, None) is not None:
            node.outstanding_tokens -= attempt.tokens
            if attempt.background:
                node.background -= 1
                node.background_tokens -= attempt.tokens
            if attempt.alone:
                node.alone = False
            if regroup:
                self.changed(node, now)
        if job_id is not None:
            job = self.jobs.get(job_id)
            if job is not None and attempt_id in job.live:
                job.live.remove(attempt_id)
        placed = attempt.placed
        if placed is not None:
            placed.outcome, placed.took_s = outcome, now - attempt.started_at

    def cancel(self, attempt: Attempt, now: float, outcome: str = "cancelled") -> None:
        """Take an attempt back from its node."""
        self.release(attempt, outcome, now)
        unsent = self._outbox.get(attempt.node_id, [])
        kept = [item for item in unsent if item.attempt_id != attempt.attempt_id]
        if len(kept) < len(unsent):
            self._outbox[attempt.node_id] = kept
        elif attempt.node_id in self.nodes:
            self.effects.append(fx.SendCancel(attempt.node_id, (attempt.attempt_id,)))

    def full_networks(self, most: int) -> tuple[str, ...]:
        """Return the networks whose newcomers have ``most`` customers' texts in hand."""
        for network in list(self._shown):
            self._shown[network] &= self.attempts.keys()
            if not self._shown[network]:
                del self._shown[network]
        return tuple(network for network, ids in self._shown.items() if len(ids) >= most)

    # ── jobs ─────────────────────────────────────────────────────────────────────────────────────

    def deliver(
        self, job: Job, node: Node, answer: Answer | Claim, compute_s: float, now: float
    ) -> None:
        """Answer ``job``; whatever else runs for it is up to the caller."""
        self._forget(job)
        spec, counters = job.spec, self.counters
        place: Place = "cloud" if node.trusted else "edge"
        if node.trusted:
            counters.answered_cloud += 1
            counters.cloud_tokens += spec.tokens
        else:
            counters.answered_edge += 1
            counters.edge_tokens += spec.tokens
        answered = Answered(
            spec.job_id, answer.output, place, node.node_id, job.attempts, compute_s
        )
        self.effects.append(fx.Deliver(answered))

    def fail(
        self,
        job: Job,
        code: FailureCode,
        message: str,
        now: float,
        *,
        retry_after_s: float | None = None,
        skipped: Mapping[str, int] | None = None,
    ) -> None:
        self.withdraw(job, now)
        self.counters.failed += 1
        failure = JobFailure(job.spec.job_id, code, message, retry_after_s, skipped)
        self.effects.append(fx.Fail(failure))

    def withdraw(self, job: Job, now: float) -> None:
        """Forget ``job`` and tell the nodes that hold it."""
        self._forget(job)
        for attempt_id in list(job.live):
            self.cancel(self.attempts[attempt_id], now)
        job.live.clear()

    def _forget(self, job: Job) -> None:
        self.jobs.pop(job.spec.job_id, None)
        if job.waits_in is not None:
            self.queues.remove(job)

    # ── what the scheduler asks ──────────────────────────────────────────────────────────────────

    def _find(self, what: str) -> Attempt | Job | Node | None:
        return self._attempt_of(what) or self._job_of(what) or self._node_of(what)

    def flush(self) -> list[fx.Effect]:
        """Return what is to be done, jobs last and in one frame a node."""
        effects, self.effects = self.effects, []
        if self._outbox:
            outbox, self._outbox = self._outbox, {}
            for node_id, items in outbox.items():
                if items:
                    effects.append(fx.SendJobs(node_id, tuple(items)))
        return effects
