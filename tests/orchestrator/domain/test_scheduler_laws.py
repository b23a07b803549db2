"""Laws of the scheduler under any order of events, as a hypothesis state machine."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from browser_node.protocol import HANDED_BACK, Answer, AttemptId, NodeId, Task
from orchestrator.domain import effects as fx
from orchestrator.domain import events as ev
from orchestrator.domain.model import CheckId, JobId
from orchestrator.domain.references import References
from orchestrator.domain.trust import Identity, Policy
from tests.orchestrator.domain.fleet_of import (
    MODEL,
    RUNTIME,
    finish,
    job,
    join,
    progress,
    scheduler,
    sent,
    submit,
)

NODES = [NodeId(f"n{number}") for number in range(4)] + [NodeId("cpu")]
nodes = st.sampled_from(NODES)


class AnyOrder(RuleBasedStateMachine):
    """Nodes come, go, answer, fail, fall silent; jobs come and are cancelled; time passes."""

    @initialize(seed=st.integers(0, 2**16), expected=st.booleans())
    def start(self, seed: int, expected: bool) -> None:
        references = References(random.Random(seed))
        references.fill(
            MODEL,
            [Task(input=f"known {n}") for n in range(4)],
            [Answer(output=b"answer") for _ in range(4)],
        )
        self.s = scheduler(
            seed=seed,
            max_queued=20,
            policy=Policy(trust_after=3, real_after=1, audit_share=0.3),
            references=references,
            hedge_share=0.2,
        )
        self.compares: list[CheckId] = []
        self.agreed = False
        self.now = 0.0
        self.submitted: set[str] = set()
        self.cancelled: set[str] = set()
        self.ends: Counter[str] = Counter()
        self.issued: list[tuple[NodeId, AttemptId]] = []
        self.do(self.s.handle(ev.WorkerExpected(expected), now=0.0))

    def do(self, effects: list[fx.Effect]) -> None:
        for node_id, items in sent(effects).items():
            self.issued += [(node_id, AttemptId(item.attempt_id)) for item in items]
        for effect in effects:
            if isinstance(effect, fx.Progressed):
                assert not self.ends[effect.job_id]
                relaying = self.s.board.attempts[effect.attempt_id]
                # Nothing is relayed but what may be delivered unseen.
                assert relaying.purpose in ("serve", "hedge")
                assert self.s.board.nodes[relaying.node_id].level != "newcomer" or (
                    relaying.node_id == "cpu"
                )
            elif isinstance(effect, fx.Deliver):
                self.ends[effect.answer.job_id] += 1
                node = self.s.board.nodes[effect.answer.node_id]
                # Nothing of a newcomer's reaches a customer but what was compared and agreed.
                assert node.trusted or node.level == "trusted" or self.agreed
            elif isinstance(effect, fx.Compare):
                self.compares.append(effect.check_id)
            elif isinstance(effect, fx.Fail):
                self.ends[effect.failure.job_id] += 1

    @rule(
        count=st.integers(1, 6),
        tokens=st.integers(1, 2000),
        placement=st.sampled_from(["any", "any", "trusted", "cloud"]),
        verify=st.sampled_from(["adaptive", "always"]),
        region=st.sampled_from(["", "", "EU", "NA-US"]),
        priority=st.sampled_from(["interactive", "batch"]),
        project=st.sampled_from(["p", "q"]),
        stream=st.booleans(),
    )
    def jobs_come(self, count: int, **rules: Any) -> None:
        names = [f"j{len(self.submitted) + n}" for n in range(count)]
        self.submitted.update(names)
        self.do(submit(self.s, *(job(name, **rules) for name in names), now=self.now))

    @rule(pick=st.integers(0, 10**6), agrees=st.sampled_from([True, True, False]))
    def a_comparison_ends(self, pick: int, agrees: bool) -> None:
        if self.compares:
            check_id = self.compares.pop(pick % len(self.compares))
            self.agreed = agrees
            self.do(self.s.handle(ev.Judged(check_id, agrees, 1.0, "differs"), now=self.now))
            self.agreed = False

    @rule(node_id=nodes, order=st.sampled_from(["quarantine", "ban", "release"]))
    def an_operator_speaks(self, node_id: NodeId, order: Any) -> None:
        event = ev.StandingOrdered(Identity(node_id), RUNTIME, order)
        self.do(self.s.handle(event, now=self.now))

    @rule(node_id=nodes, order=st.sampled_from(["drain", "resume"]))
    def an_operator_drains(self, node_id: NodeId, order: Any) -> None:
        self.do(self.s.handle(ev.NodeOrdered(node_id, order), now=self.now))

    @rule(
        node_id=nodes,
        speed=st.floats(1, 5000),
        slots=st.integers(0, 4),
        newcomer=st.booleans(),
        region=st.sampled_from(["", "EU-DE", "NA-US"]),
        network=st.sampled_from(["", "x", "y"]),
    )
    def a_node_comes(self, node_id: NodeId, speed: float, **options: Any) -> None:
        if node_id not in self.s.board.nodes:
            trusted = node_id == "cpu"
            self.do(
                join(
                    self.s,
                    node_id,
                    now=self.now,
                    tokens_per_s=speed,
                    trusted=trusted,
                    **options,
                )
            )

    @rule(node_id=nodes)
    def a_node_goes(self, node_id: NodeId) -> None:
        self.do(self.s.handle(ev.NodeLeft(node_id, "closed"), now=self.now))

    @rule(node_id=nodes)
    def a_node_is_heard(self, node_id: NodeId) -> None:
        self.do(self.s.handle(ev.NodeHeard(node_id, 0.05), now=self.now))

    @rule(node_id=nodes, slots=st.integers(0, 6), state=st.sampled_from(["active", "paused"]))
    def capacity_changes(self, node_id: NodeId, slots: int, state: str) -> None:
        event = ev.CapacityChanged(node_id, slots, state, "")  # type: ignore[arg-type]
        self.do(self.s.handle(event, now=self.now))

    @rule(node_id=nodes)
    def a_model_is_lost(self, node_id: NodeId) -> None:
        self.do(self.s.handle(ev.ModelLost(node_id, MODEL), now=self.now))

    @rule(pick=st.integers(0, 10**6), wrong_node=st.booleans())
    def an_answer_comes(self, pick: int, wrong_node: bool) -> None:
        if self.issued:
            node_id, attempt_id = self.issued[pick % len(self.issued)]
            sender = NODES[pick % len(NODES)] if wrong_node else node_id
            self.do(self.s.handle(ev.NodeHeard(sender, 0.01), now=self.now))
            self.do(finish(self.s, sender, attempt_id, attempt_id, now=self.now))

    @rule(pick=st.integers(0, 10**6))
    def a_piece_of_an_answer_comes(self, pick: int) -> None:
        if self.issued:
            node_id, attempt_id = self.issued[pick % len(self.issued)]
            self.do(progress(self.s, node_id, attempt_id, "piece", now=self.now))

    @rule(pick=st.integers(0, 10**6), code=st.sampled_from(["oops", HANDED_BACK]))
    def an_attempt_fails(self, pick: int, code: str) -> None:
        if self.issued:
            node_id, attempt_id = self.issued[pick % len(self.issued)]
            blame = ("node", "input", "model")[pick % 3]
            event = ev.AttemptFailed(node_id, attempt_id, blame, code)  # type: ignore[arg-type]
            self.do(self.s.handle(event, now=self.now))

    @rule(pick=st.integers(0, 10**6))
    def a_customer_leaves(self, pick: int) -> None:
        if self.submitted:
            name = sorted(self.submitted)[pick % len(self.submitted)]
            if not self.ends[name]:
                self.cancelled.add(name)
            self.do(self.s.handle(ev.JobsCancelled((JobId(name),)), now=self.now))

    @rule(seconds=st.floats(0.01, 25))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.do(self.s.handle(ev.Tick(), now=self.now))

    @invariant()
    def no_job_ends_twice_or_after_it_was_cancelled(self) -> None:
        assert all(count == 1 for count in self.ends.values())
        assert not self.cancelled & self.ends.keys()

    @invariant()
    def the_books_agree(self) -> None:
        board = self.s.board
        for node in board.nodes.values():
            assert node.outstanding_tokens == sum(a.tokens for a in node.attempts.values())
            behind = [a for a in node.attempts.values() if a.background]
            assert node.background == len(behind)
            assert node.background_tokens == sum(a.tokens for a in behind)
            assert all(board.attempts[key] is a for key, a in node.attempts.items())
        held = sum(len(node.attempts) for node in board.nodes.values())
        assert held == len(board.attempts)
        for attempt in board.attempts.values():
            if attempt.job_id is not None:
                assert attempt.attempt_id in board.jobs[attempt.job_id].live
        for held_job in board.jobs.values():
            assert all(board.attempts[a].job_id == held_job.spec.job_id for a in held_job.live)
        for digest, fleet in board.index.fleets.items():
            having = {n.node_id for n in board.nodes.values() if digest in n.speeds}
            assert set(fleet.ready) == having - board.workers.keys()
            assert sum(fleet.groups.values()) == len(fleet.ready)
            grouped = [n.speeds[digest].group for n in fleet.ready.values()]
            assert fleet.groups == Counter(grouped)
            assert fleet.passed_over() == {g: n for g, n in fleet.groups.items() if g != "open"}
            in_sets = [n.node_id for (_, r), s in fleet.open.items() if not r for n in s]
            assert sorted(in_sets) == sorted(
                n.node_id for n in fleet.ready.values() if n.speeds[digest].group == "open"
            )

    @invariant()
    def nothing_else_is_delivered_while_pieces_are_relayed(self) -> None:
        for held in self.s.board.jobs.values():
            serving = [
                a for a in held.live if self.s.board.attempts[a].purpose in ("serve", "hedge")
            ]
            assert held.relayed not in serving or serving == [held.relayed]

    @invariant()
    def batch_jobs_run_in_the_background_and_without_hedges(self) -> None:
        for attempt in self.s.board.attempts.values():
            if attempt.job_id is not None:
                of = self.s.board.jobs[attempt.job_id].spec
                assert attempt.background == (of.priority == "batch")
                assert not (attempt.background and attempt.purpose == "hedge")

    @invariant()
    def every_job_is_running_or_in_a_queue(self) -> None:
        queued = self.s.board.queues.ids()
        assert len(queued) == self.s.board.queues.size
        for job_id, held in self.s.board.jobs.items():
            purposes = {self.s.board.attempts[a].purpose for a in held.live}
            alone = purposes & {"serve", "hedge"} or held.judging or job_id in queued
            pair = held.spec.rules.verify == "always" and len(held.live + (held.held or [])) > 1
            assert alone or pair, f"{job_id} is nowhere"

    def teardown(self) -> None:
        if not hasattr(self, "s"):
            return
        # However it went: once the deadlines are over, every job has had its one end.
        self.now += 31.0
        self.do(self.s.handle(ev.Tick(), now=self.now))
        left = self.submitted - self.cancelled - self.ends.keys()
        assert not left, f"jobs without an end: {sorted(left)}"
        assert not [a for a in self.s.board.attempts.values() if a.job_id is not None]
        assert not self.s.board.queues.size
        assert not self.s.board.queues.by_project
        assert all(count == 1 for count in self.ends.values())


AnyOrder.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
TestAnyOrder = AnyOrder.TestCase


def test_slots_are_respected_whenever_a_job_starts() -> None:
    s = scheduler(edge_budget_s=60)
    for number, node_id in enumerate(NODES[:4]):
        join(s, node_id, slots=number + 1, tokens_per_s=50_000)

    effects = submit(s, *(job(f"j{n}") for n in range(40)))

    assert {k: len(v) for k, v in sent(effects).items()} == {NODES[n]: n + 1 for n in range(4)}
