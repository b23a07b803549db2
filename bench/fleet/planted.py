"""Bugs planted on purpose: each takes a right scheduler and makes it wrong in one way.

They show that the laws can fail. A bug meddles with what the scheduler is told (``make_hear``),
with what it says (``make_say``), or with its parts when it is made (``break_``); most act once in a
while, as real bugs do. `BUGS` says which fault mix brings each to light.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

import msgspec

from bench.fleet.books import Decider
from bench.fleet.engine import SchedulerFactory
from browser_node.protocol import AttemptId, ModelDigest
from orchestrator import compiled
from orchestrator.domain import effects as fx
from orchestrator.domain import events as ev
from orchestrator.domain.board import Board, Counters
from orchestrator.domain.model import Attempt, Claim, Job, ModelSpec, Node, Rules
from orchestrator.domain.references import References
from orchestrator.domain.scheduler import Options, Scheduler
from orchestrator.domain.trust import Policy

Say = Callable[[list[fx.Effect]], list[fx.Effect]]
Hear = Callable[[ev.Event], ev.Event]


class Bug(msgspec.Struct, frozen=True):
    """``mix``: where it shows. The rest is what it does, by default nothing."""

    mix: str
    make_say: Callable[[Board], Say] | None = None
    make_hear: Callable[[Board], Hear] | None = None
    break_: Callable[[Scheduler], None] | None = None
    policy: Policy | None = None
    options: Options | None = None


class Meddler:
    """A scheduler with a bug, as far as the engine can tell."""

    def __init__(self, scheduler: Scheduler, bug: Bug) -> None:
        self._scheduler = scheduler
        self.board = scheduler.board
        self._say = bug.make_say(self.board) if bug.make_say is not None else None
        self._hear = bug.make_hear(self.board) if bug.make_hear is not None else None
        if bug.break_ is not None:
            bug.break_(scheduler)

    def handle(self, event: ev.Event, *, now: float) -> list[fx.Effect]:
        if self._hear is not None:
            event = self._hear(event)
        effects = self._scheduler.handle(event, now=now)
        return effects if self._say is None else self._say(effects)

    def next_wakeup(self) -> float | None:
        return self._scheduler.next_wakeup()

    @property
    def queued(self) -> int:
        return self._scheduler.queued

    @property
    def running(self) -> int:
        return self._scheduler.running

    @property
    def counters(self) -> Counters:
        return self._scheduler.counters


def planted(bug: Bug) -> SchedulerFactory:
    """Return a factory whose schedulers have ``bug``; raises `RuntimeError` where that cannot be.

    Methods are replaced, which compiled ones do not let be done to them.
    """
    if bug.break_ is not None and compiled.folder() is not None:
        raise RuntimeError("Bugs are planted in sources: run them, with ZEROGPU_COMPILED=0.")

    def make(
        *,
        models: Mapping[ModelDigest, ModelSpec],
        rng: random.Random,
        new_attempt_id: Callable[[], AttemptId],
        references: References | None,
        policy: Policy,
        options: Options,
    ) -> Decider:
        return Meddler(
            Scheduler(
                models=models,
                rng=rng,
                new_attempt_id=new_attempt_id,
                references=references,
                policy=bug.policy or policy,
                options=bug.options or options,
            ),
            bug,
        )

    return make


class _Every:
    """True once in ``n`` times."""

    def __init__(self, n: int) -> None:
        self._n, self._left = n, n

    def __call__(self) -> bool:
        self._left -= 1
        if self._left:
            return False
        self._left = self._n
        return True


# ── what goes out ────────────────────────────────────────────────────────────────────────────────


def _deliver_twice(_: Board) -> Say:
    now_and_then = _Every(50)

    def say(effects: list[fx.Effect]) -> list[fx.Effect]:
        again = [e for e in effects if isinstance(e, fx.Deliver) and now_and_then()]
        return [*effects, *again]

    return say


def _charge_later_again(_: Board) -> Say:
    """The answer of an earlier event comes once more with a later one: a retry that is no retry."""
    kept: list[fx.Effect] = []
    now_and_then = _Every(100)

    def say(effects: list[fx.Effect]) -> list[fx.Effect]:
        said = [*effects, *kept]
        kept.clear()
        kept.extend(e for e in effects if isinstance(e, fx.Deliver) and now_and_then())
        return said

    return say


def _credit_another(board: Board) -> Say:
    """An answer is booked on a node that did not give it."""
    now_and_then = _Every(50)

    def book(effect: fx.Effect) -> fx.Effect:
        if not isinstance(effect, fx.Deliver) or not now_and_then():
            return effect
        others = [n for n in board.nodes if n != effect.answer.node_id]
        if not others:
            return effect
        return fx.Deliver(msgspec.structs.replace(effect.answer, node_id=others[0]))

    return lambda effects: [book(effect) for effect in effects]


def _deliver_neighbours_answer(_: Board) -> Say:
    """Two answers of one frame change places."""

    def say(effects: list[fx.Effect]) -> list[fx.Effect]:
        at = [i for i, e in enumerate(effects) if isinstance(e, fx.Deliver)]
        if len(at) < 2:
            return effects
        first, second = effects[at[0]], effects[at[1]]
        assert isinstance(first, fx.Deliver)
        assert isinstance(second, fx.Deliver)
        a, b = first.answer, second.answer
        effects[at[0]] = fx.Deliver(msgspec.structs.replace(a, output=b.output))
        effects[at[1]] = fx.Deliver(msgspec.structs.replace(b, output=a.output))
        return effects

    return say


def _forget_to_cancel(_: Board) -> Say:
    """A withdrawn attempt is off the books, and the node is not told."""
    now_and_then = _Every(5)

    def say(effects: list[fx.Effect]) -> list[fx.Effect]:
        return [e for e in effects if not (isinstance(e, fx.SendCancel) and now_and_then())]

    return say


# ── what comes in ────────────────────────────────────────────────────────────────────────────────


def _ignore_disagreement(_: Board) -> Hear:
    """Whoever is compared, agrees."""

    def hear(event: ev.Event) -> ev.Event:
        return (
            msgspec.structs.replace(event, agrees=True) if isinstance(event, ev.Judged) else event
        )

    return hear


def _fail_early(_: Board) -> Hear:
    """A deadline is taken to be a fifth of what it is: customers get errors that are not true."""

    def hear(event: ev.Event) -> ev.Event:
        if not isinstance(event, ev.JobsSubmitted):
            return event
        jobs = tuple(replace(job, deadline_s=job.deadline_s / 20) for job in event.jobs)
        return ev.JobsSubmitted(jobs)

    return hear


def _ignore_region(_: Board) -> Hear:
    """Texts go where their project forbids."""

    def free(rules: Rules) -> Rules:
        return msgspec.structs.replace(rules, region="")

    def hear(event: ev.Event) -> ev.Event:
        if not isinstance(event, ev.JobsSubmitted):
            return event
        return ev.JobsSubmitted(tuple(replace(job, rules=free(job.rules)) for job in event.jobs))

    return hear


# ── the books ────────────────────────────────────────────────────────────────────────────────────


def _drop_requeue(scheduler: Scheduler) -> None:
    """A job that lost its attempt is not placed again."""
    place = scheduler.placing.place
    now_and_then = _Every(3)

    def forgetful(job: Job, now: float, fresh: bool = False) -> None:
        if not (job.attempts and now_and_then()):
            place(job, now, fresh)

    scheduler.placing.place = forgetful  # type: ignore[method-assign]
    scheduler.checking.place = forgetful
    _forget_deadlines(scheduler)


def _forget_deadlines(scheduler: Scheduler) -> None:
    """What waits for nothing but its deadline waits for ever."""
    timers = scheduler.board.timers
    arm = timers.arm

    def forgetful(at: float, what: str) -> None:
        if "." not in what:  # job ids here are "request.index"
            arm(at, what)

    timers.arm = timers.arm_deadline = forgetful  # type: ignore[method-assign]


def _leak_slots(scheduler: Scheduler) -> None:
    """An attempt that ended goes on holding its slot."""
    board, release = scheduler.board, scheduler.board.release
    now_and_then = _Every(100)

    def leak(attempt: Attempt, outcome: str, now: float, regroup: bool = True) -> None:
        node = board.nodes.get(attempt.node_id)
        release(attempt, outcome, now, regroup)
        if node is not None and now_and_then():
            node.attempts[attempt.attempt_id] = attempt

    board.release = leak  # type: ignore[method-assign]


def _oversubscribe(scheduler: Scheduler) -> None:
    """A node is taken to have more slots than it says."""
    changed = scheduler.board.changed

    def generous(node: Node, now: float) -> None:
        if node.slots:
            node.slots = 64
        changed(node, now)

    scheduler.board.changed = generous  # type: ignore[method-assign]


def _miscount_tokens(scheduler: Scheduler) -> None:
    """A node's backlog grows by a token with some of the attempts that end."""
    release = scheduler.board.release
    now_and_then = _Every(100)

    def miscount(attempt: Attempt, outcome: str, now: float, regroup: bool = True) -> None:
        release(attempt, outcome, now, regroup)
        node = scheduler.board.nodes.get(attempt.node_id)
        if node is not None and now_and_then():
            node.outstanding_tokens += 1

    scheduler.board.release = miscount  # type: ignore[method-assign]


