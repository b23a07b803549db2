"""A node's speed as measured: the line through what it answered, whatever came between."""

from __future__ import annotations

import random

import pytest

from browser_node.protocol import AttemptId, ModelDigest, NodeId
from orchestrator.domain.model import Attempt, Node, Speed
from orchestrator.domain.speeds import observe, set_speed
from orchestrator.domain.trust import Identity, RuntimeClass, Standing
from tests.orchestrator.domain.fleet_of import MODEL

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

    def given(self, tokens: int) -> Attempt:
        self.given_count += 1
        number = AttemptId(f"a{self.given_count}")
        digest = ModelDigest(MODEL)
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
