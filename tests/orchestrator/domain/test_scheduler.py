from __future__ import annotations

import pytest

from browser_node.protocol import HANDED_BACK, AttemptId, CloseCode, NodeId
from orchestrator.domain import effects as fx
from orchestrator.domain import events as ev
from orchestrator.domain import router
from orchestrator.domain.model import JobId
from orchestrator.domain.trust import Identity
from tests.orchestrator.domain.fleet_of import (
    MODEL,
    OTHER,
    RUNTIME,
    SLOW,
    SPARE,
    TAB,
    WORKER,
    delivered,
    failures,
    finish,
    job,
    join,
    proven,
    scheduler,
    sent,
    submit,
)

# ── placement ────────────────────────────────────────────────────────────────────────────────────


def test_a_job_goes_to_the_tab_even_though_the_cpu_worker_is_faster() -> None:
    s = scheduler()
    join(s, WORKER, trusted=True, tokens_per_s=50_000, rtt_s=0.0)
    join(s, TAB, tokens_per_s=500, rtt_s=0.2)

    assert list(sent(submit(s, job("j")))) == [TAB]


def test_a_job_goes_to_the_node_that_is_expected_to_finish_first() -> None:
    s = scheduler()
    join(s, SLOW, tokens_per_s=100)
    join(s, TAB, tokens_per_s=2000)

    assert list(sent(submit(s, job("j", tokens=100)))) == [TAB]


def test_backlog_counts_so_that_two_equal_nodes_share_the_work() -> None:
    s = scheduler()
    join(s, TAB)
    join(s, SPARE)

    effects = submit(s, *(job(f"j{n}", tokens=50) for n in range(8)))

    assert {node: len(items) for node, items in sent(effects).items()} == {TAB: 4, SPARE: 4}


def test_work_is_shared_in_proportion_to_measured_speed() -> None:
    s = scheduler(edge_budget_s=60)
    speeds = {TAB: 3000.0, SLOW: 1000.0}
    for node_id, tokens_per_s in speeds.items():
        join(s, node_id, tokens_per_s=tokens_per_s, slots=64)
    done = dict.fromkeys(speeds, 0)
    clock = dict.fromkeys(speeds, 0.0)  # when each node has worked off what it did so far
    held: dict[NodeId, list[tuple[str, float]]] = {node_id: [] for node_id in speeds}

    def receive(effects: list[fx.Effect], now: float) -> None:
        for node_id, items in sent(effects).items():
            held[node_id] += [(item.attempt_id, now) for item in items]

    def completion(node_id: NodeId) -> float:
        return max(clock[node_id], held[node_id][0][1]) + 30 / speeds[node_id]

    receive(submit(s, *(job(f"j{n}", tokens=30) for n in range(200))), 0.0)
    while any(held.values()):
        node_id = min((n for n in speeds if held[n]), key=completion)
        now = clock[node_id] = completion(node_id)
        attempt, _ = held[node_id].pop(0)
        done[node_id] += 1
        s.handle(ev.NodeHeard(node_id), now=now)
        receive(finish(s, node_id, attempt, now=now), now)

    assert sum(done.values()) == 200
    assert 2.0 < done[TAB] / done[SLOW] < 4.5


def test_a_request_of_many_jobs_reaches_each_node_in_one_frame() -> None:
    s = scheduler()
    join(s, TAB, tokens_per_s=10_000)

    effects = submit(s, *(job(f"j{n}") for n in range(6)))

    assert [type(e) for e in effects] == [fx.SendJobs]


def test_slots_are_never_exceeded_and_the_rest_waits_for_them() -> None:
    s = scheduler()
    join(s, TAB, slots=2)

    first = sent(submit(s, *(job(f"j{n}") for n in range(5))))
    second = sent(finish(s, TAB, "a1", now=0.1))

    assert len(first[TAB]) == 2
    assert [item.input for item in second[TAB]] == ["text of j2"]


def test_outstanding_tokens_stay_within_two_batches() -> None:
    s = scheduler()
    join(s, TAB, tokens_per_s=1000, slots=64)

    effects = submit(s, *(job(f"j{n}", tokens=100) for n in range(20)))

    assert sum(item.tokens for item in sent(effects)[TAB]) == 500


def test_a_single_long_job_runs_although_it_exceeds_the_window() -> None:
    s = scheduler()
    join(s, TAB, tokens_per_s=100)

    assert sent(submit(s, job("j", tokens=256)))[TAB]


