"""Batches in the background: requests pass them, everything else that has room is theirs."""

from __future__ import annotations

import random

import pytest

from browser_node.protocol import AttemptId, NodeId
from orchestrator.domain import effects as fx
from orchestrator.domain import events as ev
from orchestrator.domain import router
from orchestrator.domain.index import BACKGROUND_RUN_TOKENS
from orchestrator.domain.model import NewJob
from orchestrator.domain.placing import KEPT_FREE_S
from orchestrator.domain.scheduler import Scheduler
from orchestrator.domain.trust import Policy
from orchestrator.domain.turns import AGEING_S, BATCH_TURN
from tests.orchestrator.domain.fleet_of import (
    MODEL,
    OTHER,
    SPARE,
    TAB,
    WORKER,
    delivered,
    failures,
    finish,
    job,
    join,
    scheduler,
    sent,
    submit,
)
from tests.orchestrator.domain.stage import Stage


def lines(count: int, *, tokens: int = 20, name: str = "line", **rules: object) -> list[NewJob]:
    return [
        job(f"{name}{n}", tokens=tokens, priority="batch", deadline_s=600, **rules)  # type: ignore[arg-type]
        for n in range(count)
    ]


def held(s: Scheduler, node_id: NodeId) -> list[AttemptId]:
    return list(s.board.nodes[node_id].attempts)


# ── requests pass ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("trusted", [False, True])
def test_a_request_starts_at_once_where_a_batch_has_all_it_may_have(trusted: bool) -> None:
    s = scheduler()
    node_id = WORKER if trusted else TAB
    join(s, node_id, trusted=trusted, slots=16, tokens_per_s=1000)
    submit(s, *lines(100))
    assert s.queued

    started = sent(submit(s, job("request"), now=0.1))

    assert [item.input for item in started[node_id]] == ["text of request"]
    assert not started[node_id][0].background


def test_a_long_request_starts_at_once_where_an_idle_node_would_take_it() -> None:
    s = scheduler()
    join(s, TAB, tokens_per_s=1000)
    submit(s, *lines(100))

    assert TAB in sent(submit(s, job("longer than a window", tokens=1500), now=0.1))


def test_lines_are_sent_as_background_and_requests_are_not() -> None:
    s = scheduler()
    join(s, TAB)

    items = [
        *sent(submit(s, *lines(1)))[TAB],
        *sent(submit(s, job("request"), now=0.1))[TAB],
    ]

    assert {item.input: item.background for item in items} == {
        "text of line0": True,
        "text of request": False,
    }


def test_a_request_is_forecast_to_wait_for_one_run_of_the_background_at_most() -> None:
    s = scheduler()
    join(s, TAB, slots=64, tokens_per_s=1000, rtt_s=0.3)
    submit(s, *lines(100))
    node = s.board.nodes[TAB]
    assert node.background_tokens > 2 * BACKGROUND_RUN_TOKENS

    submit(s, job("request", tokens=10), now=0.1)

    [placed] = [p for p in s.board.decisions.latest(1) if p.job_id == "request"]
    assert placed.decision.backlog_s == pytest.approx(BACKGROUND_RUN_TOKENS / 1000)


def test_what_waits_of_a_batch_keeps_no_request_from_the_edge() -> None:
    s = scheduler()
    join(s, TAB, slots=4, tokens_per_s=100)
    join(s, WORKER, trusted=True, tokens_per_s=10_000)
    submit(s, *lines(500))

    assert TAB in sent(submit(s, job("request"), now=0.1))


def test_what_waits_of_a_batch_is_no_reason_to_refuse_a_request() -> None:
    s = scheduler()
    join(s, WORKER, trusted=True, slots=4, tokens_per_s=100)
    submit(s, *lines(500, placement="cloud"))

    # Four seconds of requests are before it; of the batch, a thousand.
    requests = [job(f"r{n}", tokens=100, deadline_s=10) for n in range(4)]
    assert not failures(submit(s, *requests, now=0.1))


def test_a_line_that_waits_for_a_region_keeps_no_request_from_it() -> None:
    s = scheduler()
    join(s, TAB, slots=4, tokens_per_s=100, region="EU-DE")
    join(s, WORKER, trusted=True, slots=4, tokens_per_s=100)
    submit(s, *lines(100, region="EU"))

    assert TAB in sent(submit(s, job("request", region="EU"), now=0.1))


