"""The real scheduler keeps its laws through every fault mix, and a run can be seen again."""

from __future__ import annotations

import os
import subprocess
import sys

import msgspec
import pytest

from bench.fleet import MIXES, InvariantBroken, Outcome, mix, run
from bench.fleet.planted import BUGS, planted
from bench.fleet.wire import encode
from browser_node import protocol as p

JOBS = 1_500
SEEDS = range(20)


@pytest.mark.parametrize(("name", "seed"), [(name, seed) for name in MIXES for seed in SEEDS])
def test_no_job_is_lost_or_doubled_and_every_law_holds(name: str, seed: int) -> None:
    outcome = run(mix(name, jobs=JOBS), seed=seed)

    ends = outcome.answered + sum(outcome.failed.values())
    ends += outcome.cancelled + outcome.connection_lost
    assert outcome.submitted == ends == JOBS
    assert outcome.full_checks
    assert outcome.honest_flagged == 0


def test_a_fault_mix_meets_its_faults() -> None:
    churn, outage, weather, restart, liars = (
        run(mix(name, jobs=6_000), seed=0)
        for name in ("churn", "outage", "weather", "restart", "liars")
    )

    assert churn.rerouted["closed"] > 5
    assert outage.rerouted["closed"] > 5
    assert weather.attempts["hedge"] > 5
    assert restart.connection_lost > 5
    assert liars.quarantined > 5


def test_more_than_can_be_done_ends_in_true_errors_and_a_bounded_queue() -> None:
    scenario = mix("flood", jobs=15_000)

    outcome = run(scenario, seed=1)

    assert outcome.failed["overloaded"] > 0
    assert outcome.failed["deadline_exceeded"] > 0
    assert scenario.max_queued / 2 < outcome.peak_queued


def test_without_a_cpu_worker_nobody_vouches_for_strangers_and_jobs_fail_at_once() -> None:
    outcome = run(mix("dark", jobs=500), seed=1)

    assert outcome.failed == {"no_capacity": 500}


def test_the_same_seed_gives_the_same_trace_and_another_seed_another() -> None:
    scenario = mix("restart", jobs=2_000)

    first, again, other = (run(scenario, seed=seed) for seed in (7, 7, 8))

    assert first.trace == again.trace != other.trace
    assert _without_cpu_times(first) == _without_cpu_times(again)


def _without_cpu_times(outcome: Outcome) -> Outcome:
    empty = Outcome(scenario="", seed=0)
    return msgspec.structs.replace(
        outcome,
        decision_s=empty.decision_s,
        placing_s=empty.placing_s,
        scheduler_cpu_s=0.0,
        cpu_s=0.0,
    )


def test_the_trace_does_not_depend_on_how_python_hashes_texts() -> None:
    program = "from bench.fleet import mix, run; print(run(mix('liars', jobs=1500), seed=3).trace)"
    traces = set()
    for hash_seed in ("0", "1"):
        done = subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        traces.add(done.stdout)

    assert len(traces) == 1


def test_a_broken_law_says_how_to_see_it_again() -> None:
    scenario = mix("calm", jobs=2_000)
    factory = planted(BUGS["delivers twice"])

    with pytest.raises(InvariantBroken) as first:
        run(scenario, seed=42, scheduler_factory=factory)
    with pytest.raises(InvariantBroken) as again:
        run(scenario, seed=42, scheduler_factory=factory)

    assert str(first.value) == str(again.value)
    assert "scenario calm, seed 42, at" in str(first.value)
    assert "run(mix('calm', jobs=2000, nodes=24), seed=42)" in str(first.value)


def test_the_simulated_wires_carry_the_protocols_own_bytes() -> None:
    item = p.JobItem(
        attempt_id="a1", digest="d" * 64, lease_s=2.5, tokens=3, input="é", params={"k": True}
    )
    frames: list[p.Frame] = [
        p.Jobs(items=(item,)),
        p.Ping(n=1),
        p.Results(items=(p.Result(attempt_id="a1", output=b"\x00\xff", compute_s=0.25),)),
        p.Failed(attempt_id="a1", blame="node", code=p.HANDED_BACK),
        p.Capacity(slots=4, state="active"),
    ]

    assert [encode(frame) for frame in frames] == [p.encode(frame) for frame in frames]
