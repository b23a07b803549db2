"""Trust at work: which answers are compared with which, and what follows for the node's record.

    replay   a task whose right answer is known is put to a node like any job
    audit    the CPU worker repeats, behind the answer, what a trusted node answered
    trial    a newcomer and the CPU worker answer the same job; the customer gets the first safe one
    pair     two trusted nodes answer the job of a project that demands it; the CPU worker decides
             when they differ
    late     what comes after its lease, or after a hedge, is compared too

Every comparison is an effect, as it takes longer than a placement; its outcome comes as an event.

A stranger's answer comes with a commitment to its evidence, which is asked for once the answer is
to be compared: it cannot be changed by then. Who does not show it, by leaving for example, is
judged by its output alone. Honest runtimes differ in its last digits: it is wrong only where it
says something else (`shapes.trait_of`), and where that is not known it counts (`trust.unshown`).
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Literal, NamedTuple

import msgspec

from browser_node.protocol import Answer, AttemptId, ModelDigest, NodeId, Task
from orchestrator.domain import effects as fx
from orchestrator.domain import events as ev
from orchestrator.domain import router, trust
from orchestrator.domain.audits import Audit, Audits
from orchestrator.domain.board import Board
from orchestrator.domain.known import BYTES_KEPT, Known, KnownTexts
from orchestrator.domain.model import Attempt, CheckId, Claim, Held, Job, Node, Subject
from orchestrator.domain.records import Records
from orchestrator.domain.references import References
from orchestrator.domain.showing import Asked, Showing
from orchestrator.domain.suspicion import Traits
from orchestrator.domain.trust import Identity, Policy

LATE_KEPT: Final = 512
REPLAYS_AT_ONCE: Final = 2
# So often an audit is a replay although the CPU worker has time: texts that were never audited
# before the node saw them cannot be told from any other.
REPLAY_SHARE: Final = 0.3

Kind = Literal["audit", "replay", "pair"]


class Check(msgspec.Struct):
    """A comparison under way."""

    kind: Kind
    subject: Subject
    real: bool
    job: Job | None = None
    held: Held | None = None
    cloud: tuple[Node, Answer, float] | None = None
    other: Held | None = None


class _Late(msgspec.Struct):
    """What a result that comes too late is held against: the right answer, or a stranger's."""

    node_id: NodeId
    task: Task
    subject: Subject
    known: Answer | None = None
    claimed: Claim | None = None


class _Comparison(NamedTuple):
    """Two answers to one task, one of them a stranger's or both."""

    check_id: CheckId
    digest: ModelDigest
    task: Task
    trusted: Answer | Claim
    answer: Claim