def test_a_node_without_enough_memory_is_passed_over() -> None:
    s = scheduler()
    join(s, TAB, memory_mb=256)
    join(s, WORKER, trusted=True)

    assert list(sent(submit(s, job("j")))) == [WORKER]


def test_a_job_that_must_run_in_the_cloud_never_reaches_a_tab() -> None:
    s = scheduler()
    join(s, TAB)
    join(s, WORKER, trusted=True)

    assert list(sent(submit(s, job("j", placement="cloud")))) == [WORKER]


def test_a_paused_or_hidden_node_gets_nothing() -> None:
    s = scheduler()
    join(s, TAB)
    join(s, SPARE)
    join(s, WORKER, trusted=True)
    s.handle(ev.CapacityChanged(TAB, 0, "paused", "paused by the visitor"), now=0)
    s.handle(ev.CapacityChanged(SPARE, 4, "hidden", "the tab is hidden"), now=0)

    assert list(sent(submit(s, job("j")))) == [WORKER]


def test_a_throttled_node_still_works() -> None:
    s = scheduler()
    join(s, TAB)
    s.handle(ev.CapacityChanged(TAB, 2, "throttled", "half speed"), now=0)

    assert list(sent(submit(s, job("j")))) == [TAB]


# ── the CPU worker ───────────────────────────────────────────────────────────────────────────────


def test_without_any_tab_the_cpu_worker_answers_and_it_says_cloud() -> None:
    s = scheduler()
    join(s, WORKER, trusted=True)
    submit(s, job("j"))

    assert delivered(finish(s, WORKER, "a1", now=0.1)) == [("j", "cloud", WORKER)]


def test_a_job_no_tab_can_finish_within_the_edge_budget_goes_to_the_cpu_worker() -> None:
    s = scheduler(edge_budget_s=1.0)
    join(s, SLOW, tokens_per_s=10)
    join(s, WORKER, trusted=True)

    assert list(sent(submit(s, job("j", tokens=100)))) == [WORKER]


def test_what_waits_for_the_edge_beyond_its_budget_goes_to_the_cpu_worker() -> None:
    s = scheduler(edge_budget_s=0.5)
    join(s, TAB, slots=1, tokens_per_s=1000)
    join(s, WORKER, trusted=True)
    submit(s, job("held", tokens=250), job("waits", tokens=10))

    effects = s.handle(ev.Tick(), now=0.5)

    assert [item.input for item in sent(effects)[WORKER]] == ["text of waits"]


def test_nothing_and_nobody_fails_at_once_with_a_time_to_come_back() -> None:
    effects = submit(scheduler(), job("j"))

    assert failures(effects) == [("j", "no_capacity")]
    assert isinstance(effects[0], fx.Fail)
    assert effects[0].failure.retry_after_s == 5.0


def test_a_job_waits_while_the_cpu_worker_is_being_restarted() -> None:
    s = scheduler()
    s.handle(ev.WorkerExpected(True), now=0)

    assert submit(s, job("j")) == []
    assert list(sent(join(s, WORKER, trusted=True, now=1.0))) == [WORKER]


def test_a_job_that_waits_for_a_worker_nobody_expects_any_more_fails() -> None:
    s = scheduler()
    s.handle(ev.WorkerExpected(True), now=0)
    submit(s, job("j"))

    assert failures(s.handle(ev.WorkerExpected(False), now=1)) == [("j", "no_capacity")]


def test_without_a_cpu_worker_a_job_waits_for_a_tab_that_is_loading() -> None:
    s = scheduler()
    s.handle(ev.NodeJoined(TAB, False, identity=Identity(TAB), runtime=RUNTIME), now=0)
    s.handle(ev.StandingRecalled(Identity(TAB), RUNTIME, proven(TAB)), now=0)
    s.handle(ev.CapacityChanged(TAB, 4, "active", ""), now=0)
    s.handle(ev.ModelLoading(TAB, MODEL), now=0)

    assert submit(s, job("j")) == []
    assert list(sent(s.handle(ev.ModelReady(TAB, MODEL, 1000), now=3))) == [TAB]


# ── attempts that end badly ──────────────────────────────────────────────────────────────────────


