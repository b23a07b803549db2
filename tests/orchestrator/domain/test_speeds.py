"""A node's speed as measured: the line through what it answered, whatever came between."""

from __future__ import annotations

import random

import pytest

from browser_node.protocol import AttemptId, ModelDigest, NodeId
from orchestrator.domain import events as ev
from orchestrator.domain import router
from orchestrator.domain.leases import kept
from orchestrator.domain.model import Attempt, Job, Node, Speed
from orchestrator.domain.speeds import changed_state, learn, observe, set_speed
from orchestrator.domain.trust import Identity, RuntimeClass, Standing
from tests.orchestrator.domain.fleet_of import MODEL, OTHER, TAB, job, join, scheduler

RTT_S = 0.05


class Worked:
    """A node that answers runs of jobs on a clock of its own."""

    def __init__(self, *, claims: float) -> None:
        standing = Standing(Identity("key"), RuntimeClass("wasm"))
        self.node = Node(NodeId("n"), False, 4_000, 0.0, 0.0, standing, rtt_s=RTT_S)
        self.speed = self.node.speeds[MODEL] = Speed(claims)
        set_speed(self.speed, claims)
        self.now = 10.0
        self.given_count = 0

    def run(self, *sizes: int, seconds: float, gap_s: float = 1.0) -> None:
        """Answer jobs of these sizes, sent together, ``seconds`` of computing later."""
        jobs = [self.given(size) for size in sizes]
        self.now += RTT_S + seconds
        self.answer(jobs)
        self.now += gap_s

    def given(self, tokens: int, digest: ModelDigest = MODEL) -> Attempt:
        self.given_count += 1
        number = AttemptId(f"a{self.given_count}")
        attempt = Attempt(number, None, NodeId("n"), digest, tokens, self.now, 1.0, 99.0, 99.0)
        self.node.attempts[number] = attempt
        return attempt

    def answer(self, attempts: list[Attempt]) -> None:
        for attempt in attempts:
            self.node.attempts.pop(attempt.attempt_id, None)
        observe(self.node, attempts, now=self.now)


def test_the_time_of_a_call_is_told_from_the_time_of_tokens() -> None:
    worked, rng = Worked(claims=500), random.Random(1)
    for _ in range(60):
        tokens = rng.randint(5, 150)
        worked.run(tokens, seconds=0.03 + tokens / 2_000)

    assert worked.speed.tokens_per_s == pytest.approx(2_000, rel=0.15)
    assert worked.speed.overhead_s == pytest.approx(0.03, rel=0.3)


def test_runs_of_one_size_are_forecast_right_and_not_taken_for_fast() -> None:
    worked = Worked(claims=500)
    for _ in range(60):
        worked.run(30, seconds=0.045)

    speed = worked.speed
    assert speed.overhead_s + 30 / speed.tokens_per_s == pytest.approx(0.045, rel=0.05)
    assert speed.tokens_per_s == pytest.approx(30 / 0.045, rel=0.1)


def test_one_stall_hardly_changes_a_speed_and_a_slower_device_does() -> None:
    worked, rng = Worked(claims=1_000), random.Random(2)
    for _ in range(30):
        tokens = rng.randint(5, 150)
        worked.run(tokens, seconds=tokens / 1_000)
    worked.run(50, seconds=12.0)
    after_a_stall = worked.speed.tokens_per_s
    for _ in range(30):
        tokens = rng.randint(5, 150)
        worked.run(tokens, seconds=tokens / 125)

    assert after_a_stall > 500
    assert worked.speed.tokens_per_s == pytest.approx(125, rel=0.2)


