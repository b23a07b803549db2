"""Crowded queues, reconnects and changed minds: where a rule that holds in peace could slip."""

from __future__ import annotations

from browser_node.protocol import AttemptId, NodeId
from orchestrator.domain import effects as fx
from orchestrator.domain import events as ev
from orchestrator.domain.trust import Identity, Policy, RuntimeClass
from tests.orchestrator.domain.fleet_of import (
    MODEL,
    RUNTIME,
    SPARE,
    TAB,
    WORKER,
    delivered,
    finish,
    job,
    join,
    scheduler,
    sent,
    submit,
)
from tests.orchestrator.domain.stage import Stage

# ── queues ───────────────────────────────────────────────────────────────────────────────────────


def test_who_comes_later_does_not_overtake_who_waits() -> None:
    s = scheduler()
    join(s, TAB, slots=2, tokens_per_s=1000)
    submit(s, job("a", tokens=200), job("big", tokens=490))

    submit(s, job("small", tokens=10))

    # There is room for the small one, and none yet for the big one that came before it.
    assert sent(finish(s, TAB, "a1", now=0.2))[TAB][0].input == "text of big"


def test_a_job_that_the_cpu_worker_cannot_reach_in_time_is_refused_at_once() -> None:
    s = scheduler()
    join(s, WORKER, trusted=True, tokens_per_s=100)
    submit(s, *(job(f"j{n}", tokens=100, deadline_s=60) for n in range(8)))

    [refused] = [
        effect.failure
        for effect in submit(s, job("late", tokens=10, deadline_s=5))
        if isinstance(effect, fx.Fail)
    ]

    assert refused.code == "no_capacity"
    assert refused.retry_after_s == 5.0
    assert "cpu_worker_busy" in (refused.skipped or {})


def test_short_requests_give_no_reason_to_refuse_long_ones() -> None:
    st = Stage()
    st.join(WORKER, trusted=True, slots=1, tokens_per_s=3_000, rtt_s=0.0)
    for number in range(30):
        st.submit(job(f"short{number}", tokens=3))
        st.answer(WORKER)  # in 20 ms: nearly all of it is the call, and not the tokens

    # 25,000 tokens: eight seconds by what the worker has calibrated, two minutes by the short ones.
    st.submit(*(job(f"long{number}", tokens=250, deadline_s=30) for number in range(100)))

    assert not st.failures()


def test_half_a_backlog_of_audits_goes_before_customers() -> None:
    st = Stage(policy=Policy(audit_share=1.0))
    st.join(WORKER, trusted=True, slots=1, tokens_per_s=10)
    st.join(TAB, slots=256, tokens_per_s=1e6)
    st.submit(*(job(f"cloud{n}", tokens=40, placement="cloud", deadline_s=1000) for n in range(9)))
    for number in range(140):
        st.submit(job(f"edge{number}"))
        st.answer(TAB)

    st.answer(WORKER)

    # Beyond half of what may wait, one audit runs although customers wait for the CPU worker.
    assert st.texts(WORKER)[-1].startswith("text of edge")


# ── minds that change ────────────────────────────────────────────────────────────────────────────


def test_texts_of_a_project_that_no_longer_allows_it_are_put_to_nobody() -> None:
    st = Stage(policy=Policy())
    st.join(WORKER, trusted=True)
    st.submit(job("secret"))
    st.answer(WORKER)
    st.submit(job("next", placement="cloud", replays=False))
    st.answer(WORKER)

    st.join(TAB, newcomer=True)

    assert "text of secret" not in st.texts(TAB)


def test_customers_texts_are_kept_for_ten_minutes() -> None:
    st = Stage(policy=Policy())
    st.join(WORKER, trusted=True)
    st.submit(job("old"))
    st.answer(WORKER)
    for second in range(0, 612, 4):
        st.now = float(second)
        st.s.handle(ev.NodeHeard(WORKER), now=st.now)
        st.s.handle(ev.Tick(), now=st.now)

    st.join(TAB, newcomer=True)

    assert "text of old" not in st.texts(TAB)