def test_a_closed_tabs_jobs_move_at_once_to_another_tab() -> None:
    s = scheduler()
    join(s, TAB)
    submit(s, job("j"))
    join(s, SPARE)

    effects = s.handle(ev.NodeLeft(TAB, "closed"), now=0.5)

    assert list(sent(effects)) == [SPARE]
    assert fx.Rerouted(JobId("j"), TAB, "closed") in effects


def test_after_two_edge_attempts_the_cpu_worker_takes_over() -> None:
    s = scheduler()
    join(s, WORKER, trusted=True)
    join(s, TAB, rtt_s=0.01)
    join(s, SPARE)
    submit(s, job("j"))
    second = s.handle(ev.NodeLeft(TAB, "closed"), now=0.1)
    join(s, SLOW, now=0.2)

    third = s.handle(ev.NodeLeft(SPARE, "closed"), now=0.3)

    assert list(sent(second)) == [SPARE]
    assert list(sent(third)) == [WORKER]


def test_an_expired_lease_moves_the_job_and_marks_the_node_stale() -> None:
    s = scheduler()
    join(s, WORKER, trusted=True)
    join(s, TAB)
    lease_s = sent(submit(s, job("j")))[TAB][0].lease_s

    effects = s.handle(ev.Tick(), now=lease_s)

    assert fx.SendCancel(TAB, (AttemptId("a1"),)) in effects
    assert list(sent(effects)) == [WORKER]
    assert list(sent(submit(s, job("k"), now=lease_s))) == [WORKER]


def test_a_stale_node_is_used_again_once_it_is_heard() -> None:
    s = scheduler()
    join(s, WORKER, trusted=True)
    join(s, TAB)
    submit(s, job("j"))
    s.handle(ev.Tick(), now=19)
    s.handle(ev.NodeHeard(TAB), now=21)
    s.handle(ev.NodeHeard(WORKER), now=21)

    assert list(sent(submit(s, job("k"), now=21))) == [WORKER]
    assert list(sent(submit(s, job("l"), now=35))) == [TAB]


def test_a_node_that_answers_pings_and_no_jobs_gets_fewer_and_fewer() -> None:
    s = scheduler()
    join(s, WORKER, trusted=True)
    join(s, TAB, tokens_per_s=1e9, slots=256)
    given = 0
    for second in range(600):
        s.handle(ev.NodeHeard(TAB), now=second)
        s.handle(ev.NodeHeard(WORKER), now=second)
        handed = sent(submit(s, job(f"j{second}"), now=second))
        given += len(handed.get(TAB, []))
        for item in handed.get(WORKER, []):
            finish(s, WORKER, item.attempt_id, now=second)

    # Some a back-off of 15, 30, 60 … seconds, not one a second.
    assert 0 < given <= 25


def test_a_node_that_blames_good_inputs_pays_for_it() -> None:
    s = scheduler()
    join(s, WORKER, trusted=True)
    join(s, TAB)
    submit(s, job("j"))
    s.handle(ev.AttemptFailed(TAB, AttemptId("a1"), "input", "too hard"), now=0.1)

    finish(s, WORKER, "a2", now=0.2)

    assert s.board.nodes[TAB].failures == 1
    assert list(sent(submit(s, job("k"), now=1))) == [WORKER]


def test_a_model_the_worker_has_lost_holds_up_no_other_model() -> None:
    s = scheduler()
    join(s, WORKER, trusted=True, slots=2)
    s.handle(ev.ModelLost(WORKER, OTHER), now=0)

    effects = submit(s, job("lost", digest=OTHER), job("fine"))

    assert failures(effects) == [("lost", "no_capacity")]
    assert [item.input for item in sent(effects)[WORKER]] == ["text of fine"]


def test_a_hung_worker_is_given_up_after_twenty_seconds_without_work() -> None:
    s = scheduler()
    join(s, WORKER, trusted=True)
    closed = []
    for second in range(1, 23):
        effects = s.handle(ev.Tick(), now=second)
        closed += [e.node_id for e in effects if isinstance(e, fx.CloseNode)]

    assert closed == [WORKER]


def test_a_late_result_is_counted_and_not_delivered() -> None:
    s = scheduler()
    join(s, WORKER, trusted=True)
    join(s, TAB)
    submit(s, job("j"))
    s.handle(ev.Tick(), now=20)
    first = delivered(finish(s, WORKER, "a2", now=20.1))
    late = finish(s, TAB, "a1", now=20.2)

    assert first == [("j", "cloud", WORKER)]
    assert delivered(late) == []
    assert s.counters.late_results == 1


