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
Who is slow to show it gets nothing meanwhile.
"""

from __future__ import annotations

import random
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Final, Literal

import msgspec

from browser_node.protocol import Answer, AttemptId, ModelDigest, NodeId, Task, commitment_to
from orchestrator.domain import effects as fx
from orchestrator.domain import events as ev
from orchestrator.domain import router, trust
from orchestrator.domain.board import Board
from orchestrator.domain.index import WINDOW_S
from orchestrator.domain.known import BYTES_KEPT, Known, KnownTexts
from orchestrator.domain.model import Attempt, CheckId, Claim, Held, Job, Node, ProjectId, Subject
from orchestrator.domain.records import Records
from orchestrator.domain.references import References
from orchestrator.domain.suspicion import Traits
from orchestrator.domain.trust import Identity, Policy

AUDITS_KEPT: Final = 256
AUDIT_BYTES_KEPT: Final = 16 << 20
LATE_KEPT: Final = 512
# A tab answers between two micro-batches: this late, it gets no more work and no customer waits.
OWING_S: Final = 1.0
# Nodes keep evidence for longer.
SHOW_WITHIN_S: Final = 5.0
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


class _Audit(msgspec.Struct):
    subject: Subject
    task: Task
    tokens: int
    claimed: Claim
    project_id: ProjectId | None  # where its text may be put to others
    alone: bool = False

    @property
    def size_bytes(self) -> int:
        return len(self.claimed.output) + len(self.claimed.evidence) + len(self.task.input)


class _Late(msgspec.Struct):
    """What a result that comes too late is held against: the right answer, or a stranger's."""

    node_id: NodeId
    task: Task
    subject: Subject
    known: Answer | None = None
    claimed: Claim | None = None