# ── batches wait ─────────────────────────────────────────────────────────────────────────────────


def test_a_batch_waits_where_a_request_would_be_refused() -> None:
    s = scheduler()
    join(s, WORKER, trusted=True, slots=16, tokens_per_s=10)

    effects = submit(s, *(job(f"l{n}", tokens=40, priority="batch") for n in range(50)))

    assert not failures(effects)
    assert s.queued == 48


def test_a_line_that_nobody_took_by_its_deadline_fails_then_and_not_before() -> None:
    s = scheduler()
    join(s, WORKER, trusted=True, slots=2, tokens_per_s=1)
    submit(s, job("long", tokens=500, priority="batch", deadline_s=900))
    submit(s, job("late", priority="batch", deadline_s=60))

    before: list[fx.Effect] = []
    for second in range(1, 60):
        s.handle(ev.NodeHeard(WORKER), now=float(second))
        before += s.handle(ev.Tick(), now=float(second))

    assert not failures(before)
    assert ("late", "deadline_exceeded") in failures(s.handle(ev.Tick(), now=60.0))


def test_a_line_fails_at_once_where_nobody_could_ever_take_it() -> None:
    assert failures(submit(scheduler(), *lines(1))) == [("line0", "no_capacity")]


def test_lines_that_wait_fail_when_the_last_that_could_take_them_is_gone() -> None:
    s = scheduler()
    join(s, TAB, slots=2)
    submit(s, *lines(3))

    effects = s.handle(ev.NodeLeft(TAB, "bye"), now=0.1)

    assert {code for _, code in failures(effects)} == {"no_capacity"}
    assert len(failures(effects)) == 3


def test_a_line_is_not_hedged() -> None:
    s = scheduler(hedge_share=1.0)
    join(s, WORKER, trusted=True)
    join(s, TAB)
    submit(s, job("line", priority="batch"))

    effects = s.handle(ev.Tick(), now=1.9)

    assert held(s, TAB)
    assert WORKER not in sent(effects)


def test_a_line_stays_where_requests_are_answered_before_it() -> None:
    s = scheduler()
    join(s, WORKER, trusted=True)
    join(s, TAB)
    submit(s, job("line", priority="batch"))
    [line] = held(s, TAB)

    for second in range(1, 19):
        submit(s, job(f"r{second}"), now=float(second))
        finish(s, TAB, *(a for a in held(s, TAB) if a != line), now=second + 0.1)

    assert held(s, TAB) == [line]
    assert WORKER in sent(s.handle(ev.Tick(), now=20.0))


def test_a_line_moves_on_when_its_lease_ends() -> None:
    s = scheduler()
    join(s, WORKER, trusted=True)
    join(s, TAB)
    submit(s, job("line", priority="batch"))

    assert WORKER in sent(s.handle(ev.Tick(), now=2.5))


def test_a_line_may_take_longer_on_the_edge_than_a_request() -> None:
    s = scheduler(edge_budget_s=5)
    join(s, TAB, tokens_per_s=10)
    join(s, WORKER, trusted=True)

    assert TAB in sent(submit(s, job("line", tokens=70, priority="batch", deadline_s=600)))
    assert WORKER in sent(submit(s, job("longer", tokens=120, priority="batch", deadline_s=600)))


# ── everything else is theirs ────────────────────────────────────────────────────────────────────


def test_a_batch_keeps_the_edge_and_the_cpu_worker_busy() -> None:
    s = scheduler()
    for node_id in (TAB, SPARE):
        join(s, node_id, slots=8)
    join(s, WORKER, trusted=True, slots=64, tokens_per_s=10_000)
    submit(s, *lines(400))
    now, answers = 0.0, []

    while s.board.jobs:
        now += 0.02
        for node_id in (TAB, SPARE, WORKER):
            assert held(s, node_id) or s.queued == 0, f"{node_id} is idle, and lines wait"
            answers += delivered(finish(s, node_id, *held(s, node_id)[:2], now=now))

    assert len(answers) == 400
    assert {node_id for _, _, node_id in answers} == {TAB, SPARE, WORKER}


