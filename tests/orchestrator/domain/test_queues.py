"""Fair queueing: whose turn it is, and that nobody waits for what does not concern it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable

import pytest

from browser_node.protocol import HANDED_BACK
from orchestrator.domain import events as ev
from orchestrator.domain.model import Job, NewJob
from orchestrator.domain.queues import FairQueue, Queues
from orchestrator.domain.turns import edge_tokens
from tests.orchestrator.domain.fleet_of import (
    MODEL,
    OTHER,
    SLOW,
    TAB,
    WORKER,
    failures,
    finish,
    job,
    join,
    scheduler,
    sent,
    submit,
)


def waiting(queues: Queues, spec: NewJob, *, now: float = 0.0, attempts: int = 0) -> Job:
    """Let a job wait for the edge and return it."""
    held = Job(spec, submitted_at=now, deadline_at=math.inf, attempts=attempts)
    queues.push("edge", held, now)
    return held


def only(queues: Queues) -> FairQueue:
    [queue] = queues.all.values()
    return queue


def served(queues: Queues, count: int) -> list[Job]:
    """Serve the next ``count`` requests of the only queue in turn."""
    taken = []
    requests = only(queues).classes["interactive"]
    for _ in range(count):
        head = requests.head()
        assert head is not None
        assert head.job is not None
        taken.append(head.job)
        queues.remove(head.job, served=True)
    return taken


def projects(jobs: Iterable[Job]) -> Counter[str]:
    return Counter(str(one.spec.project_id) for one in jobs)


# ── turns ────────────────────────────────────────────────────────────────────────────────────────


def test_one_project_is_served_in_the_order_it_came() -> None:
    queues = Queues()
    for number in range(5):
        waiting(queues, job(f"j{number}"))

    assert [one.spec.job_id for one in served(queues, 5)] == ["j0", "j1", "j2", "j3", "j4"]


def test_a_project_with_many_jobs_does_not_hold_up_one_with_few() -> None:
    queues = Queues()
    for number in range(100):
        waiting(queues, job(f"many{number}", project="many"))
    waiting(queues, job("few", project="few"))

    assert "few" in [one.spec.job_id for one in served(queues, 2)]


def test_projects_share_by_weight() -> None:
    queues = Queues()
    for number in range(400):
        waiting(queues, job(f"a{number}", project="a", weight=3.0))
        waiting(queues, job(f"b{number}", project="b", weight=1.0))

    shares = projects(served(queues, 400))

    assert shares["a"] == pytest.approx(300, abs=3)


def test_a_project_pays_by_its_tokens_and_not_by_its_jobs() -> None:
    queues = Queues()
    for number in range(200):
        waiting(queues, job(f"long{number}", project="long", tokens=192))  # with the 8 of a job,
        waiting(queues, job(f"short{number}", project="short", tokens=32))  # five to one

    shares = projects(served(queues, 120))

    assert shares["short"] == pytest.approx(100, abs=2)


def test_a_project_that_was_idle_has_not_saved_up() -> None:
    queues = Queues()
    for number in range(200):
        waiting(queues, job(f"a{number}", project="a"))
    served(queues, 100)
    for number in range(100):
        waiting(queues, job(f"b{number}", project="b"))

    assert projects(served(queues, 40))["b"] == pytest.approx(20, abs=1)


def test_a_job_that_lost_an_attempt_goes_before_those_that_had_none() -> None:
    queues = Queues()
    waiting(queues, job("first"))
    waiting(queues, job("again"), attempts=1)

    assert [one.spec.job_id for one in served(queues, 2)] == ["again", "first"]


def test_nobody_starves_whoever_else_keeps_coming() -> None:
    queues = Queues()
    waiting(queues, job("patient", project="patient", tokens=2000, weight=0.1))
    ends: dict[str, int] = {}
    for turn in range(3000):
        now = turn * 0.1
        waiting(queues, job(f"busy{turn}", project="busy", weight=10.0), now=now)
        [one] = served(queues, 1)
        ends.setdefault(str(one.spec.project_id), turn)

    assert ends["patient"] < 3000


# ── keeping count ────────────────────────────────────────────────────────────────────────────────


def test_a_job_that_ends_while_it_waits_leaves_nothing_behind() -> None:
    queues = Queues()
    jobs = [waiting(queues, job(f"j{number}")) for number in range(3)]
    for one in jobs:
        queues.remove(one)
        queues.remove(one)

    assert (queues.size, queues.all, queues.by_project) == (0, {}, {})
    assert queues.ids() == set()


def test_jobs_that_ended_elsewhere_do_not_pile_up() -> None:
    queues = Queues()
    kept = waiting(queues, job("kept", project="other", tokens=1))
    for number in range(2000):
        queues.remove(waiting(queues, job(f"j{number}")))

    queue = only(queues)
    assert len(queue.classes["interactive"].heap) < 100
    head = queue.classes["interactive"].head()
    assert head is not None
    assert head.job is kept


def test_the_next_few_are_told_in_turn_without_those_that_have_gone() -> None:
    queues = Queues()
    jobs = [waiting(queues, job(f"j{number}")) for number in range(6)]
    queues.remove(jobs[1])

    entries = only(queues).classes["interactive"].first(4)
    jobs_ = [entry.job for entry in entries if entry.job is not None]
    assert [one.spec.job_id for one in jobs_] == ["j0", "j2", "j3", "j4"]


def test_a_forecast_counts_the_requests_for_a_model_and_no_batch_work() -> None:
    queues = Queues()
    gone = waiting(queues, job("gone", tokens=100))
    for number in range(9):
        waiting(queues, job(f"j{number}", tokens=100))
    waiting(queues, job("other", digest=OTHER, tokens=5000))
    waiting(queues, job("batch", tokens=5000, priority="batch"))

    assert edge_tokens(queues, MODEL) == 1000
    queues.remove(gone)
    assert edge_tokens(queues, MODEL) == 900


def test_each_demand_on_nodes_has_a_queue_of_its_own() -> None:
    queues = Queues()
    waiting(queues, job("anywhere"))
    waiting(queues, job("europe", region="EU"))
    waiting(queues, job("pair", verify="always"))
    waiting(queues, job("other", digest=OTHER))

    assert len(queues.all) == len(list(queues.waiting("edge"))) == 4
    assert list(queues.waiting("cloud")) == []


# ── in the scheduler ─────────────────────────────────────────────────────────────────────────────


def test_a_region_that_has_nobody_holds_up_no_other() -> None:
    s = scheduler(edge_budget_s=60)
    join(s, TAB, region="NA-US", slots=1)
    join(s, WORKER, trusted=True, slots=1)
    # The CPU worker and the tab are busy; then the tab has room.
    submit(s, job("cloud", placement="cloud"), job("tab"))
    submit(s, *(job(f"eu{number}", region="EU") for number in range(10)), job("anywhere"))

    effects = finish(s, TAB, "a2", now=0.1)

    assert [item.input for item in sent(effects)[TAB]] == ["text of anywhere"]


def test_one_project_may_fill_only_its_share_of_the_queue() -> None:
    s = scheduler(max_queued=10, project_share=0.5)
    join(s, SLOW, slots=1, tokens_per_s=1000)

    greedy = submit(s, *(job(f"g{number}", project="greedy") for number in range(8)))
    others = submit(s, *(job(f"o{number}", project="other") for number in range(4)))

    assert failures(greedy) == [("g6", "overloaded"), ("g7", "overloaded")]
    assert failures(others) == []


def test_a_project_may_queue_again_when_what_it_had_is_gone() -> None:
    s = scheduler(max_queued=10, project_share=0.1)
    join(s, TAB, slots=1)
    submit(s, job("running"), job("waits"))
    refused = submit(s, job("refused"))
    finish(s, TAB, "a1", now=0.1)

    assert failures(refused) == [("refused", "overloaded")]
    assert failures(submit(s, job("again"), now=0.2)) == []


def test_a_job_that_has_tried_the_free_node_lets_the_next_one_pass() -> None:
    s = scheduler(edge_budget_s=60)
    join(s, TAB, slots=1, rtt_s=0.01)
    join(s, SLOW, slots=1)
    submit(s, job("held", tokens=500), job("tried"), job("next"))
    [attempt_id] = s.board.nodes[SLOW].attempts
    s.handle(ev.AttemptFailed(SLOW, attempt_id, "node", HANDED_BACK), now=0.1)

    effects = s.handle(ev.Tick(), now=1.2)  # the moment it is left out for is over

    assert [item.input for item in sent(effects)[SLOW]] == ["text of next"]