class _Asked(msgspec.Struct):
    """A claim whose evidence was asked for, and what waits for that."""

    claim: Claim
    is_owing: bool = False
    audits: list[_Audit] = []
    compares: list[tuple[CheckId, ModelDigest, Task, Answer | Claim, Claim]] = []


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
        self.audits: deque[_Audit] = deque()
        self._audit_bytes = 0
        # What is to be shown, by node, and when it is late and too late, in the order of time.
        self._asked: dict[NodeId, dict[AttemptId, _Asked]] = {}
        self._owing_at: deque[tuple[float, NodeId, AttemptId]] = deque()
        self._show_by: deque[tuple[float, NodeId, AttemptId]] = deque()
        self._audits_coming = 0
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
        self.find_owing(now)
        while self._show_by and self._show_by[0][0] <= now:
            _, node_id, attempt_id = self._show_by.popleft()
            self._settle(node_id, attempt_id, None, now)

    def forgive(self, late_s: float) -> None:
        """This process did not run for so long: nobody could show anything."""
        self._owing_at = deque((at + late_s, node, one) for at, node, one in self._owing_at)
        self._show_by = deque((by + late_s, node, one) for by, node, one in self._show_by)

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
        audit = _Audit(subject, _task(job), spec.tokens, answer, project_id)
        if not self._has_room_for(audit) or not self._board.workers:
            self._board.counters.audits_dropped += 1
            return False
        asked = self.ask(answer, now)
        if asked is None:
            self._append_audit(audit)
        else:
            asked.audits.append(audit)
            self._audits_coming += 1
        return True

    def _has_room_for(self, audit: _Audit) -> bool:
        count = len(self.audits) + self._audits_coming
        return count < AUDITS_KEPT and self._audit_bytes + audit.size_bytes <= AUDIT_BYTES_KEPT

    def _append_audit(self, audit: _Audit) -> None:
        self.audits.append(audit)
        self._audit_bytes += audit.size_bytes

    def audit_again(self, attempt: Attempt) -> None:
        """The CPU worker did not get to repeat an answer: once more, in a process of its own.

        It may have been that very text.
        """
        subject, task, claimed = attempt.subject, attempt.task, attempt.claimed
        if subject and task and claimed and not attempt.alone:
            audit = _Audit(subject, task, attempt.tokens, claimed, attempt.project_id, alone=True)
            self.audits.appendleft(audit)
            self._audit_bytes += audit.size_bytes

    def audit_some(self, now: float) -> None:
        """Start audits on a CPU worker that no request waits for, and one at a time if need be.

        Who lies could otherwise wait for a busy hour: half a backlog goes before customers.
        """
        waiting = self._board.queues.waiting("cloud")
        if any(queue.classes["interactive"].size for queue in waiting) and (
            len(self.audits) < AUDITS_KEPT // 2
            or any(
                attempt.purpose == "audit"
                for worker in self._board.workers.values()
                for attempt in worker.attempts.values()
            )
        ):
            return
        for worker in self._board.workers.values():
            while self.audits and not worker.stale:
                audit = self.audits[0]
                digest = audit.subject.digest
                if digest not in worker.speeds or not _spare(worker, digest, audit.tokens):
                    break
                self.audits.popleft()
                self._audit_bytes -= audit.size_bytes
                self._board.start(
                    worker,
                    router.explain(
                        worker, digest=digest, tokens=audit.tokens, considered=1, skipped={}
                    ),
                    digest=digest,
                    task=audit.task,
                    tokens=audit.tokens,
                    now=now,
                    purpose="audit",
                    job=None,
                    alone=audit.alone,
                    subject=audit.subject,
                    background=False,
                    known=None,
                    claimed=audit.claimed,
                    real=False,
                    project_id=audit.project_id,
                )

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
        for claim in (trusted, answer):
            if isinstance(claim, Claim) and (asked := self.ask(claim, now)) is not None:
                asked.compares.append((check_id, digest, task, trusted, answer))
        self._compare_shown(check_id, digest, task, trusted, answer)

    def _compare_shown(
        self,
        check_id: CheckId,
        digest: ModelDigest,
        task: Task,
        trusted: Answer | Claim,
        answer: Claim,
    ) -> None:
        """Have two answers compared, unless the evidence of one is still to come."""
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

    # ── what answers rest on ─────────────────────────────────────────────────────────────────────

    def ask(self, claim: Claim, now: float) -> _Asked | None:
        """Ask for the evidence of ``claim``, once; None where it is there or will never be."""
        if not claim.pending:
            return None
        node_id, attempt_id = claim.node_id, claim.attempt_id
        node = self._board.nodes.get(node_id)
        if node is None or node.joined_at > claim.since:
            # It went with the connection that the answer came on.
            claim.pending, claim.fault = False, "unshown"
            return None
        of_node = self._asked.setdefault(node_id, {})
        asked = of_node.get(attempt_id)
        if asked is None:
            asked = of_node[attempt_id] = _Asked(claim)
            self._owing_at.append((now + OWING_S, node_id, attempt_id))
            self._show_by.append((now + SHOW_WITHIN_S, node_id, attempt_id))
            self._board.timers.arm(now + OWING_S, node_id)
            self._board.effects.append(fx.Reveal(node_id, attempt_id))
        return asked

    def find_owing(self, now: float) -> None:
        """Give those nothing more that should have shown something by now; nobody waits for it."""
        while self._owing_at and self._owing_at[0][0] <= now:
            _, node_id, attempt_id = self._owing_at.popleft()
            asked = self._asked.get(node_id, {}).get(attempt_id)
            node = self._board.nodes.get(node_id)
            if asked is None or node is None:
                continue
            asked.is_owing = True
            node.owing += 1
            self._board.changed(node, now)
            for check_id, *_ in asked.compares:
                check = self._checks.get(check_id)
                job = check.job if check is not None and check.kind == "pair" else None
                if (
                    job is not None
                    and self._board.jobs.get(job.spec.job_id) is job
                    and self.on_unpaired(job, now)
                ):
                    del self._checks[check_id]

    def shown(self, event: ev.EvidenceShown, now: float) -> None:
        """A node shows what an answer of it rests on, or says that it cannot."""
        self._settle(event.node_id, event.attempt_id, event.evidence, now)

    def left(self, node_id: NodeId, now: float) -> None:
        """A node has gone: it shows nothing more."""
        for attempt_id in list(self._asked.get(node_id, ())):
            self._settle(node_id, attempt_id, None, now)

    def _settle(
        self, node_id: NodeId, attempt_id: AttemptId, evidence: bytes | None, now: float
    ) -> None:
        of_node = self._asked.get(node_id)
        asked = of_node.pop(attempt_id, None) if of_node is not None else None
        if asked is None:
            return
        if not of_node:
            del self._asked[node_id]
        node = self._board.nodes.get(node_id)
        if asked.is_owing and node is not None:
            node.owing -= 1
            self._board.changed(node, now)
        claim = asked.claim
        claim.pending = False
        if evidence is None:
            claim.fault = "unshown"
        elif commitment_to(evidence) != claim.commitment:
            claim.fault = "forged"
        else:
            claim.evidence = evidence
            if len(evidence) > BYTES_KEPT:
                kept = (
                    (one, late) for one, late in self._late.items() if late.claimed is not claim
                )
                self._late = OrderedDict(kept)
        for compare in asked.compares:
            self._compare_shown(*compare)
        for audit in asked.audits:
            self._audits_coming -= 1
            if self._has_room_for(audit):
                self._append_audit(audit)
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


def _spare(worker: Node, digest: ModelDigest, tokens: int) -> bool:
    """Whether the CPU worker has time for what nobody waits for."""
    if len(worker.attempts) >= worker.slots:
        return False
    half = worker.speeds[digest].tokens_per_s * WINDOW_S / 2
    return worker.outstanding_tokens + tokens <= max(half, tokens)
