"""Crowded queues, reconnects and changed minds: where a rule that holds in peace could slip."""

from __future__ import annotations

import pytest

from browser_node.protocol import AttemptId, NodeId
from orchestrator.domain import effects as fx
from orchestrator.domain import events as ev
from orchestrator.domain.model import JobId
from orchestrator.domain.trust import Identity, Policy, RuntimeClass
from tests.orchestrator.domain.fleet_of import (
    MODEL,
    OTHER,
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
    # In three seconds it could be reached, and others who wait for that do not come all at once.
    assert refused.retry_after_s == pytest.approx(3.5, abs=0.5)
    assert refused.message == "All that could answer are busy for about 8 s."
    assert "cpu_worker_busy" in (refused.skipped or {})


def test_refused_requests_are_told_to_come_one_after_the_other() -> None:
    st = Stage()
    st.join(WORKER, trusted=True, slots=1, tokens_per_s=100, rtt_s=0.0)
    st.submit(job("long", tokens=100, deadline_s=30, request_tokens=2000, project="a"))
    st.submit(*(job(f"rest{n}", tokens=100, deadline_s=30, project="a") for n in range(19)))

    told = [
        effect.failure.retry_after_s or 0.0
        for number in range(8)
        for effect in st.submit(
            job(f"late{number}", tokens=500, deadline_s=20, request_tokens=1000, project="a")
        )
        if isinstance(effect, fx.Fail)
    ]

    # Ten seconds of work each: together they come as they can be done, and none after a minute,
    # when not all are to come at once.
    assert told[:4] == pytest.approx([14, 24, 34, 44], rel=0.11)
    assert all(30.0 <= seconds <= 60.0 for seconds in told[4:])
    assert len(set(told)) == len(told)


def test_a_project_s_backlog_refuses_nobody_else_s_requests() -> None:
    st = Stage()
    st.join(WORKER, trusted=True, slots=4, tokens_per_s=100, rtt_s=0.0)
    st.submit(*(job(f"hog{n}", tokens=100, project="hog", deadline_s=60) for n in range(40)))

    st.submit(job("same", tokens=100, project="hog", deadline_s=10))
    st.submit(job("guest", tokens=100, project="guest", deadline_s=10))
    st.submit(job("poor", tokens=100, project="poor", deadline_s=10, weight=0.05))

    # The guest has every second turn: its request is the next but one. One with a twentieth of
    # the weight waits for twenty of the others'.
    assert st.failures() == {"same": "no_capacity", "poor": "no_capacity"}


def test_projects_share_the_cpu_worker_whatever_their_models_are() -> None:
    st = Stage()
    st.join(WORKER, trusted=True, slots=1, tokens_per_s=100, rtt_s=0.0)
    st.do(ev.ModelReady(WORKER, OTHER, 100))
    st.submit(*(job(f"hog{n}", tokens=10, project="hog", deadline_s=900) for n in range(40)))
    st.submit(
        *(job(f"o{n}", tokens=10, project="p", digest=OTHER, deadline_s=900) for n in range(40))
    )

    seen = []
    for _ in range(21):
        [text] = st.texts(WORKER)
        seen.append(text.removeprefix("text of ")[0])
        st.answer(WORKER)

    assert seen[1:].count("o") == pytest.approx(10, abs=1)


def test_a_request_that_cannot_be_answered_as_a_whole_is_refused_before_any_of_it_runs() -> None:
    st = Stage()
    st.join(WORKER, trusted=True, slots=1, tokens_per_s=100, rtt_s=0.0)

    # Ten seconds: 800 tokens, and what else may come.
    effects = st.submit(
        job("first", tokens=100, deadline_s=10, request_tokens=900),
        *(job(f"rest{number}", tokens=100, deadline_s=10) for number in range(8)),
    )
    effects += st.submit(job("whole", tokens=100, deadline_s=10, request_tokens=700))

    [refused] = [effect.failure for effect in effects if isinstance(effect, fx.Fail)]
    assert refused.job_id == "first"
    assert refused.message == (
        "This request takes about 9 s of the CPU worker, and may take 8 s: send less at a time."
    )
    # No waiting helps.
    assert refused.retry_after_s is None
    assert st.texts(WORKER) == ["text of whole"]


@pytest.mark.parametrize(("tokens_per_s", "tokens"), [(30.0, 20), (100.0, 45)])
def test_the_turn_of_a_long_text_or_a_slow_model_is_not_taken_by_what_fits_meanwhile(
    tokens_per_s: float, tokens: int
) -> None:
    st = Stage()
    st.join(WORKER, trusted=True, slots=64, tokens_per_s=100, rtt_s=0.0)
    st.do(ev.ModelReady(WORKER, OTHER, tokens_per_s))
    st.submit(*(job(f"hog{n}", tokens=10, project="hog", deadline_s=900) for n in range(30)))

    st.submit(job("guest", tokens=tokens, project="guest", digest=OTHER, deadline_s=900))
    for number in range(20):
        st.submit(job(f"more{number}", tokens=10, project="hog", deadline_s=900))
        st.answer(WORKER, only=1)
        if "text of guest" in st.texts(WORKER):
            break

    assert number < 12


def test_what_was_cancelled_before_its_turn_has_cost_its_project_nothing() -> None:
    st = Stage()
    st.join(WORKER, trusted=True, slots=1, tokens_per_s=100, rtt_s=0.0)
    st.submit(*(job(f"hog{n}", tokens=10, project="hog", deadline_s=900) for n in range(40)))
    st.submit(*(job(f"g{n}", tokens=10, project="guest", deadline_s=900) for n in range(30)))
    st.do(ev.JobsCancelled(tuple(JobId(f"g{n}") for n in range(30))))

    st.submit(job("guest", tokens=10, project="guest", deadline_s=900))
    seen = []
    while "text of guest" not in st.texts(WORKER):
        seen += st.texts(WORKER)
        st.answer(WORKER)

    assert len(seen) < 4


def test_a_job_that_lost_its_node_late_is_not_told_to_be_shorter() -> None:
    st = Stage()
    st.join(WORKER, trusted=True, slots=1, tokens_per_s=10, rtt_s=0.0)
    st.join(TAB, slots=1, tokens_per_s=1000)
    st.submit(job("a", tokens=40, deadline_s=2, request_tokens=40))
    st.submit(job("b", tokens=40, deadline_s=90, placement="cloud"))
    st.now = 1.9

    [failed] = [e.failure for e in st.leave(TAB) if isinstance(e, fx.Fail)]

    assert failed.message.startswith("All that could answer are busy for about")
    assert failed.retry_after_s is not None


def test_a_request_is_not_judged_by_the_cpu_worker_alone_where_nodes_have_the_model() -> None:
    st = Stage()
    st.join(WORKER, trusted=True, slots=1, tokens_per_s=100, rtt_s=0.0)
    st.join(TAB, slots=1, tokens_per_s=100)
    st.submit(job("a", tokens=45), job("b", tokens=45))

    st.submit(job("first", tokens=40, deadline_s=10, request_tokens=900))

    assert not st.failures()


def test_who_got_no_answer_in_time_is_told_to_come_when_the_backlog_is_done() -> None:
    s = scheduler()
    join(s, WORKER, trusted=True, slots=1, tokens_per_s=100)
    submit(s, job("running", tokens=100), job("late", tokens=10, deadline_s=3))
    submit(s, *(job(f"j{n}", tokens=100, deadline_s=60) for n in range(19)))

    [late] = [
        effect.failure
        for effect in s.handle(ev.Tick(), now=3.5)
        if isinstance(effect, fx.Fail) and effect.failure.job_id == "late"
    ]

    assert late.code == "deadline_exceeded"
    assert late.retry_after_s is not None
    assert 20.0 <= late.retry_after_s <= 26.0


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
