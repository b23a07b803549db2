"""The scheduler: a pure state machine that decides which node does which job, and what follows.

`handle` takes an event and the time and returns the effects to perform, in order; it never waits,
reads a clock or draws an id. Rules:

1. A job ends in exactly one `Deliver` or `Fail`, however many attempts it had.
2. Edge nodes come first: the least expected finish time among trusted ones with room. A job that
   none is expected to finish within the edge budget, or that two edge attempts have failed, goes
   to the CPU worker. No answer of a newcomer is delivered before it was compared. A batch job
   waits for whichever has room first, in the background of both.
3. An attempt ends by result, failure, the node's going, twenty seconds of silence, its lease, or
   because its node is believed no more. In all but the first the job moves on at once; a result
   that comes later is counted, compared and dropped.
4. A node whose lease ended is stale, one whose answer is later than its p95 is late: both get
   nothing until they are heard again.
5. Without an edge node or a CPU worker that could ever take it, a job fails at once and says why.
6. Pieces of an answer are relayed from one attempt at a time, whose answer may be delivered unseen;
   from the first on no second one runs beside it, and what it answers is what is delivered.

    submitted ──► queued ◄─────────┐ lease, silence, close, failure, distrust
        │           │ room         │
        │           ▼              │
        └───────► running ─────────┘        deadline, cancel: from any state
                    │ result ──► judging (trials, pairs)   │
                    ▼               ▼                      ▼
                        delivered                    failed, forgotten
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import assert_never

from browser_node.protocol import (
    AttemptId,
    CloseCode,
    ModelDigest,
)
from orchestrator.domain import effects as fx
from orchestrator.domain import events as ev
from orchestrator.domain.board import Board, Counters
from orchestrator.domain.checking import Checking
from orchestrator.domain.index import guessed_rtt_s
from orchestrator.domain.leases import Leases
from orchestrator.domain.liveness import Liveness
from orchestrator.domain.model import Attempt, Job, ModelSpec, NewJob, Node
from orchestrator.domain.outcomes import Outcomes
from orchestrator.domain.placement import Placement
from orchestrator.domain.placing import Options, Placing
from orchestrator.domain.references import References
from orchestrator.domain.speeds import changed_state
from orchestrator.domain.trust import Policy

__all__ = ["Counters", "Options", "Scheduler"]


class Scheduler:
    """All placement state of one orchestrator process, in memory only."""

    def __init__(
        self,
        *,
        models: Mapping[ModelDigest, ModelSpec],
        rng: random.Random,
        new_attempt_id: Callable[[], AttemptId],
        references: References | None = None,
        policy: Policy | None = None,
        options: Options | None = None,
    ) -> None:
        self.options = options or Options()
        self.policy = policy or Policy()
        self.board = Board(
            models, new_attempt_id=new_attempt_id, leases=Leases(self.options.leases)
        )
        self.checking = Checking(
            self.board,
            policy=self.policy,
            references=references,
            rng=rng,
            newcomers_per_network=self.options.newcomers_per_network,
        )
        self.placement = Placement(self.board, references=references)
        self.placing = Placing(self.board, self.placement, options=self.options, rng=rng)
        self.outcomes = Outcomes(
            self.board, placing=self.placing, checking=self.checking, placement=self.placement
        )
        self.checking.records.on_distrusted = self.outcomes.distrusted
        self.checking.on_answered = self.outcomes.answered
        self.checking.place = self.placing.place
        self.checking.on_unpaired = self.outcomes.unpaired
        self._liveness = Liveness(self.board.nodes)
        self.outcomes.may_probe = self._liveness.may_probe
        self._draining = False

    # ── what the engine calls ────────────────────────────────────────────────────────────────────

    def handle(self, event: ev.Event, *, now: float) -> list[fx.Effect]:
        """Apply ``event`` at monotonic time ``now`` and return what to do about it."""
        if self.outcomes.left_out:
            self.outcomes.readmit(now)
        match event:
            case ev.JobsSubmitted():
                for spec in event.jobs:
                    self._submit(spec, now)
                    if spec.request_tokens and spec.job_id not in self.board.jobs:
                        # Refused as a whole: nothing of it runs, waits or is told of.
                        break
            case ev.AttemptsFinished():
                self.outcomes.finished(event, now)
            case ev.JobsCancelled():
                for job_id in event.job_ids:
                    if (job := self.board.jobs.get(job_id)) is not None:
                        self.board.withdraw(job, now)
            case ev.NodeJoined():
                self._join(event, now)
            case ev.NodeLeft():
                self.outcomes.leave(event.node_id, "closed", now, died=event.reason != "bye")
            case ev.NodeHeard():
                self._heard(event, now)
            case ev.EvidenceShown():
                self._shown(event, now)
            case ev.AttemptProgressed():
                self.outcomes.progressed(event, now)
            case ev.AttemptFailed():
                self.outcomes.failed(event, now)
            case ev.Judged():
                self.checking.judged(event, now)
            case ev.StandingRecalled():
                self.checking.records.recalled(event, now)
            case ev.ModelLoading() | ev.ModelReady() | ev.ModelLost() | ev.CapacityChanged():
                self._node_changed(event, now)
            case ev.NodeOrdered():
                self._node_ordered(event, now)
            case ev.StandingOrdered():
                self.checking.records.ordered(event, now)
            case ev.WorkerExpected():
                self.placing.worker_expected = event.expected
            case ev.DrainStarted():
                self._draining = True
            case ev.Overslept():
                self.outcomes.forgive(event.late_s, now)
            case ev.Tick():
                self._tick(now)
            case _:
                assert_never(event)
        board = self.board
        if board.timers.first_at <= now:
            self._expire(now)
        if self.checking.audits.waiting:
            self.checking.audits.start_some(now)
        if board.queues.size:
            self.placing.assign(now)
        if self.placing.silent:
            self._probe_silent(now)
        return board.flush()

    def next_wakeup(self) -> float | None:
        """Return the monotonic time at which a `Tick` is due, or None when nothing is pending."""
        timer = self.board.timers.next()
        if not self.board.nodes:
            return timer
        tick = self._liveness.next_tick_at
        return tick if timer is None else min(timer, tick)

    def is_idle(self, until: float) -> bool:
        """Whether no `Tick` is due before monotonic time ``until``; cheaper than to ask when."""
        if self.board.timers.first_at < until:
            return False
        return self._liveness.next_tick_at >= until or not self.board.nodes

    @property
    def counters(self) -> Counters:
        return self.board.counters

    @property
    def queued(self) -> int:
        """Jobs accepted and not running anywhere."""
        return self.board.queues.size

    @property
    def running(self) -> int:
        """Jobs on a node, on the CPU worker, or being compared."""
        return len(self.board.jobs) - self.board.queues.size

    # ── jobs ─────────────────────────────────────────────────────────────────────────────────────

    def _submit(self, spec: NewJob, now: float) -> None:
        board, deadline_at = self.board, now + spec.deadline_s
        job = Job(spec, now, deadline_at)
        # Mostly nobody waits, and then one may.
        if (self._draining or board.queues.size) and self._refuse(job, now):
            return
        board.jobs[spec.job_id] = job
        timers = board.timers
        if spec.priority == "interactive":
            timers.arm_deadline(deadline_at, spec.job_id)
        else:
            timers.arm(deadline_at, spec.job_id)
        demand = self.placement.demand[spec.digest]
        demand.add(spec.tokens, now)
        self.checking.asked(job)
        self.placing.place(job, now, fresh=True)

    def _refuse(self, job: Job, now: float) -> bool:
        """Fail a job that may not wait; False where it may."""
        board, most = self.board, self.options.max_queued
        if self._draining:
            message = "The server is shutting down."
            board.fail(job, "shutting_down", message, now, retry_after_s=5.0)
            return True
        if board.queues.size >= most:
            message = f"The queue is full: {most} jobs are waiting."
            board.fail(job, "overloaded", message, now, retry_after_s=2.0)
            return True
        own = board.queues.by_project.get(job.spec.project_id, 0)
        share = max(1, int(most * self.options.project_share))
        if own >= share:
            message = f"{own} jobs of this project are waiting; {share} may wait at once."
            board.fail(job, "overloaded", message, now, retry_after_s=2.0)
            return True
        return False

    # ── nodes ────────────────────────────────────────────────────────────────────────────────────

    def _join(self, event: ev.NodeJoined, now: float) -> None:
        standing, recalled = self.checking.records.join(event.identity, event.runtime)
        node = Node(
            event.node_id,
            event.trusted,
            event.memory_mb,
            joined_at=now,
            last_frame_at=now,
            standing=standing,
            recalled=recalled,
            network=event.network,
            region=event.region,
            rtt_guess_s=guessed_rtt_s(event.distance_km),
            data_saver=event.data_saver,
            cached=event.cached,
        )
        if not event.trusted:
            self.checking.records.resume(node)
        self.board.add_node(node)
        if event.trusted:
            self.outcomes.workers_changed(now)
        else:
            self.checking.records.relevel(node, now)
            if event.node_id not in self.board.nodes:
                return  # banned: shown the door
            self.placement.joined(node, now)
        self._liveness.watch(event.node_id, now=now)
        # The first pong gives the round trip before the first job.
        self.board.effects.append(fx.SendPing(event.node_id))

    def _shown(self, event: ev.EvidenceShown, now: float) -> None:
        self._heard(ev.NodeHeard(event.node_id), now)
        self.checking.showing.settle(event.node_id, event.attempt_id, event.evidence, now)

    def _heard(self, event: ev.NodeHeard, now: float) -> None:
        node = self.board.nodes.get(event.node_id)
        if node is None:
            return
        node.last_frame_at = now
        if event.rtt_s is not None:
            # A minimum, since noise only adds to a round trip; it drifts up to notice a move.
            known = event.rtt_s if node.rtt_s is None else node.rtt_s * 1.1 + 0.001
            node.rtt_s = min(event.rtt_s, known)
        elif not node.stale and not node.late:
            return
        node.stale = node.late = False
        self.board.changed(node, now)

    def _node_changed(
        self,
        event: ev.ModelLoading | ev.ModelReady | ev.ModelLost | ev.CapacityChanged,
        now: float,
    ) -> None:
        node = self.board.nodes.get(event.node_id)
        if node is None:
            return
        match event:
            case ev.ModelLoading():
                self.board.loading(node, event.digest, now=now)
            case ev.ModelReady():
                took_s = now - node.load_began_at
                size_bytes = self.board.models[event.digest].size_bytes
                if node.loading and event.digest not in node.cached and took_s > 0:
                    # Calibration is part of it: a cautious figure, and one that is measured.
                    node.download_bytes_per_s = size_bytes / took_s
                    node.cached = (*node.cached, event.digest)
                claimed = event.tokens_per_s
                speed = self.checking.records.believable(node, event.digest, claimed)
                self.board.gain_model(node, event.digest, speed, now)
                self.checking.school(node, now)
                self.placement.settle(node, now)
            case ev.ModelLost():
                self.board.lose_model(node, event.digest)
                self.board.changed(node, now)
                self.placement.settle(node, now)
            case ev.CapacityChanged():
                if event.state != node.state:
                    changed_state(node, event.state)
                node.slots, node.state, node.reason = event.slots, event.state, event.reason
                self.board.changed(node, now)
                self.checking.school(node, now)

    def _node_ordered(self, event: ev.NodeOrdered, now: float) -> None:
        node = self.board.nodes.get(event.node_id)
        if node is None or node.trusted:
            return
        node.draining = event.order == "drain"
        self.board.changed(node, now)

    # ── time ─────────────────────────────────────────────────────────────────────────────────────

    def _expire(self, now: float) -> None:
        while (due := self.board.timers.due(now)) is not None:
            if isinstance(due, Attempt):
                self.outcomes.due(due, now)
            elif isinstance(due, Node):
                self.checking.showing.find_owing(now)
                self.board.changed(due, now)
                self.checking.school(due, now)
            elif due.deadline_at <= now:
                message = f"Nobody answered within {due.spec.deadline_s:g} s."
                again_s = self.placing.admission.backlog_s(due)
                self.board.fail(due, "deadline_exceeded", message, now, retry_after_s=again_s)
            elif (
                due.waits_in is not None
                and not due.cloud_only
                and self.placing.worker_will_come(due)
            ):
                # The edge had its time; the CPU worker takes what is still queued.
                due.cloud_only = True
                self.board.queues.remove(due)
                self.placing.place(due, now)

    def _tick(self, now: float) -> None:
        probes, lost = self._liveness.tick(now=now)
        self.board.effects.extend(fx.SendPing(node_id) for node_id in probes)
        for node_id, silent_s in lost:
            reason = f"silent for {silent_s:.0f} s"
            jobs_done = self.board.nodes[node_id].jobs_done
            close = fx.CloseNode(node_id, CloseCode.TIMEOUT, reason, jobs_done)
            self.board.effects.append(close)
            self.outcomes.leave(node_id, "silence", now)
        self.placement.tick(now)
        self.checking.tick(now)

    def _probe_silent(self, now: float) -> None:
        """Ask nodes that were found silent when a job could have used them."""
        for node in self.placing.silent:
            node.stale = True
            self.board.changed(node, now)
            if self._liveness.may_probe(node, now=now):
                self.board.effects.append(fx.SendPing(node.node_id))
        self.placing.silent.clear()
