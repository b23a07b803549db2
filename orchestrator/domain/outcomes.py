"""What follows when an attempt ends, and when a node goes or is believed no more.

progressed   a piece of an answer is relayed, where the answer may be delivered unseen
answered     delivered, held until it was compared, or compared only (`Purpose`)
not answered its job moves on: `cover` sees to it that something whose answer may be delivered
             is under way, waiting or being compared
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from typing import Final

from browser_node.protocol import HANDED_BACK, Answer, CloseCode, NodeId
from orchestrator.domain import effects as fx
from orchestrator.domain import events as ev
from orchestrator.domain.board import Board
from orchestrator.domain.checking import Checking, claim_of
from orchestrator.domain.leases import extended_at, kept
from orchestrator.domain.model import Attempt, Cause, Claim, Held, Job, Node
from orchestrator.domain.placement import Placement
from orchestrator.domain.placing import MAX_CLOUD_ATTEMPTS, Placing
from orchestrator.domain.speeds import observe

FAILURE_BACKOFF_S: Final = 15.0
HANDED_BACK_PAUSE_S: Final = 1.0
MAX_BACKOFF_EXPONENT: Final = 8
SPEAKING_LEASE_S: Final = 3.0
HEDGE_AGAIN_S: Final = 0.25
OVERDUE_S: Final = 0.5


class Outcomes:
    def __init__(
        self, board: Board, *, placing: Placing, checking: Checking, placement: Placement
    ) -> None:
        self.board = board
        self.placing = placing
        self.checking = checking
        self.placement = placement
        self.left_out: list[tuple[float, NodeId]] = []  # a heap of nodes and until when
        # Whether the second's budget of probes has one for a node.
        self.may_probe: Callable[..., bool] = lambda node, *, now: False

    # ── answers ──────────────────────────────────────────────────────────────────────────────────

    def answered(
        self, job: Job, node: Node, answer: Answer | Claim, compute_s: float, now: float
    ) -> None:
        """Deliver an answer; what else runs for the job is taken back, or held against it."""
        board = self.board
        others = [board.attempts[attempt_id] for attempt_id in job.live] if job.live else []
        job.live.clear()
        board.deliver(job, node, answer, compute_s, now)
        if isinstance(answer, Claim):
            for attempt in others:
                board.cancel(attempt, now)
            return
        for attempt in others:
            if attempt.purpose == "trial":
                # It goes on, as a task whose right answer is known by now.
                attempt.job_id = None
                attempt.purpose = "replay"
                attempt.known = answer
                attempt.real = attempt.subject is not None and attempt.subject.real
                continue
            self.checking.expect_late(attempt, known=answer, job=job)
            board.cancel(attempt, now)
        ended, held = job.ended or (), job.held or ()
        for attempt in ended:
            self.checking.expect_late(attempt, known=answer, job=job)
        for one in held:
            self.checking.against(one, job, answer, now)
        subjects = [one.subject for one in (*others, *ended, *held)]
        seen = {subject.standing.identity for subject in subjects if subject is not None}
        self.checking.cloud_answered(job, answer, seen, now)

    def finished(self, event: ev.AttemptsFinished, now: float) -> None:
        board = self.board
        node = board.nodes.get(event.node_id)
        if node is not None:
            # Not by an event of its own: this is the path every answer takes.
            node.last_frame_at = now
            unheard = node.stale or node.late
            node.stale = node.late = False
        known: list[tuple[ev.Finished, Attempt]] = []
        for result in event.results:
            # Released one by one, so that the same attempt twice in a frame counts once.
            attempt = node.attempts.get(result.attempt_id) if node is not None else None
            if attempt is None:
                board.counters.late_results += 1
                self.checking.late(event.node_id, result, now)
                continue
            known.append((result, attempt))
            board.release(attempt, "answered", now, regroup=False)
        if node is None:
            return
        if not known:
            if unheard:
                board.changed(node, now)
            return
        observe(node, [attempt for _, attempt in known], now)
        for _, attempt in known:
            speed = node.speeds.get(attempt.digest)
            if speed is not None:
                kept(speed, attempt, now)
        if node.consecutive_failures or node.retry_at:
            node.consecutive_failures, node.retry_at = 0, 0.0
        node.jobs_done += len(known)
        board.changed(node, now)
        for result, attempt in known:
            self._result(node, attempt, result, now)
        if not node.trusted and not node.attempts:
            self.placement.settle(node, now)

    def _result(self, node: Node, attempt: Attempt, result: ev.Finished, now: float) -> None:
        board = self.board
        if attempt.job_id is None:
            self.checking.result(attempt, _answer(node, result, now), now)
            return
        job = board.jobs.get(attempt.job_id)
        if job is None:
            # Answered by what came before it in the same frame.
            board.counters.late_results += 1
            return
        if attempt.purpose == "trial":
            claim = claim_of(node.node_id, result, now)
            self._trial_result(job, attempt, claim, result.compute_s, now)
            return
        if not node.trusted:
            answer = claim_of(node.node_id, result, now)
            trailing = [board.attempts[other] for other in job.live] if job.live else ()
            self.answered(job, node, answer, result.compute_s, now)
            for other in trailing:
                if other.purpose == "hedge" and attempt.subject is not None:
                    self.checking.expect_late_audit(
                        other, subject=attempt.subject, claimed=answer, job=job
                    )
            self.checking.edge_answered(job, node, answer, result.trait, now)
            return
        trusted = Answer(output=result.output, evidence=result.evidence)
        accuser = board.nodes.get(job.accuser) if job.accuser is not None else None
        if accuser is not None:
            # The input was fine: whoever blamed it to be rid of the work pays for that.
            self._penalise(accuser, now)
        # Its text was relayed already: the trial's may agree with it and yet be worded otherwise.
        begun = job.relayed == attempt.attempt_id
        if (
            job.held
            and len(job.held) == 1
            # For what is still to be shown nobody waits.
            and not job.held[0].answer.pending
            and job.spec.rules.verify == "adaptive"
            and not begun
        ):
            held = job.held.pop()
            self.checking.trial(job, held, node, trusted, result.compute_s, now)
            return
        self.answered(job, node, trusted, result.compute_s, now)

    def progressed(self, event: ev.AttemptProgressed, now: float) -> None:
        """Relay a piece of an answer that may be delivered unseen; the first decides for it."""
        board = self.board
        node = board.nodes.get(event.node_id)
        if node is None:
            return
        node.last_frame_at = now
        if node.stale or node.late:
            node.stale = node.late = False
            board.changed(node, now)
        attempt = node.attempts.get(event.attempt_id)
        if attempt is None or attempt.job_id is None or attempt.purpose == "trial":
            return
        # It speaks, so it works: the lease counts from its last word. The job's deadline stays.
        attempt.lease_at = max(attempt.lease_at, now + SPEAKING_LEASE_S)
        attempt.hard_at = max(attempt.hard_at, attempt.lease_at)
        job = board.jobs[attempt.job_id]
        if job.relayed != attempt.attempt_id:
            job.relayed = attempt.attempt_id
            self._settle_on(job, attempt, now)
        board.effects.append(fx.Progressed(job.spec.job_id, attempt.attempt_id, event.text))

    def _settle_on(self, job: Job, chosen: Attempt, now: float) -> None:
        """Take back what else could have been delivered: two texts cannot be made one."""
        for attempt_id in list(job.live):
            other = self.board.attempts[attempt_id]
            if other is chosen or other.purpose == "trial":
                continue
            if other.subject is not None:
                # It may answer yet: too late to be delivered, in time to be compared.
                job.ended = [*(job.ended or ()), other][-4:]
            self.board.cancel(other, now)

    def _trial_result(
        self, job: Job, attempt: Attempt, answer: Claim, compute_s: float, now: float
    ) -> None:
        """Hold a trial's answer until there is another to compare it with."""
        if attempt.subject is None:
            return
        # Now, so that it is there by then: a customer waits for the comparison.
        self.checking.showing.ask(answer, now)
        job.held = [*(job.held or ()), Held(attempt.subject, answer, compute_s)]
        if job.spec.rules.verify == "always" and len(job.held) == 2 and not job.cloud_only:
            first, second = job.held
            self.checking.pair(job, first, second, now)
        else:
            self._cover(job, now)

    def _cover(self, job: Job, now: float) -> None:
        """See to it that something of which the answer may be delivered is under way."""
        if job.waits_in is not None or job.judging:
            return
        purposes = [self.board.attempts[attempt_id].purpose for attempt_id in job.live]
        if "serve" in purposes or "hedge" in purposes:
            return
        pair = job.spec.rules.verify == "always" and not job.cloud_only
        if pair and len(purposes) + len(job.held or ()) >= 2:
            return
        if purposes or job.held:
            self._to_worker(job)
        self.placing.place(job, now)

    def unpaired(self, job: Job, now: float) -> bool:
        """One of a pair is slow to show its evidence: the CPU worker answers, if one will come."""
        if not self.placing.worker_will_come(job):
            return False
        job.judging, job.cloud_only = False, True
        self.placing.place(job, now)
        return True

    def _to_worker(self, job: Job) -> None:
        """Leave the rest of ``job`` to the CPU worker, if there is one or will be."""
        job.cloud_only = job.cloud_only or self.placing.worker_will_come(job)

    def failed(self, event: ev.AttemptFailed, now: float) -> None:
        node = self.board.nodes.get(event.node_id)
        attempt = node.attempts.get(event.attempt_id) if node is not None else None
        if node is None or attempt is None:
            return
        if event.code == HANDED_BACK:
            if node.state == "active":
                # It says that it works and does not: a moment for others before it is asked again.
                self._leave_out(node, max(node.retry_at, now + HANDED_BACK_PAUSE_S), now)
            self._end(attempt, "handed_back", now)
            return
        if event.blame != "input":
            self._penalise(node, now)
        elif attempt.job_id is not None:
            job = self.board.jobs[attempt.job_id]
            if node.trusted:
                self.board.release(attempt, "failed", now)
                message = event.message or "The model could not process this input."
                self.board.fail(job, "invalid_input", message, now)
                return
            # A stranger's word alone must not fail a customer: the CPU worker decides.
            self._to_worker(job)
            job.accuser = node.node_id
        self._end(attempt, "failed", now)
        if not node.trusted and event.blame == "node":
            # Last, as it may cost the node its trust, and then everything else it holds moves.
            self.checking.records.erred(node, now)

    def _penalise(self, node: Node, now: float) -> None:
        """Count a failure and leave the node out for a while: 15 s × 2ⁿ, cleared by success."""
        node.failures += 1
        node.consecutive_failures += 1
        if not node.trusted:
            exponent = min(node.consecutive_failures - 1, MAX_BACKOFF_EXPONENT)
            self._leave_out(node, now + FAILURE_BACKOFF_S * 2**exponent, now)

    def _leave_out(self, node: Node, until: float, now: float) -> None:
        node.retry_at = until
        heapq.heappush(self.left_out, (until, node.node_id))
        self.board.timers.arm(until, node.node_id)
        self.board.changed(node, now)

    def _end(self, attempt: Attempt, cause: Cause, now: float) -> None:
        """End ``attempt`` without an answer; its job moves on."""
        self.board.release(attempt, cause, now)
        if attempt.purpose == "audit":
            self.checking.audits.again(attempt)
        job = self.board.jobs.get(attempt.job_id) if attempt.job_id is not None else None
        if job is not None:
            if attempt.subject is not None:
                # It may answer yet: too late to be delivered, in time to be compared.
                job.ended = [*(job.ended or ()), attempt][-4:]
            self._moved(job, attempt, cause, now)

    def _moved(self, job: Job, attempt: Attempt, cause: Cause, now: float) -> None:
        board = self.board
        board.counters.rerouted += 1
        if (node := board.nodes.get(attempt.node_id)) is not None:
            node.reroutes += 1
        board.effects.append(fx.Rerouted(job.spec.job_id, attempt.node_id, cause))
        if job.cloud_attempts >= MAX_CLOUD_ATTEMPTS and not job.live:
            message = f"The job was given up after {job.attempts} attempts; last cause: {cause}."
            board.fail(job, "internal_error", message, now)
            return
        if attempt.subject is not None and self.placing.retries.credit < 1.0:
            # Trouble everywhere must not multiply the load on the edge.
            self._to_worker(job)
        self._cover(job, now)

    # ── nodes ────────────────────────────────────────────────────────────────────────────────────

    def readmit(self, now: float) -> None:
        """Let nodes back in whose time out is over, whether or not a timer has fired yet."""
        while self.left_out and self.left_out[0][0] <= now:
            node = self.board.nodes.get(heapq.heappop(self.left_out)[1])
            if node is not None:
                self.board.changed(node, now)

    def leave(self, node_id: NodeId, cause: Cause, now: float, *, died: bool = True) -> None:
        node = self.board.nodes.get(node_id)
        if node is None:
            return
        if any(_overdue(attempt, now) for attempt in node.attempts.values()) and not node.stale:
            # To take jobs, stall and come back is to fail.
            self._penalise(node, now)
        if not node.trusted:
            self.checking.records.remember(node)
        self.board.remove_node(node_id)
        self.checking.showing.left(node_id, now)
        if node.trusted:
            self.workers_changed(now)
        for attempt in list(node.attempts.values()):
            job = self.board.jobs.get(attempt.job_id) if attempt.job_id is not None else None
            if died and job is not None:
                # Whichever of them killed it: each is run alone from now on; what has taken the CPU
                # worker down, at once in a process of its own.
                job.deaths = max(job.deaths + 1, 2 if node.trusted else 0)
                job.cloud_only = job.cloud_only or node.trusted
            self._end(attempt, cause, now)

    def workers_changed(self, now: float) -> None:
        """Without a CPU worker nobody is left out for failing: it might be the last one."""
        index = self.board.index
        if index.forgiving != (not self.board.workers):
            index.forgiving = not self.board.workers
            for node in self.board.nodes.values():
                if node.retry_at > now:
                    self.board.changed(node, now)

    def distrusted(self, node: Node, now: float) -> None:
        """What a node believed no more still computes must not be delivered unseen."""
        gone = node.level in ("quarantined", "banned")
        for attempt in list(node.attempts.values()):
            if attempt.job_id is None:
                if gone:
                    self.board.cancel(attempt, now, "distrusted")
                continue
            job = self.board.jobs.get(attempt.job_id)
            if job is None:
                continue  # it ended with what became of another
            self._to_worker(job)
            if gone or not job.cloud_only:
                # There is nobody to compare its answer with.
                self.board.cancel(attempt, now, "distrusted")
                self._moved(job, attempt, "distrusted", now)
            else:
                attempt.purpose = "trial"
                self._cover(job, now)
        if node.level == "banned":
            jobs_done, reason = node.jobs_done, "set aside by the operator"
            close = fx.CloseNode(node.node_id, CloseCode.BANNED, reason, jobs_done)
            self.board.effects.append(close)
            self.leave(node.node_id, "closed", now, died=False)
        elif gone:
            text = "Answers of this device did not match ours, so it gets no work for now."
            self.board.effects.append(fx.Tell(node.node_id, text))

    # ── time ─────────────────────────────────────────────────────────────────────────────────────

    def due(self, attempt: Attempt, now: float) -> None:
        node = self.board.nodes[attempt.node_id]
        if attempt.hedge_at <= now:
            self._late(node, now)
            self._hedge(attempt, now)
        lease_at = extended_at(attempt, node)
        if lease_at > now:
            self.board.timers.arm(min(lease_at, attempt.hedge_at), attempt.attempt_id)
            return
        if not node.stale:
            # Once a stall, however many leases it ends.
            node.stale = True
            self._penalise(node, now)
        self.board.effects.append(fx.SendCancel(node.node_id, (attempt.attempt_id,)))
        if self.may_probe(node, now=now):
            self.board.effects.append(fx.SendPing(node.node_id))
        self._end(attempt, "lease", now)

    def _late(self, node: Node, now: float) -> None:
        """Give the node nothing more until it is heard of: it may have stalled."""
        if not node.late and not node.stale:
            node.late = True
            self.board.changed(node, now)
            if self.may_probe(node, now=now):
                self.board.effects.append(fx.SendPing(node.node_id))

    def _hedge(self, attempt: Attempt, now: float) -> None:
        """Start a late job on the CPU worker too; the later it is, the more that may cost."""
        job = self.board.jobs.get(attempt.job_id) if attempt.job_id is not None else None
        late_s = now - attempt.started_at
        wanted = job is not None and attempt.purpose in ("serve", "trial")
        if job is None or not wanted or self.placing.hedge(job, now, urgent=attempt.overdue):
            attempt.hedge_at = math.inf
        elif attempt.overdue:
            attempt.hedge_at = now + HEDGE_AGAIN_S
        else:
            attempt.overdue = True
            attempt.hedge_at = now + late_s

    def forgive(self, late_s: float, now: float) -> None:
        """Leases and silences do not run while this process does not."""
        self.checking.showing.forgive(late_s)
        for attempt in self.board.attempts.values():
            attempt.lease_at += late_s
            attempt.hard_at += late_s
            attempt.hedge_at += late_s
            self.board.timers.arm(min(attempt.lease_at, attempt.hedge_at), attempt.attempt_id)
        for node in self.board.nodes.values():
            node.last_frame_at = min(node.last_frame_at + late_s, now)
            node.probed_at = min(node.probed_at + late_s, now)


def _answer(node: Node, result: ev.Finished, now: float) -> Answer | Claim:
    if node.trusted:
        return Answer(output=result.output, evidence=result.evidence)
    return claim_of(node.node_id, result, now)


def _overdue(attempt: Attempt, now: float) -> bool:
    """Whether the node took clearly longer than it said it would."""
    late_s = now - attempt.started_at - 2 * attempt.expected_s
    return not attempt.background and late_s > OVERDUE_S