def test_the_same_attempt_answered_twice_in_one_frame_is_delivered_once() -> None:
    s = scheduler()
    join(s, TAB)
    submit(s, job("j"))

    assert len(delivered(finish(s, TAB, "a1", "a1", now=0.1))) == 1


def test_a_result_for_another_nodes_attempt_is_ignored() -> None:
    s = scheduler()
    join(s, TAB)
    join(s, SLOW, tokens_per_s=1)
    submit(s, job("j"))

    assert delivered(finish(s, SLOW, "a1", now=0.1)) == []
    assert delivered(finish(s, TAB, "a1", now=0.2)) == [("j", "edge", TAB)]


def test_twenty_seconds_of_silence_close_a_node_that_holds_work() -> None:
    s = scheduler()
    join(s, TAB, tokens_per_s=10)
    submit(s, job("j", tokens=40))
    join(s, WORKER, trusted=True)
    s.board.attempts[AttemptId("a1")].lease_at = 1e9  # this test is about silence alone
    s.board.timers.clear()
    for second in range(1, 21):
        s.handle(ev.NodeHeard(WORKER), now=second)
        s.handle(ev.Tick(), now=second)

    effects = s.handle(ev.Tick(), now=21)

    assert [(e.node_id, e.code) for e in effects if isinstance(e, fx.CloseNode)] == [
        (TAB, CloseCode.TIMEOUT)
    ]
    assert list(sent(effects)) == [WORKER]


def test_an_idle_node_that_answers_no_probe_is_let_go() -> None:
    s = scheduler()
    join(s, TAB)
    pings = 0
    closed = []
    for second in range(1, 48):
        effects = s.handle(ev.Tick(), now=second)
        pings += sum(isinstance(e, fx.SendPing) for e in effects)
        closed += [(e.node_id, second) for e in effects if isinstance(e, fx.CloseNode)]

    assert pings == 1
    assert closed == [(TAB, 46)]
    assert not s.board.nodes


def test_a_failing_node_backs_off_and_its_job_goes_elsewhere() -> None:
    s = scheduler()
    join(s, WORKER, trusted=True)
    join(s, TAB)
    submit(s, job("j"))

    effects = s.handle(ev.AttemptFailed(TAB, AttemptId("a1"), "node", "out_of_memory"), now=0.1)

    assert list(sent(effects)) == [WORKER]
    assert list(sent(submit(s, job("k"), now=1))) == [WORKER]
    assert list(sent(submit(s, job("l"), now=16))) == [TAB]


def test_a_job_handed_back_costs_the_node_nothing() -> None:
    s = scheduler()
    join(s, WORKER, trusted=True)
    join(s, TAB)
    submit(s, job("j"))

    s.handle(ev.AttemptFailed(TAB, AttemptId("a1"), "node", HANDED_BACK), now=0.1)

    assert s.board.nodes[TAB].failures == 0
    assert list(sent(submit(s, job("k"), now=1.2))) == [TAB]


def test_a_strangers_word_that_the_input_is_bad_is_checked_by_the_cpu_worker() -> None:
    s = scheduler()
    join(s, WORKER, trusted=True)
    join(s, TAB, rtt_s=0.01)
    join(s, SPARE)
    submit(s, job("j"))

    moved = s.handle(ev.AttemptFailed(TAB, AttemptId("a1"), "input", "empty"), now=0.1)
    ended = s.handle(
        ev.AttemptFailed(WORKER, AttemptId("a2"), "input", "empty", "It is empty."), now=1
    )

    assert list(sent(moved)) == [WORKER]
    assert failures(ended) == [("j", "invalid_input")]


def test_a_job_that_kills_the_cpu_worker_three_times_is_given_up() -> None:
    s = scheduler()
    s.handle(ev.WorkerExpected(True), now=0)
    submit(s, job("poison"))
    ends = []
    for round_ in range(3):
        join(s, WORKER, trusted=True, now=round_)
        ends = s.handle(ev.NodeLeft(WORKER, "died"), now=round_ + 0.5)

    assert failures(ends) == [("poison", "internal_error")]


# ── deadlines, bounds, cancelling ────────────────────────────────────────────────────────────────


def test_a_job_nobody_answers_in_time_fails_truthfully_and_the_node_is_told() -> None:
    s = scheduler()
    join(s, WORKER, trusted=True)
    submit(s, job("j", deadline_s=1.0))

    effects = s.handle(ev.Tick(), now=1.0)

    assert failures(effects) == [("j", "deadline_exceeded")]
    assert fx.SendCancel(WORKER, (AttemptId("a1"),)) in effects


