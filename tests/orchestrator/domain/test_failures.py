"""What becomes of jobs when nodes are slow, die, fail or cannot be had."""

from __future__ import annotations

from browser_node.protocol import AttemptId, JobItem, NodeId
from orchestrator.domain import effects as fx
from orchestrator.domain import events as ev
from tests.orchestrator.domain.fleet_of import (
    MODEL,
    OTHER,
    SLOW,
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


def only(effects: list[fx.Effect], node_id: NodeId) -> JobItem:
    [item] = sent(effects)[node_id]
    return item


# ── hedging ──────────────────────────────────────────────────────────────────────────────────────


def test_a_job_that_seems_slow_for_its_node_starts_on_the_cpu_worker_too() -> None:
    s = scheduler(hedge_share=0.05)
    join(s, WORKER, trusted=True)
    join(s, TAB, rtt_s=0.1)
    submit(s, job("j", tokens=100))  # 0.2 s expected, half of it either way, and nothing known

    early = s.handle(ev.Tick(), now=0.59)
    late = s.handle(ev.Tick(), now=0.61)

    assert sent(early) == {}
    assert list(sent(late)) == [WORKER]
    assert s.counters.hedged == 1


def test_the_first_answer_of_a_hedged_job_wins_and_the_other_node_is_told() -> None:
    s = scheduler(hedge_share=0.05)
    join(s, WORKER, trusted=True)
    join(s, TAB, rtt_s=0.1)
    submit(s, job("j", tokens=100))
    s.handle(ev.Tick(), now=0.65)

    won = finish(s, WORKER, "a2", now=0.7)
    late = finish(s, TAB, "a1", now=0.8)

    assert delivered(won) == [("j", "cloud", WORKER)]
    assert fx.SendCancel(TAB, (AttemptId("a1"),)) in won
    assert delivered(late) == []
    # It came too late for the customer, and in time to be held against the right answer.
    assert [type(effect) for effect in late] == [fx.Compare]


def test_what_a_hedge_finds_too_late_audits_the_node_that_was_faster() -> None:
    s = scheduler(hedge_share=0.05)
    join(s, WORKER, trusted=True)
    join(s, TAB, rtt_s=0.1)
    submit(s, job("j", tokens=100))
    s.handle(ev.Tick(), now=0.65)

    won = finish(s, TAB, "a1", now=0.7)
    late = finish(s, WORKER, "a2", now=0.8)

    assert delivered(won) == [("j", "edge", TAB)]
    [compare] = [effect for effect in late if isinstance(effect, fx.Compare)]
    assert compare.trusted.output == b"answer of a2"
    assert compare.answer.output == b"answer of a1"


def test_hedges_stay_within_their_share_of_all_jobs() -> None:
    s = scheduler(hedge_share=0.05, max_queued=10_000)
    join(s, WORKER, trusted=True, tokens_per_s=1e6, slots=256)
    join(s, TAB, tokens_per_s=1e5, slots=256)
    now = 0.0
    for number in range(600):
        now += 5.0
        handed = sent(submit(s, job(f"j{number}"), now=now))
        handed_too = sent(s.handle(ev.Tick(), now=now + 1.0))
        # The tab answers, always too late; the CPU worker's hedge is in vain.
        for item in handed.get(TAB, []):
            finish(s, TAB, item.attempt_id, now=now + 1.5)
        for item in [*handed.get(WORKER, []), *handed_too.get(WORKER, [])]:
            finish(s, WORKER, item.attempt_id, now=now + 1.6)

    assert 0 < s.counters.hedged <= 10 + 0.05 * 600


def test_without_a_cpu_worker_nothing_is_hedged() -> None:
    s = scheduler(hedge_share=0.05)
    join(s, TAB, rtt_s=0.1)
    submit(s, job("j"))

    assert sent(s.handle(ev.Tick(), now=1.0)) == {}


def test_a_node_whose_forecasts_held_is_hedged_sooner() -> None:
    s = scheduler(hedge_share=0.05)
    join(s, WORKER, trusted=True)
    join(s, TAB, rtt_s=0.1)
    for number in range(10):
        submit(s, job(f"j{number}", tokens=100), now=number)
        finish(s, TAB, f"a{number + 1}", now=number + 0.2)

    submit(s, job("j", tokens=100), now=20)

    assert s.board.attempts[AttemptId("a11")].hedge_at < 20.4


def test_the_second_of_a_pair_is_no_retry() -> None:
    s = scheduler()
    join(s, WORKER, trusted=True)
    join(s, TAB, network="x")
    join(s, SPARE, network="y")
    submit(s, *(job(f"j{number}", verify="always") for number in range(3)))

    assert s.placing.retries.spent == 0


# ── leases ───────────────────────────────────────────────────────────────────────────────────────


def test_progress_extends_a_lease_up_to_its_hard_end() -> None:
    s = scheduler()
    join(s, WORKER, trusted=True)
    join(s, TAB)
    first, second = sent(submit(s, job("j"), job("k")))[TAB]
    lease_at = s.board.attempts[AttemptId(second.attempt_id)].lease_at
    finish(s, TAB, first.attempt_id, now=lease_at - 0.1)

    extended = s.handle(ev.Tick(), now=lease_at + 0.1)
    over = s.handle(ev.Tick(), now=second.lease_s + 0.1)

    assert sent(extended) == {}
    assert list(sent(over)) == [WORKER]


def test_a_node_is_told_the_hard_end_of_its_lease() -> None:
    s = scheduler()
    join(s, TAB)
    item = only(submit(s, job("j")), TAB)
    attempt = s.board.attempts[AttemptId(item.attempt_id)]

    assert item.lease_s == attempt.hard_at > attempt.lease_at


def test_time_that_this_process_missed_is_nobodys_fault() -> None:
    s = scheduler()
    join(s, WORKER, trusted=True)
    join(s, TAB)
    submit(s, job("j", deadline_s=600))

    s.handle(ev.Overslept(60.0), now=60.1)
    after = s.handle(ev.Tick(), now=60.1)

    assert not [e for e in after if isinstance(e, fx.CloseNode | fx.Rerouted | fx.SendJobs)]
    assert s.board.nodes[TAB].failures == 0
    assert delivered(finish(s, TAB, "a1", now=60.2)) == [("j", "edge", TAB)]


def test_a_stall_counts_as_one_failure_however_many_leases_it_ends() -> None:
    s = scheduler()
    join(s, WORKER, trusted=True)
    join(s, TAB)
    submit(s, *(job(f"j{number}") for number in range(6)))

    s.handle(ev.Tick(), now=15.0)

    assert s.board.nodes[TAB].failures == 1


def test_a_job_waits_for_the_edge_no_longer_than_twice_what_was_expected() -> None:
    s = scheduler()
    join(s, WORKER, trusted=True)
    join(s, TAB, slots=1, tokens_per_s=1000)
    submit(s, job("held", tokens=200), job("waits", tokens=10))  # 0.23 s until it is answered

    early = s.handle(ev.Tick(), now=0.6)
    late = s.handle(ev.Tick(), now=0.75)

    assert sent(early) == {}
    assert [item.input for item in sent(late)[WORKER]] == ["text of waits"]


# ── nodes that die with work ─────────────────────────────────────────────────────────────────────


def test_a_job_whose_node_died_runs_alone_on_the_next() -> None:
    s = scheduler()
    join(s, TAB, rtt_s=0.01)
    join(s, SPARE, rtt_s=0.01)
    join(s, SLOW, rtt_s=0.5)
    first = sent(submit(s, job("j"), job("k"), job("l")))
    dying = next(node for node, items in first.items() if len(items) == 2)
    other = SPARE if dying == TAB else TAB

    moved = sent(s.handle(ev.NodeLeft(dying, "closed"), now=0.1))

    # The other tab has work, so one suspect runs on the far node and the second waits for an idle.
    assert {node: len(items) for node, items in moved.items()} == {SLOW: 1}
    finish(s, other, first[other][0].attempt_id, now=0.2)
    assert s.board.nodes[other].alone
    assert other not in sent(submit(s, job("m"), now=0.2))


def test_a_node_that_says_good_bye_makes_nobody_suspect() -> None:
    s = scheduler()
    join(s, TAB)
    submit(s, job("j"), job("k"))
    join(s, SPARE)

    moved = sent(s.handle(ev.NodeLeft(TAB, "bye"), now=0.1))

    assert len(moved[SPARE]) == 2


def test_a_poisoned_input_meets_two_nodes_and_then_a_process_of_its_own() -> None:
    s = scheduler()
    join(s, WORKER, trusted=True)
    join(s, TAB, rtt_s=0.01)
    join(s, SPARE)
    join(s, SLOW, rtt_s=0.5)
    submit(s, job("poison"))
    second = only(s.handle(ev.NodeLeft(TAB, "closed"), now=0.1), SPARE)
    third = only(s.handle(ev.NodeLeft(SPARE, "closed"), now=0.2), WORKER)
    crashed = ev.AttemptFailed(
        WORKER, AttemptId(third.attempt_id), "input", "crashed_in_isolation", "It crashed."
    )

    ended = s.handle(crashed, now=0.3)

    assert not second.isolated
    assert third.isolated
    assert failures(ended) == [("poison", "invalid_input")]
    assert list(s.board.workers) == [WORKER]


def test_a_job_that_took_a_tab_and_the_cpu_worker_down_is_isolated_on_the_next() -> None:
    s = scheduler()
    s.handle(ev.WorkerExpected(True), now=0)
    join(s, WORKER, trusted=True)
    join(s, TAB)
    submit(s, job("poison"))
    first = only(s.handle(ev.NodeLeft(TAB, "closed"), now=0.1), WORKER)
    s.handle(ev.NodeLeft(WORKER, "died"), now=0.2)

    second = only(join(s, NodeId("cpu2"), trusted=True, now=2.0), NodeId("cpu2"))

    assert (first.isolated, second.isolated) == (False, True)


def test_a_job_that_took_the_cpu_worker_down_is_put_to_nobody_elses_machine() -> None:
    s = scheduler()
    s.handle(ev.WorkerExpected(True), now=0)
    join(s, WORKER, trusted=True)
    submit(s, job("poison"))
    join(s, TAB)
    moved = sent(s.handle(ev.NodeLeft(WORKER, "died"), now=0.1))

    item = only(join(s, NodeId("cpu2"), trusted=True, now=2.0), NodeId("cpu2"))

    assert moved == {}
    assert item.isolated


def test_nobody_waits_long_for_the_edge_where_the_cpu_worker_would_be_done_sooner() -> None:
    s = scheduler()
    join(s, WORKER, trusted=True)
    join(s, TAB, slots=1, tokens_per_s=100)
    submit(s, job("held", tokens=20))

    soon = sent(submit(s, job("soon", tokens=5)))
    far = sent(submit(s, job("far", tokens=50)))

    assert soon == {}  # in 0.25 s
    assert list(far) == [WORKER]


def test_a_cpu_worker_that_is_as_busy_relieves_nobody() -> None:
    s = scheduler()
    join(s, WORKER, trusted=True, tokens_per_s=1000)
    join(s, TAB, slots=1, tokens_per_s=100)
    submit(s, job("cloud", tokens=300, placement="cloud"))
    submit(s, job("held", tokens=20))

    assert sent(submit(s, job("waits", tokens=30))) == {}  # in 0.5 s, there in 0.33 s


def test_a_node_whose_answer_is_late_gets_nothing_more_until_it_is_heard() -> None:
    s = scheduler(hedge_share=0.05)
    join(s, WORKER, trusted=True)
    join(s, TAB)
    submit(s, job("j"))

    late = s.handle(ev.Tick(), now=1.0)
    meanwhile = sent(submit(s, job("k"), now=1.0))
    s.handle(ev.NodeHeard(TAB), now=1.1)

    assert fx.SendPing(TAB) in late
    assert list(meanwhile) == [WORKER]
    assert list(sent(submit(s, job("l"), now=1.1))) == [TAB]


def test_a_late_node_is_waited_for_where_nobody_else_can_come() -> None:
    s = scheduler(hedge_share=0.05)
    join(s, WORKER, trusted=True)
    join(s, TAB, slots=1)
    submit(s, job("j"))
    s.handle(ev.ModelLost(WORKER, MODEL), now=0.1)
    s.handle(ev.Tick(), now=0.5)

    assert failures(submit(s, job("k"), now=0.5)) == []
    assert list(sent(finish(s, TAB, "a1", now=0.6))) == [TAB]


def test_what_waits_for_a_node_stays_when_that_is_late() -> None:
    s = scheduler(hedge_share=0.05)
    join(s, WORKER, trusted=True, slots=1)
    join(s, TAB, slots=1)
    submit(s, job("cloud", tokens=900, placement="cloud"), job("j"), job("k"))

    s.handle(ev.Tick(), now=0.26)

    assert s.board.nodes[TAB].late
    assert [item.input for item in sent(finish(s, TAB, "a2", now=0.27))[TAB]] == ["text of k"]


def test_a_late_node_is_pinged_once_until_it_answers() -> None:
    s = scheduler(hedge_share=0.05)
    join(s, WORKER, trusted=True)
    join(s, TAB)
    submit(s, *(job(f"j{number}") for number in range(4)))

    pings = [
        effect
        for tenths in range(10, 40)
        for effect in s.handle(ev.Tick(), now=tenths / 10)
        if effect == fx.SendPing(TAB)
    ]

    assert len(pings) == 1


def test_an_answer_that_comes_too_late_shows_that_the_node_is_there() -> None:
    s = scheduler(hedge_share=0.05)
    join(s, WORKER, trusted=True)
    join(s, TAB)
    first = only(submit(s, job("j")), TAB)
    hedge = only(s.handle(ev.Tick(), now=1.0), WORKER)
    finish(s, WORKER, hedge.attempt_id, now=1.1)

    finish(s, TAB, first.attempt_id, now=1.2)

    assert list(sent(submit(s, job("k"), now=1.2))) == [TAB]


def test_trouble_everywhere_does_not_multiply_the_load_on_the_edge() -> None:
    s = scheduler(retry_share=0.0)
    join(s, WORKER, trusted=True, slots=256, tokens_per_s=1e6)
    join(s, TAB, rtt_s=0.01)
    join(s, SPARE)
    submit(s, job("j"))

    assert list(sent(s.handle(ev.NodeLeft(TAB, "closed"), now=0.1))) == [WORKER]


# ── the last one there is ────────────────────────────────────────────────────────────────────────


def test_a_failing_node_is_used_when_the_cpu_worker_has_gone() -> None:
    s = scheduler()
    join(s, WORKER, trusted=True)
    join(s, TAB)
    submit(s, job("j"))
    s.handle(ev.AttemptFailed(TAB, AttemptId("a1"), "node", "oops"), now=0.1)
    s.handle(ev.NodeLeft(WORKER, "died"), now=0.2)

    assert list(sent(submit(s, job("k"), now=0.3))) == [TAB]


def test_a_node_backs_off_twice_as_long_with_each_failure_until_it_succeeds() -> None:
    s = scheduler()
    join(s, WORKER, trusted=True)
    join(s, TAB)
    waits, now = [], 0.0
    for number in range(3):
        s.handle(ev.NodeHeard(TAB), now=now)
        item = only(submit(s, job(f"j{number}"), now=now), TAB)
        failed = ev.AttemptFailed(TAB, AttemptId(item.attempt_id), "node", "oops")
        s.handle(failed, now=now)
        waits.append(s.board.nodes[TAB].retry_at - now)
        now = s.board.nodes[TAB].retry_at
    s.handle(ev.NodeHeard(TAB), now=now)
    item = only(submit(s, job("last"), now=now), TAB)
    finish(s, TAB, item.attempt_id, now=now)

    assert waits == [15.0, 30.0, 60.0]
    assert s.board.nodes[TAB].consecutive_failures == 0


# ── refusals say why ─────────────────────────────────────────────────────────────────────────────


def refusal(effects: list[fx.Effect]) -> dict[str, int]:
    [failure] = [effect.failure for effect in effects if isinstance(effect, fx.Fail)]
    return dict(failure.skipped or {})


def test_a_job_nobody_can_take_fails_with_a_count_of_nodes_by_reason() -> None:
    s = scheduler()
    for number in range(3):
        join(s, NodeId(f"paused{number}"))
        s.handle(ev.CapacityChanged(NodeId(f"paused{number}"), 0, "paused", "mouse"), now=0)
    join(s, NodeId("small"), memory_mb=100)
    join(s, NodeId("new"), newcomer=True)
    s.handle(ev.NodeJoined(NodeId("bare"), False), now=0)

    assert refusal(submit(s, job("j"))) == {
        "paused": 3,
        "no_memory": 1,
        "newcomer": 1,
        "not_loaded": 1,
        "no_cpu_worker": 1,
    }


def test_a_job_for_another_region_says_that_nodes_are_elsewhere() -> None:
    s = scheduler()
    join(s, TAB, region="NA-US")

    assert refusal(submit(s, job("j", region="EU"))) == {"other_region": 1, "no_cpu_worker": 1}


def test_a_project_for_one_region_is_answered_there_or_by_the_cpu_worker() -> None:
    s = scheduler()
    join(s, WORKER, trusted=True)
    join(s, TAB, region="NA-US", rtt_s=0.001)
    join(s, SPARE, region="EU-DE")
    join(s, SLOW, region="EU-FR")

    german = sent(submit(s, job("j", region="EU-DE")))
    european = sent(submit(s, *(job(f"k{n}", region="EU", tokens=200) for n in range(6))))

    assert list(german) == [SPARE]
    assert set(european) == {SPARE, SLOW, WORKER}


def test_the_last_decisions_tell_every_term_of_the_expected_finish_time() -> None:
    s = scheduler()
    join(s, TAB, tokens_per_s=1000, rtt_s=0.25)
    submit(s, job("j", tokens=100), job("k", tokens=50))
    s.handle(ev.AttemptFailed(TAB, AttemptId("a1"), "node", "oops"), now=0.1)

    last, first = [p for p in s.board.decisions.latest(10) if p.decision.node_id]

    assert (first.outcome, last.outcome) == ("failed", "running")
    d = last.decision
    assert (d.rtt_s, d.backlog_s, d.service_s, d.cold_load_s, d.penalty_s) == (
        0.25,
        0.1,
        0.05,
        0,
        0,
    )
    assert d.finish_s == d.rtt_s + d.backlog_s + d.service_s


def test_a_node_silent_for_long_is_asked_before_it_gets_work() -> None:
    s = scheduler()
    join(s, WORKER, trusted=True)
    join(s, TAB)
    s.handle(ev.NodeHeard(WORKER), now=99)

    effects = submit(s, job("j"), now=100.0)
    s.handle(ev.NodeHeard(TAB, 0.02), now=100.1)

    assert list(sent(effects)) == [WORKER]
    assert fx.SendPing(TAB) in effects
    assert list(sent(submit(s, job("k"), now=100.2))) == [TAB]


def test_probes_of_a_large_fleet_stay_within_two_hundred_a_second() -> None:
    s = scheduler()
    for number in range(1000):
        join(s, NodeId(f"n{number}"))
    most, asked = 0, set()
    for second in range(1, 35):
        pings = [e for e in s.handle(ev.Tick(), now=second) if isinstance(e, fx.SendPing)]
        most = max(most, len(pings))
        for ping in pings:
            asked.add(ping.node_id)
            s.handle(ev.NodeHeard(ping.node_id, 0.02), now=second)

    assert most == 200
    assert len(asked) == 1000


def test_a_model_nobody_has_is_loaded_where_there_is_room_for_it() -> None:
    s = scheduler()
    join(s, TAB)
    effects = submit(s, job("j", digest=OTHER))

    # A fleet without a CPU worker has no known answers: nobody could be calibrated.
    assert failures(effects) == [("j", "no_capacity")]
    assert MODEL in s.board.nodes[TAB].speeds