class Checking:
    def __init__(
        self,
        board: Board,
        *,
        policy: Policy,
        references: References | None,
        rng: random.Random,
        newcomers_per_network: int,
    ) -> None:
        self._newcomers_per_network = newcomers_per_network
        self._board = board
        self.policy = policy
        self._rng = rng
        self.records = Records(board, policy=policy)
        self.records.on_news = self.school
        self._known = KnownTexts(board.models, references=references, policy=policy, rng=rng)
        self._checks: dict[CheckId, Check] = {}
        self._check_number = 0
        self.audits = Audits(board)
        # What answers rest on, asked for; audits and comparisons wait for it.
        self.showing: Showing[Audit | _Comparison] = Showing(
            board, on_settled=self._settled, on_owing=self._owing
        )
        self._late: OrderedDict[AttemptId, _Late] = OrderedDict()
        # The share of customers' jobs that run in the background, of about the last hundred.
        self._background = 0.0
        self._traits: dict[ModelDigest, Traits] = {d: Traits() for d in board.models}
        # Called with an answer that may be delivered, and to place a job anew.
        self.on_answered: Callable[[Job, Node, Answer | Claim, float, float], None] = lambda *_: (
            None
        )
        self.place: Callable[[Job, float], None] = lambda job, now: None
        # Called with a job that waits for what one of its pair does not show; False if it has to.
        self.on_unpaired: Callable[[Job, float], bool] = lambda job, now: False

    # ── newcomers ────────────────────────────────────────────────────────────────────────────────

    def school(self, node: Node, now: float) -> None:
        """Put tasks with known answers to a newcomer until it has shown enough on them."""
        if node.level != "newcomer" or not node.recalled or self.policy.trust_after == 0:
            return
        under_way = sum(attempt.purpose == "replay" for attempt in node.attempts.values())
        while under_way < REPLAYS_AT_ONCE and self._replay(node, now):
            under_way += 1

    def _replay(self, node: Node, now: float) -> bool:
        """Start one replay on a node with room for it; False when there is nothing to put."""
        digests = [d for d, speed in node.speeds.items() if speed.group == "open"]
        self._rng.shuffle(digests)
        real = node.level == "trusted" or node.network not in self._board.full_networks(
            self._newcomers_per_network
        )
        for digest in digests:
            audited = bool(self._board.workers)
            known = self._known.pick(node, digest, audited=audited, real=real)
            # As likely as a customer's job: nothing must tell one from the other.
            background = self._background > 0.0 and self._rng.random() < self._background
            if known is None or not router.has_room(
                node, digest=digest, tokens=known.tokens, background=background
            ):
                continue
            self._known.used(known, digest, node.standing.identity)
            decision = router.explain(
                node,
                digest=digest,
                tokens=known.tokens,
                considered=1,
                skipped={},
                background=background,
            )
            self._board.start(
                node,
                decision,
                digest=digest,
                task=known.task,
                tokens=known.tokens,
                now=now,
                purpose="replay",
                job=None,
                alone=False,
                subject=Subject(node.node_id, node.standing, digest),
                background=background,
                known=known.answer,
                claimed=None,
                real=known.real,
                project_id=None,
                stream=known.stream,
            )
            return True
        return False

    # ── what is answered ─────────────────────────────────────────────────────────────────────────

    def asked(self, job: Job) -> None:
        """A project's newest job says what may be done with its texts."""
        spec, background = job.spec, self._background
        self._known.allow(spec.project_id, allowed=_may_replay(job))
        self._background = background + 0.01 * ((spec.priority == "batch") - background)

    def tick(self, now: float) -> None:
        """Let go of what is old, and wait no longer for what does not come."""
        self._known.expire(now)
        self.showing.tick(now)

    def cloud_answered(self, job: Job, answer: Answer, seen: set[Identity], now: float) -> None:
        """Remember a trusted answer, to put its task to others than have ``seen`` it."""
        if _may_replay(job) and not job.deaths:
            digest, tokens = job.spec.digest, job.spec.tokens
            project_id = job.spec.project_id
            stream = job.spec.stream
            known = Known(_task(job), tokens, answer, seen, project_id, now, stream)
            self._known.remember(digest, known)
            newcomers = self._board.index.fleets[digest].open["newcomer", ""]
            if len(newcomers):
                self.school(newcomers.any(self._rng), now)

    def edge_answered(self, job: Job, node: Node, answer: Claim, trait: int, now: float) -> None:
        """A trusted node's answer was delivered: audit it, or not."""
        spec, digest = job.spec, job.spec.digest
        speed = node.speeds.get(digest)
        suspicious = speed is not None and self._traits[digest].suspicious(
            speed, trait=trait, asked=hash(spec.input)
        )
        share = trust.audit_share(node.standing, self.policy)
        if suspicious and share > 0.0:
            share = 1.0
        if share <= 0.0 or self._rng.random() >= share:
            return
        if not suspicious and self._rng.random() < REPLAY_SHARE and self._replay(node, now):
            return
        if not self._queue_audit(job, Subject(node.node_id, node.standing, digest), answer, now):
            self._replay(node, now)

    def _queue_audit(self, job: Job, subject: Subject, answer: Claim, now: float) -> bool:
        """Have the CPU worker repeat an answer when it has time; False when too many wait."""
        spec = job.spec
        project_id = spec.project_id if _may_replay(job) else None
        audit = Audit(subject, _task(job), spec.tokens, answer, project_id)
        if not self.audits.has_room_for(audit) or not self._board.workers:
            self._board.counters.audits_dropped += 1
            return False
        asked = self.showing.ask(answer, now)
        if asked is None:
            self.audits.add(audit)
        else:
            asked.waiting.append(audit)
            self.audits.coming += 1
        return True

    # ── comparing ────────────────────────────────────────────────────────────────────────────────

    def result(self, attempt: Attempt, answer: Answer | Claim, now: float) -> None:
        """An attempt that no customer waits for was answered."""
        assert attempt.task is not None  # noqa: S101 — every attempt has the task it was given
        assert attempt.subject is not None  # noqa: S101 — so has every replay and audit
        if isinstance(answer, Claim):
            if attempt.known is not None:
                check = Check("replay", attempt.subject, attempt.real)
                self._compare(check, attempt.digest, attempt.task, attempt.known, answer, now)
        elif attempt.claimed is not None:
            check = Check("audit", attempt.subject, real=True)
            self._compare(check, attempt.digest, attempt.task, answer, attempt.claimed, now)
            if attempt.project_id is not None:
                # A repeated text is a known answer, too.
                seen = {attempt.subject.standing.identity}
                task, project_id = attempt.task, attempt.project_id
                known = Known(task, attempt.tokens, answer, seen, project_id, now)
                self._known.remember(attempt.digest, known)

    def against(self, held: Held, job: Job, trusted: Answer, now: float) -> None:
        """Hold a trial's answer against the trusted one; nobody waits for the outcome."""
        check = Check("audit", held.subject, held.subject.real)
        self._compare(check, job.spec.digest, _task(job), trusted, held.answer, now)

    def trial(
        self, job: Job, held: Held, node: Node, answer: Answer, compute_s: float, now: float
    ) -> None:
        """Both answers of a newcomer's trial are here: the outcome says whose is delivered."""
        job.judging = True
        cloud = (node, answer, compute_s)
        check = Check("audit", held.subject, held.subject.real, job, held, cloud)
        self._compare(check, job.spec.digest, _task(job), answer, held.answer, now)

    def pair(self, job: Job, first: Held, second: Held, now: float) -> None:
        """Two trusted nodes have answered the same job."""
        job.judging = True
        check = Check("pair", first.subject, True, job, first, other=second)
        self._compare(check, job.spec.digest, _task(job), second.answer, first.answer, now)

    def expect_late(self, attempt: Attempt, *, known: Answer, job: Job) -> None:
        """A node may still answer what a trusted one has answered meanwhile."""
        subject = attempt.subject
        if subject is not None:
            late = _Late(attempt.node_id, _task(job), subject, known=known)
            self._expect(attempt.attempt_id, late)

    def expect_late_audit(
        self, attempt: Attempt, *, subject: Subject, claimed: Claim, job: Job
    ) -> None:
        """The CPU worker may still answer what a stranger's answer was delivered for."""
        late = _Late(attempt.node_id, _task(job), subject, claimed=claimed)
        self._expect(attempt.attempt_id, late)

    def late(self, node_id: NodeId, result: ev.Finished, now: float) -> None:
        """A result that nobody waits for: it is held against what is known, never delivered."""
        late = self._late.get(result.attempt_id)
        if late is None or late.node_id != node_id:
            return
        del self._late[result.attempt_id]
        digest = late.subject.digest
        check = Check("audit", late.subject, late.subject.real)
        if late.known is not None:
            answer = claim_of(node_id, result, now)
            self._compare(check, digest, late.task, late.known, answer, now)
        elif late.claimed is not None:
            trusted = Answer(output=result.output, evidence=result.evidence)
            self._compare(check, digest, late.task, trusted, late.claimed, now)

    def _expect(self, attempt_id: AttemptId, late: _Late) -> None:
        answer = late.known or late.claimed
        if answer is None or len(answer.output) + len(answer.evidence) > BYTES_KEPT:
            return
        self._late[attempt_id] = late
        while len(self._late) > LATE_KEPT:
            self._late.popitem(last=False)

    def _compare(
        self,
        check: Check,
        digest: ModelDigest,
        task: Task,
        trusted: Answer | Claim,
        answer: Claim,
        now: float,
    ) -> None:
        self._check_number += 1
        check_id = CheckId(self._check_number)
        self._checks[check_id] = check
        comparison = _Comparison(check_id, digest, task, trusted, answer)
        for claim in (trusted, answer):
            if isinstance(claim, Claim) and (asked := self.showing.ask(claim, now)) is not None:
                asked.waiting.append(comparison)
        self._compare_shown(comparison)

    def _compare_shown(self, comparison: _Comparison) -> None:
        """Have two answers compared, unless the evidence of one is still to come."""
        check_id, digest, task, trusted, answer = comparison
        if check_id not in self._checks:
            return  # a pair that was not waited for
        fault = answer.fault
        if isinstance(trusted, Claim):
            if trusted.pending:
                return
            fault = fault or trusted.fault
            ours = Answer(output=trusted.output, evidence=trusted.evidence)
        else:
            ours = trusted
        if answer.pending:
            return
        theirs = Answer(output=answer.output, evidence=answer.evidence)
        self._board.effects.append(fx.Compare(check_id, digest, task, ours, theirs, fault))

    def _owing(self, asked: Asked[Audit | _Comparison], now: float) -> None:
        """Nobody waits for a pair of which one does not show what its answer rests on."""
        for waits in asked.waiting:
            if isinstance(waits, Audit):
                continue
            check = self._checks.get(waits.check_id)
            job = check.job if check is not None and check.kind == "pair" else None
            if (
                job is not None
                and self._board.jobs.get(job.spec.job_id) is job
                and self.on_unpaired(job, now)
            ):
                del self._checks[waits.check_id]

    def _settled(self, asked: Asked[Audit | _Comparison]) -> None:
        """What waited for a claim's evidence goes on, with it or without."""
        claim = asked.claim
        if len(claim.evidence) > BYTES_KEPT:
            kept = ((one, late) for one, late in self._late.items() if late.claimed is not claim)
            self._late = OrderedDict(kept)
        for waits in asked.waiting:
            if not isinstance(waits, Audit):
                self._compare_shown(waits)
                continue
            self.audits.coming -= 1
            if self.audits.has_room_for(waits):
                self.audits.add(waits)
            else:
                self._board.counters.audits_dropped += 1

    def judged(self, event: ev.Judged, now: float) -> None:
        """A comparison is over."""
        check = self._checks.pop(event.check_id, None)
        if check is None:
            return
        if check.kind == "pair":
            self._pair_judged(check, event, now)
            return
        if event.unshown:
            self._count_unshown(check, now)
        elif not event.undecided:
            self._learn(check, event, now)
        job = check.job
        if job is None or check.held is None or check.cloud is None:
            return
        if self._board.jobs.get(job.spec.job_id) is not job:
            return
        stranger = self._board.nodes.get(check.subject.node_id)
        if event.agrees and stranger is not None:
            self.on_answered(job, stranger, check.held.answer, check.held.compute_s, now)
        else:
            node, answer, compute_s = check.cloud
            self.on_answered(job, node, answer, compute_s, now)

    def _pair_judged(self, check: Check, event: ev.Judged, now: float) -> None:
        job, first, second = check.job, check.held, check.other
        if job is None or first is None or second is None:
            return
        if self._board.jobs.get(job.spec.job_id) is not job:
            return
        job.judging = False
        pair = (first, second)
        levels = {trust.level(held.subject.standing, self.policy) for held in pair}
        faults = {held.answer.fault for held in pair if held.answer.fault is not None}
        # A customer who asks for two answers gets none that only looks alike, while there is
        # somebody to ask.
        sound = event.agrees and (not faults or not self._board.workers)
        for held in pair if sound and levels == {"trusted"} else ():
            node = self._board.nodes.get(held.subject.node_id)
            if node is not None:
                self.on_answered(job, node, held.answer, held.compute_s, now)
                break
        else:
            # They differ: the CPU worker answers, and what it says is held against both.
            job.cloud_only = True
            self.place(job, now)
            return
        # Two that answer together know a pair when they see one: they are audited as a pair, too.
        shares = [trust.audit_share(held.subject.standing, self.policy) for held in pair]
        if self._rng.random() < max(shares):
            for held in pair:
                self._queue_audit(job, held.subject, held.answer, now)

    def _count_unshown(self, check: Check, now: float) -> None:
        """An audit had no evidence to go by. Newcomers owe some whenever they leave."""
        standing = check.subject.standing
        if trust.level(standing, self.policy) == "trusted":
            if trust.unshown(standing):
                reason = "what too many of its answers rest on was not shown"
                self._learn(check, ev.Judged(CheckId(0), False, -1.0, reason), now)
            else:
                self.records.changed(standing, "trusted", None, now)

    def _learn(self, check: Check, event: ev.Judged, now: float) -> None:
        standing = check.subject.standing
        before = trust.level(standing, self.policy)
        evidence = None
        if event.agrees:
            trust.agreed(standing, real=check.real)
        else:
            self._board.counters.disagreed += 1
            trust.disagreed(standing, event.reason)
            model_id = self._board.models[check.subject.digest].model_id
            evidence = fx.Evidence(
                check.subject.node_id, model_id, check.kind, event.min_cosine, event.reason
            )
        self.records.changed(standing, before, evidence, now)
        node = self._board.nodes.get(check.subject.node_id)
        if node is not None:
            self.school(node, now)


def claim_of(node_id: NodeId, result: ev.Finished, now: float) -> Claim:
    """Return what a stranger's result claims; its evidence is still to be shown if committed to."""
    commitment = result.commitment
    return Claim(
        node_id,
        result.attempt_id,
        result.output,
        result.evidence,
        commitment,
        now,
        commitment != b"",
    )


def _may_replay(job: Job) -> bool:
    """Whether a job's text may be put to any other node."""
    rules = job.spec.rules
    return rules.replays and rules.placement == "any" and not rules.region


def _task(job: Job) -> Task:
    return Task(input=job.spec.input, params=dict(job.spec.params))