def test_a_full_queue_refuses_what_is_beyond_it() -> None:
    s = scheduler(max_queued=2)
    s.handle(ev.WorkerExpected(True), now=0)

    effects = submit(s, *(job(f"j{n}") for n in range(3)))

    assert failures(effects) == [("j2", "overloaded")]


def test_a_cancelled_job_frees_its_slot_and_is_never_delivered() -> None:
    s = scheduler()
    join(s, TAB, slots=1)
    submit(s, job("j"), job("k"))

    effects = s.handle(ev.JobsCancelled((JobId("j"),)), now=0.1)

    assert fx.SendCancel(TAB, (AttemptId("a1"),)) in effects
    assert [item.input for item in sent(effects)[TAB]] == ["text of k"]
    assert delivered(finish(s, TAB, "a1", now=0.2)) == []


def test_while_draining_nothing_new_is_taken_and_the_held_is_finished() -> None:
    s = scheduler()
    join(s, TAB)
    submit(s, job("held"))
    s.handle(ev.DrainStarted(), now=0)

    assert failures(submit(s, job("new"))) == [("new", "shutting_down")]
    assert delivered(finish(s, TAB, "a1", now=0.1)) == [("held", "edge", TAB)]


# ── measuring ────────────────────────────────────────────────────────────────────────────────────


def test_speed_follows_what_was_seen_and_not_what_was_claimed() -> None:
    s = scheduler(edge_budget_s=60)
    join(s, TAB, tokens_per_s=100_000)
    now = 0.0
    for number in range(1, 40):
        submit(s, job(f"j{number}", tokens=250), now=now)
        now += 1.0
        s.handle(ev.NodeHeard(TAB), now=now)
        finish(s, TAB, f"a{number}", now=now)

    # 250 tokens a second, seen 39 times.
    node = s.board.nodes[TAB]
    assert node.speeds[MODEL].tokens_per_s == pytest.approx(260, rel=0.1)
    assert router.finish_s(node, digest=MODEL, tokens=250) == pytest.approx(1, rel=0.1)


def test_a_node_that_keeps_its_forecasts_gets_shorter_leases() -> None:
    s = scheduler(edge_budget_s=60)
    join(s, TAB, tokens_per_s=100, rtt_s=0.0)
    submit(s, job("j0", tokens=300))
    first = s.board.attempts[AttemptId("a1")].lease_at
    now, number = 0.0, 1
    for _ in range(30):
        now += 3.0
        s.handle(ev.NodeHeard(TAB), now=now)
        finish(s, TAB, f"a{number}", now=now)
        submit(s, job(f"j{number}", tokens=300), now=now)
        number += 1
        lease = s.board.attempts[AttemptId(f"a{number}")].lease_at - now

    assert first == 9.5
    assert lease < 5.0


def test_the_next_wakeup_is_the_earliest_lease_deadline_or_tick() -> None:
    s = scheduler()
    assert s.next_wakeup() is None
    join(s, TAB)
    assert s.next_wakeup() == 1.0
    submit(s, job("j", deadline_s=0.5))
    assert s.next_wakeup() == 0.5


def test_the_first_node_after_there_was_none_starts_the_ticks_anew() -> None:
    s = scheduler()
    join(s, WORKER, trusted=True)
    s.handle(ev.NodeLeft(WORKER, "closed"), now=0.5)
    assert s.next_wakeup() is None

    join(s, SPARE, trusted=True, now=7.0)

    # Nobody was asked to tick in the meantime, so nothing is late.
    assert s.next_wakeup() == 8.0


def test_nodes_that_keep_coming_do_not_put_off_a_tick_that_is_due() -> None:
    s = scheduler()
    join(s, TAB)
    join(s, SPARE, now=3.0)
    join(s, SLOW, now=3.5)
    assert s.next_wakeup() == 1.0


def test_a_node_that_leaves_and_comes_back_at_once_does_not_put_off_the_tick() -> None:
    s = scheduler()
    for now in (0.0, 0.3, 0.6):
        join(s, TAB, now=now)
        s.handle(ev.NodeLeft(TAB, "closed"), now=now + 0.1)
    join(s, TAB, now=0.9)
    assert s.next_wakeup() == 1.0
