"""Pairs of `verify: always`, and nodes that lose trust with work in hand."""

from __future__ import annotations

import pytest

from orchestrator.domain import events as ev
from orchestrator.domain.model import JobId
from orchestrator.domain.trust import Identity, Policy, RuntimeClass, Standing
from tests.orchestrator.domain.fleet_of import (
    MODEL,
    RUNTIME,
    SPARE,
    TAB,
    WORKER,
    job,
)
from tests.orchestrator.domain.stage import CLOUD, EDGE, LIE, POLICY, WRONG, Stage


def with_pair(**options: object) -> Stage:
    """Return a stage with the CPU worker and two trusted nodes of different networks."""
    st = Stage(policy=POLICY, **options)  # type: ignore[arg-type]
    st.join(WORKER, trusted=True)
    st.join(TAB, network="here")
    st.join(SPARE, network="there")
    return st


# ── pairs ────────────────────────────────────────────────────────────────────────────────────────


def test_a_pair_that_agrees_is_delivered_without_the_cpu_worker() -> None:
    st = with_pair()
    st.submit(job("j", verify="always"))
    st.answer(TAB)
    waiting = st.answers()

    st.answer(SPARE)

    assert waiting == {}
    assert st.answers() == {"j": EDGE}
    assert st.s.counters.answered_cloud == 0


def test_a_pair_that_differs_is_decided_by_the_cpu_worker_and_the_liar_pays() -> None:
    st = with_pair()
    st.submit(job("j", verify="always"))
    st.answer(TAB)
    st.answer(SPARE, WRONG)

    st.answer(WORKER)

    assert st.answers() == {"j": CLOUD}
    assert (st.standing(TAB).strikes, st.standing(SPARE).strikes) == (0, 1)


def test_what_two_strangers_say_of_each_other_moves_no_record() -> None:
    st = with_pair()
    st.submit(job("j", verify="always"))
    st.answer(TAB)
    st.answer(SPARE)

    assert st.standing(TAB).agreed == st.standing(SPARE).agreed == 1000


def test_a_pair_is_never_of_one_network() -> None:
    st = Stage(policy=POLICY)
    st.join(WORKER, trusted=True)
    st.join(TAB, network="here")
    st.join(SPARE, network="here")

    st.submit(job("j", verify="always"))

    assert st.texts(TAB) == st.texts(SPARE) == []
    assert st.texts(WORKER) == ["text of j"]


@pytest.mark.parametrize(
    "second",
    [RUNTIME, RuntimeClass("x/y")],
    ids=["two tabs", "two runtimes"],
)
def test_a_pair_is_never_of_one_identity(second: RuntimeClass) -> None:
    st = Stage(policy=POLICY)
    st.join(WORKER, trusted=True)
    for node_id, runtime in ((TAB, RUNTIME), (SPARE, second)):
        st.do(
            ev.NodeJoined(node_id, False, identity=Identity("x"), runtime=runtime, network=node_id)
        )
        record = Standing(Identity("x"), runtime, consecutive=1000, real=1000)
        st.do(ev.StandingRecalled(Identity("x"), runtime, record))
        st.do(ev.CapacityChanged(node_id, 8, "active", ""))
        st.do(ev.ModelReady(node_id, MODEL, 1000))

    st.submit(job("j", verify="always"))

    assert st.texts(WORKER) == ["text of j"]


def test_half_a_pair_that_leaves_is_replaced_by_the_cpu_worker() -> None:
    st = with_pair()
    st.submit(job("j", verify="always"))
    st.answer(TAB, WRONG)

    st.leave(SPARE)
    st.answer(WORKER)

    assert st.answers() == {"j": CLOUD}
    assert st.standing(TAB).strikes == 1


def test_a_pair_that_is_cancelled_while_judged_is_delivered_to_nobody() -> None:
    st = with_pair(judges=False)
    st.submit(job("j", verify="always"))
    st.answer(TAB)
    st.answer(SPARE)
    st.do(ev.JobsCancelled((JobId("j"),)))

    st.judge()

    assert st.answers() == {}
    assert not st.s.board.jobs


def test_the_half_of_a_pair_that_lost_trust_meanwhile_vouches_for_nothing() -> None:
    st = with_pair()
    st.submit(job("j", verify="always"))
    st.answer(TAB, WRONG)
    st.do(ev.StandingOrdered(Identity(TAB), RUNTIME, "quarantine"))

    st.answer(SPARE, WRONG)

    assert st.answers() == {}
    assert st.texts(WORKER) == ["text of j"]


def test_a_pair_that_loses_trust_while_judged_is_decided_by_the_cpu_worker() -> None:
    st = with_pair(judges=False)
    st.submit(job("j", verify="always"))
    st.answer(TAB, WRONG)
    st.answer(SPARE, WRONG)
    st.do(ev.StandingOrdered(Identity(TAB), RUNTIME, "quarantine"))

    st.judge()

    assert st.answers() == {}
    assert st.texts(WORKER) == ["text of j"]


def test_pairs_are_audited_so_that_two_who_lie_together_are_found_out() -> None:
    st = Stage(policy=Policy(audit_share=1.0))
    st.join(WORKER, trusted=True)
    st.join(TAB, network="here")
    st.join(SPARE, network="there")
    st.submit(job("j", verify="always"))
    st.answer(TAB, WRONG)
    st.answer(SPARE, WRONG)
    assert st.answers() == {"j": LIE}  # two of different networks that lie alike are believed

    st.answer(WORKER)

    assert (st.standing(TAB).strikes, st.standing(SPARE).strikes) == (1, 1)


# ── a node that loses trust with work in hand ────────────────────────────────────────────────────


def demoted(**options: object) -> Stage:
    """Return a stage where TAB holds job j and has just been found lying about another."""
    st = Stage(policy=Policy(audit_share=1.0), **options)  # type: ignore[arg-type]
    st.join(WORKER, trusted=True)
    st.join(TAB)
    st.submit(job("i"))
    st.answer(TAB, WRONG)
    st.submit(job("j"))
    assert st.texts(TAB) == ["text of j"]
    [audit] = st.held[WORKER].values()
    assert audit.input == "text of i"
    st.answer(WORKER)
    assert st.s.board.nodes[TAB].level == "newcomer"
    return st


def test_what_a_demoted_node_still_computes_is_not_delivered_unseen() -> None:
    st = demoted()

    st.answer(TAB, WRONG)
    waiting = "j" in st.answers()
    st.answer(WORKER)

    assert not waiting
    assert st.answers()["j"] == CLOUD
    assert st.s.board.nodes[TAB].level == "quarantined"


def test_a_demoted_node_that_is_right_after_all_is_delivered_once_compared() -> None:
    st = demoted()

    st.answer(TAB)
    st.answer(WORKER)

    assert st.answers()["j"] == EDGE


def test_a_demoted_node_that_says_nothing_more_delays_nobody() -> None:
    st = demoted()

    st.answer(WORKER)

    assert st.answers()["j"] == CLOUD


def test_a_demoted_node_while_the_cpu_worker_restarts_leaves_the_job_waiting() -> None:
    st = demoted()
    st.do(ev.WorkerExpected(True))
    st.leave(WORKER)
    st.answer(TAB, WRONG)
    waiting = "j" in st.answers()

    st.join(WORKER, trusted=True)
    st.answer(WORKER)

    assert not waiting
    assert st.answers()["j"] == CLOUD