def test_answers_in_one_frame_or_in_many_are_one_run() -> None:
    together, apart = Worked(claims=1_000), Worked(claims=1_000)
    for worked, frames in ((together, 1), (apart, 4)):
        for _ in range(30):
            jobs = [worked.given(50) for _ in range(4)]
            worked.now += RTT_S + 0.1
            for at in range(0, 4, 4 // frames):
                worked.answer(jobs[at : at + 4 // frames])
            worked.now += 1.0

    assert apart.speed.tokens_per_s == pytest.approx(together.speed.tokens_per_s, rel=0.01)
    assert apart.speed.tokens_per_s == pytest.approx(2_000, rel=0.1)


def test_a_node_that_never_rests_is_measured_too() -> None:
    worked = Worked(claims=200)
    held = [worked.given(50) for _ in range(4)]
    for _ in range(60):
        worked.now += 0.05
        worked.answer([held.pop(0)])
        held.append(worked.given(50))

    assert worked.speed.tokens_per_s == pytest.approx(1_000, rel=0.15)


def test_work_taken_back_says_nothing_of_the_time_after_it() -> None:
    worked = Worked(claims=1_000)
    first, second = worked.given(50), worked.given(50)
    worked.now += RTT_S + 0.05
    worked.answer([first])
    worked.node.attempts.pop(second.attempt_id, None)
    worked.now += 600.0
    worked.run(50, seconds=0.05)

    assert worked.speed.tokens_per_s == pytest.approx(1_000, rel=0.05)


def test_a_node_that_is_never_without_work_and_never_busy_is_measured_too() -> None:
    worked = Worked(claims=100_000)
    held = [worked.given(10)]
    for _ in range(40):
        # The next job is on its way when this one is answered, and arrives after that.
        worked.now += 0.04
        held.append(worked.given(10))
        worked.now += 0.04
        worked.answer([held.pop(0)])

    assert worked.speed.samples > 20
    assert worked.speed.tokens_per_s < 1_000


def test_each_model_is_measured_by_its_own_answers() -> None:
    worked = Worked(claims=1_000)
    slow = worked.node.speeds[OTHER] = Speed(1_000)
    set_speed(slow, 1_000)
    for _ in range(40):
        first, second = worked.given(200), worked.given(20, OTHER)
        worked.now += RTT_S + 0.02
        worked.answer([first])
        worked.now += 0.2
        worked.answer([second])
        worked.now += 1.0

    assert worked.speed.tokens_per_s == pytest.approx(10_000, rel=0.1)
    assert slow.tokens_per_s == pytest.approx(100, rel=0.1)


def test_what_a_node_claims_is_gone_after_its_first_run_however_much_it_was() -> None:
    worked = Worked(claims=1e7)
    worked.run(50, seconds=5.0)

    assert worked.speed.tokens_per_s == pytest.approx(10)


def test_an_answer_sooner_than_any_round_trip_makes_no_node_infinitely_fast() -> None:
    worked = Worked(claims=500)
    worked.run(10, seconds=-RTT_S)

    assert worked.speed.tokens_per_s <= 2_000


def test_noise_makes_no_node_much_faster_than_its_average() -> None:
    speed = Speed(1_000)
    set_speed(speed, 1_000)
    for _ in range(40):
        learn(speed, 10, 0.06)
        learn(speed, 50, 0.05)

    assert speed.tokens_per_s <= 4 * 30 / 0.05


def test_each_state_of_a_node_has_a_line_of_its_own() -> None:
    worked, rng = Worked(claims=1_000), random.Random(3)
    for _ in range(40):
        tokens = rng.randint(5, 150)
        worked.run(tokens, seconds=0.3 + tokens / 1_000)
    before = router.finish_s(worked.node, digest=MODEL, tokens=30)

    changed_state(worked.node, "throttled")
    worked.node.state = "throttled"
    for _ in range(40):
        worked.run(30, seconds=3.0)
    throttled = router.finish_s(worked.node, digest=MODEL, tokens=30)
    changed_state(worked.node, "active")

    assert throttled == pytest.approx(3.0, rel=0.1)
    assert router.finish_s(worked.node, digest=MODEL, tokens=30) == pytest.approx(before)


def test_one_stall_does_not_stretch_every_lease_to_come() -> None:
    worked = Worked(claims=1_000)
    for _ in range(30):
        attempt = worked.given(50)
        kept(worked.speed, attempt, now=attempt.started_at + 1.0)
    before = (worked.speed.ratio, worked.speed.deviation)

    stalled = worked.given(50)
    kept(worked.speed, stalled, now=stalled.started_at + 600.0)

    assert worked.speed.ratio < before[0] + 0.5
    assert worked.speed.deviation < before[1] + 0.5


def test_overhead_counts_wherever_nodes_are_compared() -> None:
    s = scheduler()
    join(s, TAB, tokens_per_s=1_000, rtt_s=0.02)
    node = s.board.nodes[TAB]
    step = node.speeds[MODEL].step

    node.speeds[MODEL].overhead_s = 0.5
    s.handle(ev.CapacityChanged(TAB, 4, "active", ""), now=0.0)

    found = s.placing._choose  # the search itself, with its limit
    asked = Job(job("j", tokens=100), submitted_at=0.0, deadline_at=30.0)
    assert node.speeds[MODEL].step > step
    assert router.finish_s(node, digest=MODEL, tokens=100) == pytest.approx(0.62)
    decision = router.explain(node, digest=MODEL, tokens=100, considered=1, skipped={})
    assert (decision.service_s, decision.finish_s) == pytest.approx((0.6, 0.62))
    assert found(asked, 0.0, 0.6)[0] is None
    assert found(asked, 0.0, 0.7)[0] is node


def test_a_node_whose_time_grows_faster_than_its_tokens_is_taken_at_its_average() -> None:
    speed = Speed(1_000)
    set_speed(speed, 1_000)
    for _ in range(60):
        learn(speed, 20, 0.01)
        learn(speed, 100, 0.2)

    assert speed.overhead_s == 0.0
    assert speed.tokens_per_s == pytest.approx(speed.tokens / speed.seconds)


def test_short_runs_make_no_worker_slower_with_long_ones_than_it_has_measured_itself() -> None:
    worker, node = Speed(3_000), Speed(3_000)
    set_speed(worker, 3_000, is_believed=True)
    set_speed(node, 3_000)
    for _ in range(60):
        learn(worker, 3, 0.004)
        learn(node, 3, 0.004)

    # Both forecasts are right for what was seen; nobody else's word is taken for what was not.
    for speed in (worker, node):
        assert speed.overhead_s + 3 / speed.tokens_per_s == pytest.approx(0.004, rel=0.05)
    assert worker.overhead_s + 300 / worker.tokens_per_s == pytest.approx(0.103, rel=0.05)
    assert node.overhead_s + 300 / node.tokens_per_s == pytest.approx(0.4, rel=0.05)


def test_a_worker_that_has_become_slower_with_long_runs_is_measured() -> None:
    speed, rng = Speed(3_000), random.Random(3)
    set_speed(speed, 3_000, is_believed=True)
    for _ in range(60):
        tokens = rng.randint(5, 300)
        learn(speed, tokens, 0.004 + tokens / 1_000)

    assert speed.overhead_s + 150 / speed.tokens_per_s == pytest.approx(0.154, rel=0.05)
    assert speed.overhead_s + 300 / speed.tokens_per_s == pytest.approx(0.304, rel=0.15)


def test_a_worker_under_load_is_measured_by_what_it_gets_done_though_all_runs_are_alike() -> None:
    speed = Speed(3_000)
    set_speed(speed, 3_000, is_believed=True)
    for _ in range(40):
        learn(speed, 150, 0.25)

    assert speed.tokens_per_s == pytest.approx(600, rel=0.05)
    assert speed.overhead_s == pytest.approx(0.0, abs=0.01)