def test_a_batch_takes_half_of_a_nodes_slots_at_most_and_one_at_least() -> None:
    s = scheduler()
    join(s, TAB, slots=8, tokens_per_s=100_000)
    join(s, SPARE, slots=1, tokens_per_s=100_000)

    submit(s, *lines(50))

    assert (len(held(s, TAB)), len(held(s, SPARE))) == (4, 1)


def test_a_batch_gets_on_where_requests_fill_the_window() -> None:
    s = scheduler()
    join(s, WORKER, trusted=True, slots=16, tokens_per_s=1000)
    submit(s, *(job(f"r{n}", tokens=100) for n in range(20)))

    assert WORKER in sent(submit(s, *lines(1), now=0.1))


def test_the_queues_of_batches_take_turns() -> None:
    s = scheduler()
    join(s, WORKER, trusted=True, slots=2)
    s.handle(ev.ModelReady(WORKER, OTHER, 1000.0), now=0.0)
    submit(s, *lines(20), *lines(20, name="other", digest=OTHER))
    order = []

    for step in range(10):
        [item] = sent(finish(s, WORKER, held(s, WORKER)[0], now=0.1 + step / 100))[WORKER]
        order.append(item.digest)

    assert order.count(MODEL) == order.count(OTHER) == 5


def test_a_line_that_may_not_run_on_the_edge_holds_up_none_that_may() -> None:
    s = scheduler()
    join(s, WORKER, trusted=True, slots=2)
    submit(s, *lines(20, placement="cloud"))
    join(s, TAB)

    assert TAB in sent(submit(s, *lines(1, name="any"), now=0.1))


def test_lines_that_lost_their_node_hold_up_none_that_could_still_go_there() -> None:
    s = scheduler()
    join(s, TAB, slots=2)
    join(s, WORKER, trusted=True, slots=2, tokens_per_s=1)
    submit(s, *lines(30))
    [lost] = held(s, TAB)
    s.handle(ev.AttemptFailed(TAB, lost, "node", "handed_back"), now=0.1)

    effects = s.handle(ev.NodeHeard(TAB), now=1.2)

    assert [item.input for item in sent(effects)[TAB]] != ["text of line0"]


def test_requests_that_take_every_slot_leave_one_in_ten_to_a_batch_that_waits_long() -> None:
    s = scheduler(edge_budget_s=60)
    join(s, WORKER, trusted=True, slots=1, tokens_per_s=1e6)
    submit(s, *(job(f"r{n}", deadline_s=600) for n in range(100)), *lines(5))
    now, order = AGEING_S, []

    for _ in range(50):
        now += 0.01
        [item] = sent(finish(s, WORKER, *held(s, WORKER), now=now))[WORKER]
        order.append(item.background)

    assert order.count(True) == 50 // BATCH_TURN
    first = order.index(True)
    assert order[first : first + BATCH_TURN] == [True, *[False] * (BATCH_TURN - 1)]


# ── where requests go, no lines do ───────────────────────────────────────────────────────────────


def test_lines_leave_the_node_alone_that_has_just_had_a_request() -> None:
    s = scheduler()
    join(s, TAB, tokens_per_s=2000)
    join(s, SPARE, tokens_per_s=1000)
    assert TAB in sent(submit(s, job("request")))

    started = sent(submit(s, *lines(50), now=KEPT_FREE_S / 2))

    assert started.keys() == {SPARE}
    assert sent(submit(s, job("next"), now=KEPT_FREE_S / 2)).keys() == {TAB}
    [line] = [p for p in s.board.decisions.latest(9) if p.job_id == "line0"]
    assert line.decision.skipped["kept_for_requests"] == 1


def test_lines_come_back_once_requests_stay_away_whatever_else_happens_or_not() -> None:
    s = scheduler()
    join(s, TAB)
    s.handle(ev.WorkerExpected(True), now=0.0)
    submit(s, job("request"))
    finish(s, TAB, *held(s, TAB), now=0.1)
    assert not sent(submit(s, *lines(1), now=0.2))

    assert TAB not in sent(s.handle(ev.Tick(), now=KEPT_FREE_S - 0.1))
    assert TAB in sent(s.handle(ev.Tick(), now=KEPT_FREE_S))
    assert s.next_wakeup() is not None