def _audit_less(scheduler: Scheduler) -> None:
    """Three of four audits that are due are not made."""
    audit, now_and_then = scheduler.checking.edge_answered, _Every(4)

    def less(job: Job, node: Node, answer: Claim, trait: int, now: float) -> None:
        if now_and_then():
            audit(job, node, answer, trait, now)

    scheduler.checking.edge_answered = less  # type: ignore[method-assign]


def _skip_audits(scheduler: Scheduler) -> None:
    """Nothing that a trusted node answers is looked at again."""
    scheduler.checking.edge_answered = lambda *_: None  # type: ignore[method-assign]


def _hedge_freely(scheduler: Scheduler) -> None:
    """Whatever takes longer than usual is started twice."""
    scheduler.placing.hedges.burst = scheduler.placing.hedges.credit = 1e9


BUGS: Final[dict[str, Bug]] = {
    "drops a requeue": Bug("churn", break_=_drop_requeue),
    "delivers twice": Bug("calm", make_say=_deliver_twice),
    "charges again later": Bug("calm", make_say=_charge_later_again),
    "credits another node": Bug("calm", make_say=_credit_another),
    "mixes two answers up": Bug("calm", make_say=_deliver_neighbours_answer),
    "loses a cancelled attempt": Bug("churn", make_say=_forget_to_cancel),
    "skips audits": Bug("known", break_=_skip_audits),
    "audits a quarter of what it promises": Bug("known", break_=_audit_less),
    "trusts newcomers": Bug("liars", policy=Policy(trust_after=0)),
    "trusts too soon": Bug("calm", policy=Policy(trust_after=3, real_after=0)),
    "ignores a disagreement": Bug("liars", make_hear=_ignore_disagreement),
    "leaks a slot": Bug("calm", break_=_leak_slots),
    "oversubscribes": Bug("flood", break_=_oversubscribe),
    "miscounts a backlog": Bug("calm", break_=_miscount_tokens),
    "forgets deadlines": Bug("flood", break_=_forget_deadlines),
    "gives up too early": Bug("flood", make_hear=_fail_early),
    "lets queues grow": Bug("flood", options=Options(max_queued=1_000_000, project_share=1.0)),
    "hedges without a budget": Bug("weather", break_=_hedge_freely),
    "ignores regions": Bug("calm", make_hear=_ignore_region),
}
"""Every bug by what it does."""
