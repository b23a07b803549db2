"""What must hold whatever happens. `Laws` keeps books of its own from what goes over the wires and
compares them with the scheduler's: after every event for what the event touched, and in full every
`FULL_EVERY` events.

    1  an accepted job gets one answer, or one error that is true, by its deadline plus grace
    2  a node never holds more attempts than the slots it offered; both books hold the same ones
    3  an answer is one that the named node sent for this very job; the worker's is always right
    4  of a node that audits have not shown to be honest only what was compared and agreed is
       delivered; with ``verify: always`` of anybody; a disagreement with the worker ends trust
    5  a text goes only where its project's rules let it go
    6  charges and credits balance; an answer is charged once
    7  what waits is bounded
    8  a trusted node's answers are audited at about the share the policy promises, and hedges stay
       within their budget
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from bench.fleet import truth
from bench.fleet.books import Decider, Given, Key, Peer, Recent, Record
from bench.fleet.ledger import Ledger, LedgerError
from bench.fleet.outcome import Outcome, Tally
from browser_node.agreement import Verdict
from browser_node.protocol import AttemptId, JobItem, NodeId
from orchestrator.domain import effects as fx
from orchestrator.domain import events as ev
from orchestrator.domain import trust
from orchestrator.domain.model import Answered, Attempt, JobFailure, JobId, NewJob, Rules
from orchestrator.domain.trust import Policy, Standing

FULL_EVERY: Final = 10_000
GRACE_S: Final = 1.0
_BURST: Final = 64
_HEDGES_AT_ONCE: Final = 10


class InvariantBroken(AssertionError):
    """A law is broken. The message names law, scenario, seed and virtual time."""


class Laws:
    def __init__(
        self,
        *,
        policy: Policy,
        rules: Mapping[str, Rules],
        max_queued: int,
        project_share: float,
        hedge_share: float,
        worker_wanted: bool,
        outcome: Outcome,
    ) -> None:
        self._policy = policy
        self._rules = rules
        self._max_queued = max_queued
        self._most_of_project = max(1, int(max_queued * project_share))
        self._hedge_share = hedge_share
        self._worker_wanted = worker_wanted
        self._outcome = outcome
        self.ledger = Ledger()
        self.open: dict[JobId, Record] = {}
        self.peers: dict[NodeId, Peer] = {}
        self.shadow: dict[Key, Standing] = {}
        self.wrong_by: dict[Key, int] = {}
        self._attempts: Recent[AttemptId, Given] = Recent()
        self._answers: Recent[tuple[str, bytes], Peer] = Recent()
        self._touched: set[NodeId] = set()
        self._owed: Key | None = None
        self._audits_due = 0.0
        self._audits_made = 0
        self._hedges = self._at_tabs = 0
        self._lives = 1
        self._submitting = False
        self._queued = 0
        self.now = 0.0
        self.clock = 0.0

    # ── what happens ─────────────────────────────────────────────────────────────────────────────

    def joined(self, peer: Peer) -> None:
        self.peers[peer.node_id] = peer

    def left(self, node_id: NodeId) -> None:
        self.peers[node_id].leave()

    def restarted(self) -> None:
        """A new scheduler starts with nothing; what was in flight has been told to customers."""
        for peer in self.peers.values():
            peer.leave()
        self._lives += 1
        self.open.clear()
        self._touched.clear()
        self._owed = None

    def submitted(self, jobs: tuple[NewJob, ...]) -> None:
        for job in jobs:
            due, clock_due = self.now + job.deadline_s, self.clock + job.deadline_s
            self.open[job.job_id] = Record(job, due, clock_due)

    def before(self, event: ev.Event) -> None:
        """Note what the scheduler is about to be told."""
        match event:
            case ev.JobsSubmitted():
                self._submitting = True
            case ev.AttemptsFinished():
                self._touched.add(event.node_id)
                peer = self.peers[event.node_id]
                for result in event.results:
                    self._answered(peer, result)
            case ev.AttemptFailed():
                self._touched.add(event.node_id)
                self.peers[event.node_id].held.discard(event.attempt_id)
            case ev.CapacityChanged():
                self.peers[event.node_id].slots = event.slots
            case ev.JobsCancelled():
                for job_id in event.job_ids:
                    self.open.pop(job_id, None)
            case ev.NodeLeft():
                self.left(event.node_id)
            case _:
                pass

    def _answered(self, peer: Peer, result: ev.Finished) -> None:
        given = self._attempts.get(result.attempt_id)
        if given is None or given.node_id != peer.node_id:
            return
        self._answers.put((given.text, result.output), peer)
        if result.attempt_id in peer.held:
            peer.held.discard(result.attempt_id)
            if given.record is not None:
                given.record.results.append((peer.node_id, result.output))

    def judging(self, compare: fx.Compare, verdict: Verdict) -> None:
        """A comparison's outcome is about to be told to the scheduler."""
        text, output = compare.task.input, compare.answer.output
        peer = self._answers.get((text, output))
        if peer is None:
            raise InvariantBroken(f"an answer to {text[:20]!r} is compared that nobody gave")
        job_id = JobId(text.split(" ", 1)[0])
        record = self.open.get(job_id)
        if verdict.agrees and record is not None:
            record.agreed.update((output, compare.trusted.output))
        if compare.trusted.output != truth.pack(truth.vector_of(text)):
            other = self._answers.get((text, compare.trusted.output))
            if other is None or other.key[0] == peer.key[0]:
                raise InvariantBroken(f"the answer to {text[:20]!r} is compared with no other's")
            return
        tally = self._tally(peer)
        tally.audited += 1
        standing = self.standing(peer.key)
        if verdict.agrees:
            trust.agreed(standing, real=job_id[:1].isdigit())
        else:
            tally.caught += 1
            trust.disagreed(standing, verdict.reason)
            if self._policy.trust_after:
                self._owed = peer.key
        if peer.conduct.honest:
            self._outcome.honest_audits += 1
            self._outcome.honest_flagged += not verdict.agrees

    # ── what the scheduler does ──────────────────────────────────────────────────────────────────

    def sent(self, effect: fx.SendJobs, attempts: Mapping[AttemptId, Attempt]) -> None:
        peer = self.peers[effect.node_id]
        self._touched.add(peer.node_id)
        for item in effect.items:
            attempt_id = AttemptId(item.attempt_id)
            job_id, project = self._allowed(peer, item)
            record = self.open.get(job_id)
            if record is not None:
                record.sent += 1
            elif project is not None and not peer.cpu and not self._rules[project].replays:
                raise InvariantBroken(f"text of {project!r} is replayed against its rules")
            self._attempts.put(attempt_id, Given(peer.node_id, item.input, record))
            peer.held.add(attempt_id)
            purpose = attempts[attempt_id].purpose
            self._hedges += purpose == "hedge"
            self._at_tabs += not peer.cpu
            if purpose == "audit" or (purpose == "replay" and self._level(peer.key) == "trusted"):
                self._audits_made += 1
        allowed = self._hedge_share * self._at_tabs + _HEDGES_AT_ONCE * self._lives
        if self._hedges > allowed:
            raise InvariantBroken(f"{self._hedges} hedges were started, {allowed:.0f} may be")
        if len(peer.held) > peer.slots or not peer.here:
            raise InvariantBroken(
                f"{peer.node_id} was given {len(peer.held)} attempts for {peer.slots} slots"
            )

    def _allowed(self, peer: Peer, item: JobItem) -> tuple[JobId, str | None]:
        """Return job and project of a customer's text; raises when it must not be at ``peer``."""
        words = item.input.split(" ", 2)
        job_id = JobId(words[0])
        if not job_id[:1].isdigit():
            return job_id, None
        project = words[1]
        rules = self._rules[project]
        if peer.cpu:
            return job_id, project
        if rules.placement == "cloud":
            raise InvariantBroken(f"text of {project!r}, which demands the cloud, is at a tab")
        if not peer.region.startswith(rules.region):
            raise InvariantBroken(
                f"text of {project!r}, which demands {rules.region}, is in {peer.region}"
            )
        if rules.placement == "trusted" and self._level(peer.key) != "trusted":
            raise InvariantBroken(f"text of {project!r} is at {peer.node_id}, which is not trusted")
        return job_id, project

    def cancelled(self, effect: fx.SendCancel) -> None:
        self._touched.add(effect.node_id)
        self.peers[effect.node_id].held.difference_update(effect.attempt_ids)

    def delivered(self, answer: Answered) -> Record:
        """Check an answer; returns the record it closes."""
        record = self.open.pop(answer.job_id, None)
        if record is None:
            raise InvariantBroken(f"job {answer.job_id} is answered and was not open")
        peer = self.peers[answer.node_id]
        if (answer.node_id, answer.output) not in record.results:
            raise InvariantBroken(
                f"job {answer.job_id} gets an answer that {answer.node_id} did not give to it"
            )
        if (answer.place == "cloud") != peer.cpu:
            raise InvariantBroken(f"job {answer.job_id} is said to be from the {answer.place}")
        job = record.job
        right = truth.is_right(answer.output, truth.vector_of(job.input))
        if peer.cpu and not right:
            raise InvariantBroken(f"job {answer.job_id}: the worker's answer is wrong")
        if not peer.cpu:
            self._delivered_by_tab(record, peer, answer, right=right)
        try:
            identity = None if peer.cpu else peer.key[0]
            self.ledger.charge(job.job_id, job.project_id, tokens=job.tokens, identity=identity)
        except LedgerError as error:
            raise InvariantBroken(str(error)) from error
        return record

    def _delivered_by_tab(
        self, record: Record, peer: Peer, answer: Answered, *, right: bool
    ) -> None:
        job = record.job
        compared = answer.output in record.agreed
        always = job.rules.verify == "always"
        if not compared and (always or self._level(peer.key) != "trusted"):
            what = "right" if right else "wrong"
            raise InvariantBroken(
                f"job {job.job_id} gets {peer.node_id}'s answer ({what}) without a comparison; it "
                f"is a {self._level(peer.key)}, verify: {job.rules.verify}"
            )
        if not compared:
            share = trust.audit_share(self.standing(peer.key), self._policy)
            self._audits_due += share
        tally = self._tally(peer)
        tally.delivered += 1
        if not right:
            tally.wrong += 1
            tally.wrong_always += always
            self._outcome.wrong_delivered += 1
            self.wrong_by[peer.key] = self.wrong_by.get(peer.key, 0) + 1
            tally.most_wrong_per_identity = max(
                tally.most_wrong_per_identity, self.wrong_by[peer.key]
            )

    def failed(self, failure: JobFailure, scheduler: Decider) -> Record:
        """Check that an error is the job's only end and true; returns the record it closes."""
        record = self.open.pop(failure.job_id, None)
        if record is None:
            raise InvariantBroken(f"job {failure.job_id} fails and was not open")
        true = False
        match failure.code:
            case "deadline_exceeded":
                true = self.clock >= record.clock_due_at - 1e-6
            case "overloaded":
                # The event may have had more jobs, and room may have come since.
                own = scheduler.board.queues.by_project.get(record.job.project_id, 0)
                true = scheduler.queued + _BURST >= self._max_queued
                true = true or own + _BURST >= self._most_of_project
            case "invalid_input":
                true = record.job.input.endswith((truth.REFUSED, truth.DEADLY))
            case "internal_error":
                true = record.sent >= 3
            case "no_capacity":
                # Nobody is there, or nobody could answer before the deadline.
                late = "cpu_worker_busy" in (failure.skipped or {})
                true = not self._worker_wanted or late
            case "shutting_down":
                true = False
        if not true:
            raise InvariantBroken(
                f"job {failure.job_id} fails with {failure.code}, which is not true: "
                f"{failure.message}"
            )
        return record

    def changed(self, effect: fx.StandingChanged) -> None:
        standing = effect.standing
        key = (standing.identity, standing.runtime)
        if key == self._owed and effect.after != "trusted":
            self._owed = None
        if effect.after == "trusted" and self._level(key) != "trusted":
            mine = self.standing(key)
            raise InvariantBroken(
                f"{key[0][:8]} becomes trusted after {mine.consecutive} agreed audits in a row, "
                f"{mine.real} on customers' texts, {mine.strikes} strikes"
            )

    # ── checks ───────────────────────────────────────────────────────────────────────────────────

    def after(self, scheduler: Decider) -> None:
        """Check what one event touched."""
        nodes = scheduler.board.nodes
        for node_id in self._touched:
            node = nodes.get(node_id)
            held = self.peers[node_id].held
            if (0 if node is None else len(node.attempts)) != len(held):
                mine = sorted(held)
                theirs = [] if node is None else sorted(node.attempts)
                raise InvariantBroken(f"{node_id} holds {mine}, the scheduler has {theirs}")
        self._touched.clear()
        if self._owed is not None:
            raise InvariantBroken(
                f"{self._owed[0][:8]} disagreed with the worker and stays trusted"
            )
        queued = scheduler.queued
        # What was running may come back to a full queue; nothing new may be let in.
        if queued > self._max_queued and self._submitting and queued > self._queued:
            raise InvariantBroken(f"{queued} jobs wait, {self._max_queued} may")
        self._queued, self._submitting = queued, False
        self._outcome.peak_queued = max(self._outcome.peak_queued, queued)
        if self.open:
            first = next(iter(self.open.values()))
            if first.due_at + GRACE_S < self.now:
                late_s = self.now - first.due_at
                raise InvariantBroken(f"job {first.job.job_id} has no end {late_s:.1f} s too late")

    def full(self, scheduler: Decider) -> None:
        """Compare the books in full."""
        self._outcome.full_checks += 1
        board = scheduler.board
        here = {node_id for node_id, peer in self.peers.items() if peer.here}
        if here != board.nodes.keys():
            raise InvariantBroken(f"nodes {sorted(here ^ board.nodes.keys())} are in one book only")
        held = {attempt_id for node_id in here for attempt_id in self.peers[node_id].held}
        if held != board.attempts.keys():
            raise InvariantBroken(
                f"attempts {sorted(held ^ board.attempts.keys())} are in one book only"
            )
        if self.open.keys() != board.jobs.keys():
            raise InvariantBroken(
                f"jobs {sorted(self.open.keys() ^ board.jobs.keys())} are in one book only"
            )
        for node_id in here:
            node = board.nodes[node_id]
            if node.attempts.keys() != self.peers[node_id].held:
                raise InvariantBroken(f"{node_id} holds other attempts than the scheduler thinks")
            if node.outstanding_tokens != sum(a.tokens for a in node.attempts.values()):
                raise InvariantBroken(f"{node_id} has {node.outstanding_tokens} tokens outstanding")
            background = sum(a.tokens for a in node.attempts.values() if a.background)
            if node.background_tokens != background:
                raise InvariantBroken(f"{node_id} has {node.background_tokens} background tokens")
        for fault in self.ledger.faults():
            raise InvariantBroken(fault)
        for record in self.open.values():
            if record.due_at + GRACE_S < self.now:
                raise InvariantBroken(f"job {record.job.job_id} has no end")

    def settled(self, *, answered: int, audits_dropped: int) -> None:
        """Check the end of a run: nothing is open, every answer is paid for, audits were made."""
        if self.open:
            raise InvariantBroken(f"jobs without an end: {sorted(self.open)[:5]}")
        if self.ledger.charges != answered:
            raise InvariantBroken(f"{self.ledger.charges} charges for {answered} answers")
        # A restart loses what is under way, a slow worker leaves some for later.
        made = self._audits_made + audits_dropped
        if made < 0.7 * self._audits_due - 3 * self._audits_due**0.5:
            raise InvariantBroken(f"{made} audits were made, {self._audits_due:.0f} were due")

    # ── records ──────────────────────────────────────────────────────────────────────────────────

    def standing(self, key: Key) -> Standing:
        """Return the record of an identity as these books have it."""
        found = self.shadow.get(key)
        if found is None:
            found = self.shadow[key] = Standing(*key)
        return found

    def _level(self, key: Key) -> trust.Level:
        return trust.level(self.standing(key), self._policy)

    def _tally(self, peer: Peer) -> Tally:
        return self._outcome.tallies.setdefault(peer.behaviour, Tally())