def test_a_line_that_has_waited_long_runs_beside_requests() -> None:
    s = scheduler()
    join(s, TAB, slots=8)
    s.handle(ev.WorkerExpected(True), now=0.0)
    submit(s, job("r0"))
    submit(s, *lines(1))
    for tenth in range(1, 100):
        now = tenth / 10
        requests = [a for a in held(s, TAB) if not s.board.attempts[a].background]
        finish(s, TAB, *requests, now=now)
        submit(s, job(f"r{tenth}"), now=now)
        assert not s.board.nodes[TAB].background

    assert TAB in sent(submit(s, job("last"), now=AGEING_S))
    assert s.board.nodes[TAB].background == 1


def test_lines_run_beside_requests_where_nobody_else_takes_them() -> None:
    s = scheduler()
    for node_id in (TAB, SPARE):
        join(s, node_id, tokens_per_s=1000)
        submit(s, job(f"request to {node_id}"))

    assert sent(submit(s, *lines(1), now=0.1))


def test_lines_wait_for_the_node_that_computes_others_rather_than_disturb_requests() -> None:
    s = scheduler()
    join(s, TAB, tokens_per_s=2000)
    join(s, SPARE, tokens_per_s=1000)
    submit(s, job("request"))

    assert sent(submit(s, *lines(50), now=0.1)).keys() == {SPARE}
    assert sent(finish(s, SPARE, held(s, SPARE)[0], now=0.2)).keys() == {SPARE}


def test_lines_leave_no_cpu_worker_alone() -> None:
    s = scheduler()
    join(s, WORKER, trusted=True)
    submit(s, job("request"))

    assert WORKER in sent(submit(s, *lines(1), now=0.1))


# ── trust ────────────────────────────────────────────────────────────────────────────────────────


def test_a_line_that_the_cpu_worker_takes_tries_a_newcomer_too() -> None:
    st = Stage(policy=Policy())
    st.join(WORKER, trusted=True)
    st.join(TAB, newcomer=True)

    st.submit(*lines(1))

    assert st.purposes(TAB) == ["trial"]
    assert [item.background for item in st.held[TAB].values()] == [True]


def test_known_answers_are_asked_in_the_background_while_lines_are() -> None:
    st = Stage(policy=Policy(), known=40)
    st.join(WORKER, trusted=True)
    st.submit(*lines(900, placement="cloud"))

    st.join(TAB, newcomer=True)

    assert set(st.purposes(TAB)) == {"replay"}
    assert [item.background for item in st.held[TAB].values()] == [True, True]


def test_audits_do_not_wait_until_a_batch_is_over() -> None:
    st = Stage(policy=Policy(audit_share=1.0))
    st.join(WORKER, trusted=True, slots=16)
    st.join(TAB)
    st.submit(*lines(400, placement="cloud"))
    st.submit(job("j"))

    st.answer(TAB)

    assert "audit" in st.purposes(WORKER)


def test_the_forecast_of_a_line_counts_all_that_its_node_holds() -> None:
    s = scheduler()
    join(s, TAB, slots=64, rtt_s=0.3)
    submit(s, *lines(10))
    submit(s, job("request", tokens=50))
    node = s.board.nodes[TAB]

    background = router.finish_s(node, digest=MODEL, tokens=20, background=True)

    assert background == pytest.approx(0.3 + (10 * 20 + 50 + 20) / 1000)
    assert router.finish_s(node, digest=MODEL, tokens=20) < background


def test_room_in_the_background_grows_with_the_round_trip() -> None:
    near, far = scheduler(), scheduler()
    for s, rtt_s in ((near, 0.001), (far, 0.2)):
        join(s, TAB, slots=64, rtt_s=rtt_s)
        submit(s, *lines(100))

    assert (len(held(near, TAB)), len(held(far, TAB))) == (5, 15)


def test_rooms_are_found_again_whatever_order_things_end_in() -> None:
    s, rng = scheduler(), random.Random(3)
    join(s, TAB, slots=16)
    submit(s, *lines(60))
    submit(s, *(job(f"r{n}", deadline_s=600) for n in range(40)))
    now = 0.0

    while s.board.jobs:
        now += 0.01
        if attempts := held(s, TAB):
            finish(s, TAB, rng.choice(attempts), now=now)
        else:
            s.handle(ev.Tick(), now=now)

    node = s.board.nodes[TAB]
    assert (node.background, node.background_tokens, node.outstanding_tokens) == (0, 0, 0)