# ── reconnects ───────────────────────────────────────────────────────────────────────────────────


def test_a_reconnect_does_not_end_a_back_off() -> None:
    s = scheduler()
    join(s, WORKER, trusted=True)
    join(s, TAB)
    submit(s, job("j"))
    s.handle(ev.AttemptFailed(TAB, AttemptId("a1"), "node", "oops"), now=0.1)
    s.handle(ev.NodeLeft(TAB, "closed"), now=0.2)
    join(s, TAB, now=0.3)

    assert list(sent(submit(s, job("k"), now=0.4))) == [WORKER]
    assert list(sent(submit(s, job("l"), now=16))) == [TAB]


def test_to_take_jobs_stall_and_come_back_is_to_fail() -> None:
    s = scheduler()
    join(s, WORKER, trusted=True)
    join(s, TAB)
    submit(s, job("j"))
    s.handle(ev.NodeLeft(TAB, "closed"), now=1.5)
    join(s, TAB, now=1.6)

    assert list(sent(submit(s, job("k"), now=1.7))) == [WORKER]


def test_a_reconnect_does_not_renew_a_claim_of_speed() -> None:
    s = scheduler()
    join(s, TAB, tokens_per_s=1000)
    for number in range(20):
        s.handle(ev.NodeHeard(TAB), now=number)
        submit(s, job(f"j{number}", tokens=100), now=number)
        finish(s, TAB, f"a{number + 1}", now=number + 0.9)
    s.handle(ev.NodeLeft(TAB, "bye"), now=21)
    measured = 100 / 0.88

    join(s, TAB, now=22, tokens_per_s=1e6)

    assert s.board.nodes[TAB].speeds[MODEL].tokens_per_s < 3 * measured


def test_an_operators_drain_outlives_a_reconnect() -> None:
    s = scheduler()
    join(s, WORKER, trusted=True)
    join(s, TAB)
    s.handle(ev.NodeOrdered(TAB, "drain"), now=0.1)
    s.handle(ev.NodeLeft(TAB, "closed"), now=0.2)
    join(s, TAB, now=0.3)
    drained = sent(submit(s, job("j"), now=0.4))
    s.handle(ev.NodeOrdered(TAB, "resume"), now=0.5)

    assert list(drained) == [WORKER]
    assert list(sent(submit(s, job("k"), now=0.6))) == [TAB]


def test_a_ban_is_on_the_key_whatever_runtime_it_claims() -> None:
    s = scheduler()
    join(s, TAB)
    s.handle(ev.StandingOrdered(Identity(TAB), RUNTIME, "ban"), now=0.1)
    other = ev.NodeJoined(
        SPARE, False, identity=Identity(TAB), runtime=RuntimeClass("browser/webgpu")
    )

    effects = s.handle(other, now=0.2)

    assert [e.node_id for e in effects if isinstance(e, fx.CloseNode)] == [SPARE]


# ── what cannot be judged ────────────────────────────────────────────────────────────────────────


def test_a_comparison_that_fails_blames_nobody_and_the_customer_gets_the_workers_answer() -> None:
    s = scheduler(policy=Policy())
    join(s, WORKER, trusted=True)
    join(s, TAB, newcomer=True)
    items = sent(submit(s, job("j")))
    finish(s, TAB, items[TAB][0].attempt_id, now=0.1)
    effects = finish(s, WORKER, items[WORKER][0].attempt_id, now=0.2)
    [compare] = [effect for effect in effects if isinstance(effect, fx.Compare)]

    ended = s.handle(ev.Judged(compare.check_id, False, undecided=True), now=0.3)

    assert delivered(ended) == [("j", "cloud", WORKER)]
    assert s.board.nodes[TAB].standing.disagreed == 0


def test_nodes_that_have_gone_take_no_turn_in_the_review_of_models() -> None:
    s = scheduler()
    for number in range(500):
        join(s, NodeId(f"n{number}"), now=0.0)
        s.handle(ev.NodeLeft(NodeId(f"n{number}"), "bye"), now=0.0)
    s.handle(ev.Tick(), now=2.0)

    assert not s.placement._round
