"""The scheduler: a pure state machine that decides which node does which job, and what follows.

`handle` takes an event and the time and returns the effects to perform, in order; it never waits,
reads a clock or draws an id. Rules:

1. A job runs on at most one node at a time and ends in exactly one `Deliver` or `Fail`.
2. Edge nodes come first: the least expected finish time among those with room (`router.choose`).
   A job that no edge node is expected to finish within the edge budget, or that two edge attempts
   have failed, goes to the CPU worker.
3. An attempt ends by result, failure, the node's going, twenty seconds of silence, or its lease.
   In the last four the job moves on at once; a result that comes later is counted and dropped.
4. A node whose lease ended is stale: it gets nothing until it is heard again.
5. Without an edge node or a CPU worker that could ever take it, a job fails at once.

    submitted ──► queued ◄─────────┐ lease, silence, close, failure
        │           │ room         │
        │           ▼              │
        └───────► running ─────────┘        deadline, cancel: from any state
                    │ result                      │
                    ▼                             ▼
                delivered                 failed, forgotten
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, assert_never

from browser_node.protocol import HANDED_BACK, AttemptId, CloseCode, JobItem, ModelDigest, NodeId
from orchestrator.domain import effects as fx
from orchestrator.domain import events as ev
from orchestrator.domain import router
from orchestrator.domain.board import Board
from orchestrator.domain.leases import lease_s, observe
from orchestrator.domain.liveness import Liveness
from orchestrator.domain.model import (
    Answered,
    Attempt,
    FailureCode,
    Job,
    JobFailure,
    JobId,
    ModelSpec,
    NewJob,
    Node,
)
from orchestrator.domain.queues import Queues

MAX_EDGE_ATTEMPTS: Final = 2
MAX_CLOUD_ATTEMPTS: Final = 3
FAILURE_BACKOFF_S: Final = 15.0
HANDED_BACK_PAUSE_S: Final = 1.0

Cause = Literal["closed", "silence", "lease", "failed", "handed_back"]


@dataclass(slots=True)
class Counters:
    """Totals since the start of the process."""

    answered_edge: int = 0
    answered_cloud: int = 0
    rerouted: int = 0
    failed: int = 0
    late_results: int = 0


class Scheduler:
    """All placement state of one orchestrator process, in memory only."""

    def __init__(
        self,
        *,
        models: Mapping[ModelDigest, ModelSpec],
        rng: random.Random,
        new_attempt_id: Callable[[], AttemptId],
        edge_budget_s: float = 5.0,
        max_queued: int = 10_000,
    ) -> None:
        self._models = models
        self._rng = rng
        self._new_attempt_id = new_attempt_id
        self._edge_budget_s = edge_budget_s
        self._max_queued = max_queued
        self.counters = Counters()
        self.board = Board(models)
        self.queues = Queues(self.board, models)
        self._liveness = Liveness(self.board)
        self._worker_expected = False
        self._draining = False
        self._effects: list[fx.Effect] = []
        self._outbox: dict[NodeId, list[JobItem]] = {}

    # ── what the engine calls ────────────────────────────────────────────────────────────────────

    def handle(self, event: ev.Event, *, now: float) -> list[fx.Effect]:
        """Apply ``event`` at monotonic time ``now`` and return what to do about it."""
        match event:
            case ev.JobsSubmitted():
                for spec in event.jobs:
                    self._submit(spec, now)
            case ev.JobsCancelled():
                for job_id in event.job_ids:
                    if (job := self.board.jobs.get(job_id)) is not None:
                        self._withdraw(job)
            case ev.NodeJoined():
                self._join(event, now)
            case ev.NodeLeft():
                self._leave(event.node_id, "closed", now)
            case ev.NodeHeard():
                self._heard(event, now)
            case ev.AttemptsFinished():
                self._finished(event, now)
            case ev.AttemptFailed():
                self._failed(event, now)
            case ev.ModelLoading() | ev.ModelReady() | ev.ModelLost() | ev.CapacityChanged():
                self._node_changed(event)
            case ev.WorkerExpected():
                self._worker_expected = event.expected
            case ev.DrainStarted():
                self._draining = True
            case ev.Tick():
                self._tick(now)
            case _:
                assert_never(event)
        self._expire(now)
        self._assign(now)
        return self._flush()

    def next_wakeup(self) -> float | None:
        """Return the monotonic time at which a `Tick` is due, or None when nothing is pending."""
        timer = self.board.next_timer()
        if not self.board.nodes:
            return timer
        tick = self._liveness.next_tick_at
        return tick if timer is None else min(timer, tick)

    @property
    def queued(self) -> int:
        """Jobs accepted and not running anywhere."""
        return len(self.board.jobs) - len(self.board.attempts)

    @property
    def running(self) -> int:
        return len(self.board.attempts)

    # ── jobs ─────────────────────────────────────────────────────────────────────────────────────

    def _submit(self, spec: NewJob, now: float) -> None:
        job = Job(spec, submitted_at=now, deadline_at=now + spec.deadline_s)
        job.cloud_only = spec.placement == "cloud"
        if self._draining:
            self._fail(job, "shutting_down", "The server is shutting down.", 5.0)
        elif self.queued >= self._max_queued:
            message = f"The queue is full: {self._max_queued} jobs are waiting."
            self._fail(job, "overloaded", message, 2.0)
        else:
            self.board.jobs[spec.job_id] = job
            self.board.arm(job.deadline_at, spec.job_id)
            self._place(job, now)

    def _place(self, job: Job, now: float) -> None:
        """Start ``job`` on the best node, queue it, or fail it when nothing could ever take it."""
        if self._may_run_on_edge(job):
            limit_s = min(self._edge_budget_s, job.deadline_at - now)
            decision = self._choose(job, now, limit_s)
            if decision.node_id is not None:
                self._start(job, self.board.nodes[decision.node_id], decision.finish_s, now)
                return
            if self._worth_waiting(job, decision, now):
                self.queues.for_edge(job)
                self.board.arm(job.submitted_at + self._edge_budget_s, job.spec.job_id)
                return
        if self._try_worker(job, now):
            return
        if self._worker_will_come(job):
            self.queues.for_worker(job)
        elif self._edge_could_come(job, now):
            self.queues.for_edge(job)
        else:
            message = "No node and no CPU worker is available for this model."
            self._fail(job, "no_capacity", message, 5.0)

    def _may_run_on_edge(self, job: Job) -> bool:
        return not job.cloud_only and job.edge_attempts < MAX_EDGE_ATTEMPTS

    def _choose(self, job: Job, now: float, limit_s: float) -> router.Decision:
        digest = job.spec.digest
        return router.choose(
            job,
            self._models[digest],
            self.board.ready[digest],
            self.board.nodes,
            now=now,
            limit_s=limit_s,
            rng=self._rng,
        )

    def _worth_waiting(self, job: Job, decision: router.Decision, now: float) -> bool:
        """Whether a busy edge node is expected to have answered within the edge budget."""
        if decision.soonest_s is None or "busy" not in decision.skipped:
            return False
        left_s = job.submitted_at + self._edge_budget_s - now
        return decision.soonest_s + self.queues.edge_wait_s(job.spec.digest) <= left_s

    def _try_worker(self, job: Job, now: float) -> bool:
        """Start ``job`` on the CPU worker that would finish it first, if one has a slot."""
        digest, tokens = job.spec.digest, job.spec.tokens
        best: tuple[float, NodeId] | None = None
        for node in self.board.workers.values():
            if node.stale or digest not in node.speeds or node.slots_used >= node.slots:
                continue
            finish = router.finish_s(node, digest=digest, tokens=tokens)
            if best is None or (finish, node.node_id) < best:
                best = (finish, node.node_id)
        if best is None:
            return False
        self._start(job, self.board.nodes[best[1]], best[0], now)
        return True

    def _worker_will_come(self, job: Job) -> bool:
        """Whether a CPU worker is there, or to come, that could still run the job's model."""
        workers = self.board.workers.values()
        if not workers:
            return self._worker_expected
        return any(job.spec.digest not in worker.lost for worker in workers)

    def _edge_could_come(self, job: Job, now: float) -> bool:
        """Whether some edge node has the model, or will have it before the job's deadline."""
        if not self._may_run_on_edge(job):
            return False
        model = self._models[job.spec.digest]
        for node in self.board.nodes.values():
            if node.trusted or router.exclusion(node, job, model, now=now) is not None:
                continue
            if model.digest in node.speeds:
                return True
            if model.digest in node.loading:
                return now + router.cold_load_s(node, model) < job.deadline_at
        return False

    def _start(self, job: Job, node: Node, expected_s: float, now: float) -> None:
        spec = job.spec
        duration_s = lease_s(node, digest=spec.digest, expected_s=expected_s)
        attempt = Attempt(
            attempt_id=self._new_attempt_id(),
            job_id=spec.job_id,
            node_id=node.node_id,
            digest=spec.digest,
            tokens=spec.tokens,
            started_at=now,
            expected_s=expected_s,
            lease_at=now + duration_s,
        )
        self.board.take(job, node, attempt)
        item = JobItem(
            attempt_id=attempt.attempt_id,
            digest=spec.digest,
            lease_s=duration_s,
            tokens=spec.tokens,
            input=spec.input,
            params=dict(spec.params),
        )
        self._outbox.setdefault(node.node_id, []).append(item)

    def _withdraw(self, job: Job) -> None:
        """Forget ``job`` and tell the node that holds it."""
        self.board.jobs.pop(job.spec.job_id, None)
        if job.running is None:
            return
        attempt = self.board.attempts[job.running]
        self.board.release(attempt)
        unsent = self._outbox.get(attempt.node_id, [])
        kept = [item for item in unsent if item.attempt_id != attempt.attempt_id]
        if len(kept) < len(unsent):
            self._outbox[attempt.node_id] = kept
        else:
            self._effects.append(fx.SendCancel(attempt.node_id, (attempt.attempt_id,)))

    def _fail(
        self, job: Job, code: FailureCode, message: str, retry_after_s: float | None = None
    ) -> None:
        self._withdraw(job)
        self.counters.failed += 1
        self._effects.append(fx.Fail(JobFailure(job.spec.job_id, code, message, retry_after_s)))

    # ── nodes ────────────────────────────────────────────────────────────────────────────────────

    def _join(self, event: ev.NodeJoined, now: float) -> None:
        self._liveness.watch(event.node_id, now=now)
        self.board.add_node(
            Node(event.node_id, event.trusted, event.memory_mb, joined_at=now, last_frame_at=now)
        )
        # The first pong gives the round trip before the first job.
        self._effects.append(fx.SendPing(event.node_id))

    def _leave(self, node_id: NodeId, cause: Cause, now: float) -> None:
        node = self.board.remove_node(node_id)
        if node is None:
            return
        self._outbox.pop(node_id, None)
        for attempt in list(node.attempts.values()):
            self._reroute(attempt, cause, now)

    def _heard(self, event: ev.NodeHeard, now: float) -> None:
        node = self.board.nodes.get(event.node_id)
        if node is None:
            return
        node.last_frame_at = now
        node.stale = False
        if event.rtt_s is not None:
            # A minimum, since noise only adds to a round trip; it drifts up to notice a move.
            known = event.rtt_s if node.rtt_s is None else node.rtt_s * 1.1 + 0.001
            node.rtt_s = min(event.rtt_s, known)

    def _node_changed(
        self, event: ev.ModelLoading | ev.ModelReady | ev.ModelLost | ev.CapacityChanged
    ) -> None:
        node = self.board.nodes.get(event.node_id)
        if node is None:
            return
        match event:
            case ev.ModelLoading():
                node.loading.add(event.digest)
            case ev.ModelReady():
                self.board.gain_model(node, event.digest, event.tokens_per_s)
            case ev.ModelLost():
                self.board.lose_model(node, event.digest)
            case ev.CapacityChanged():
                node.slots, node.state, node.reason = event.slots, event.state, event.reason

    # ── attempts ─────────────────────────────────────────────────────────────────────────────────

    def _finished(self, event: ev.AttemptsFinished, now: float) -> None:
        node = self.board.nodes.get(event.node_id)
        if node is None:
            self.counters.late_results += len(event.results)
            return
        # Not by an event of its own: this is the path every answer takes.
        node.last_frame_at = now
        node.stale = False
        known: list[tuple[ev.Finished, Attempt]] = []
        for result in event.results:
            # Released one by one, so that the same attempt twice in a frame counts once.
            attempt = node.attempts.get(result.attempt_id)
            if attempt is None:
                self.counters.late_results += 1
                continue
            known.append((result, attempt))
            self.board.release(attempt)
        if not known:
            return
        observe(node, [attempt for _, attempt in known], now=now)
        node.consecutive_failures = 0
        node.retry_at = 0.0
        node.jobs_done += len(known)
        if node.trusted:
            self.counters.answered_cloud += len(known)
        else:
            self.counters.answered_edge += len(known)
        for result, attempt in known:
            job = self.board.jobs.pop(attempt.job_id)
            accuser = self.board.nodes.get(job.accuser) if job.accuser is not None else None
            if accuser is not None:
                # The input was fine: whoever blamed it to be rid of the work pays for that.
                self._penalise(accuser, now)
            answer = Answered(
                job_id=attempt.job_id,
                output=result.output,
                place="cloud" if node.trusted else "edge",
                node_id=node.node_id,
                attempts=job.attempts,
                compute_s=result.compute_s,
            )
            self._effects.append(fx.Deliver(answer))

    def _failed(self, event: ev.AttemptFailed, now: float) -> None:
        node = self.board.nodes.get(event.node_id)
        attempt = node.attempts.get(event.attempt_id) if node is not None else None
        if node is None or attempt is None:
            return
        job = self.board.jobs[attempt.job_id]
        if event.code == HANDED_BACK:
            if node.state == "active":
                # It says that it works and does not: a moment for others before it is asked again.
                node.retry_at = max(node.retry_at, now + HANDED_BACK_PAUSE_S)
            self._reroute(attempt, "handed_back", now)
            return
        if event.blame == "input":
            if node.trusted:
                self.board.release(attempt)
                message = event.message or "The model could not process this input."
                self._fail(job, "invalid_input", message)
                return
            # A stranger's word alone must not fail a customer: the CPU worker decides.
            job.cloud_only = True
            job.accuser = node.node_id
        else:
            self._penalise(node, now)
        self._reroute(attempt, "failed", now)

    def _penalise(self, node: Node, now: float) -> None:
        """Count a failure and leave the node out for a while: 15 s × 2ⁿ, cleared by success."""
        node.failures += 1
        node.consecutive_failures += 1
        # Never while the CPU worker is away: it might be the last one there is.
        if not node.trusted and self.board.workers:
            exponent = min(node.consecutive_failures - 1, 8)
            node.retry_at = now + FAILURE_BACKOFF_S * 2**exponent

    def _reroute(self, attempt: Attempt, cause: Cause, now: float) -> None:
        """End ``attempt`` without an answer and place its job anew."""
        job = self.board.jobs[attempt.job_id]
        self.board.release(attempt)
        self.counters.rerouted += 1
        if (node := self.board.nodes.get(attempt.node_id)) is not None:
            node.reroutes += 1
        self._effects.append(fx.Rerouted(attempt.job_id, attempt.node_id, cause))
        if job.attempts - job.edge_attempts >= MAX_CLOUD_ATTEMPTS:
            message = f"The job was given up after {job.attempts} attempts; last cause: {cause}."
            self._fail(job, "internal_error", message)
            return
        self._place(job, now)

    # ── time ─────────────────────────────────────────────────────────────────────────────────────

    def _expire(self, now: float) -> None:
        while (due := self.board.due(now)) is not None:
            if isinstance(due, Attempt):
                self._end_lease(due, now)
            elif due.deadline_at <= now:
                message = f"Nobody answered within {due.spec.deadline_s:g} s."
                self._fail(due, "deadline_exceeded", message, 2.0)
            elif due.running is None and not due.cloud_only and self._worker_will_come(due):
                # The edge had its time; the CPU worker takes what is still queued.
                due.cloud_only = True
                self._place(due, now)

    def _end_lease(self, attempt: Attempt, now: float) -> None:
        node = self.board.nodes[attempt.node_id]
        node.stale = True
        self._penalise(node, now)
        self._effects.append(fx.SendCancel(node.node_id, (attempt.attempt_id,)))
        self._effects.append(fx.SendPing(node.node_id))
        self._reroute(attempt, "lease", now)

    def _tick(self, now: float) -> None:
        probes, lost = self._liveness.tick(now=now)
        self._effects.extend(fx.SendPing(node_id) for node_id in probes)
        for node_id, silent_s in lost:
            reason = f"silent for {silent_s:.0f} s"
            jobs_done = self.board.nodes[node_id].jobs_done
            self._effects.append(fx.CloseNode(node_id, CloseCode.TIMEOUT, reason, jobs_done))
            self._leave(node_id, "silence", now)

    # ── assignment ───────────────────────────────────────────────────────────────────────────────

    def _assign(self, now: float) -> None:
        """Give queued jobs to whatever has room now, oldest first."""
        for queue in self.queues.edge.values():
            while queue and self._assign_head(queue, now, from_edge_queue=True):
                queue.popleft()
        for queue in self.queues.cloud.values():
            while queue and self._assign_head(queue, now):
                queue.popleft()

    def _assign_head(
        self, queue: deque[JobId], now: float, *, from_edge_queue: bool = False
    ) -> bool:
        """Deal with the oldest job of ``queue``; False means that it stays there."""
        job = self.board.jobs.get(queue[0])
        if job is None or job.running is not None or (from_edge_queue and job.cloud_only):
            return True  # ended, or moved on to another queue: this entry is a leftover
        busy = False
        if self._may_run_on_edge(job):
            decision = self._choose(job, now, job.deadline_at - now)
            if decision.node_id is not None:
                self._start(job, self.board.nodes[decision.node_id], decision.finish_s, now)
                return True
            busy = "busy" in decision.skipped
        if from_edge_queue:
            if busy or (not self._worker_will_come(job) and self._edge_could_come(job, now)):
                return False
            # Its nodes are gone: whatever else there is must take it.
            job.cloud_only = self._worker_will_come(job)
            self._place(job, now)
            return True
        if self._try_worker(job, now):
            return True
        if self._worker_will_come(job):
            return False
        self._place(job, now)
        return True

    def _flush(self) -> list[fx.Effect]:
        effects, self._effects = self._effects, []
        effects.extend(
            fx.SendJobs(node_id, tuple(items)) for node_id, items in self._outbox.items() if items
        )
        self._outbox = {}
        return effects
