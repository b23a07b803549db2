"""Audits and late answers: what is compared behind the customer's back, and its bounds."""

from __future__ import annotations

import pytest

from browser_node.protocol import AttemptId, JobItem
from orchestrator.domain import audits, checking
from orchestrator.domain import effects as fx
from orchestrator.domain import events as ev
from orchestrator.domain.model import CheckId
from orchestrator.domain.trust import Policy
from tests.orchestrator.domain.fleet_of import (
    SPARE,
    TAB,
    WORKER,
    job,
    proven,
)
from tests.orchestrator.domain.stage import CLOUD, EDGE, LIE, POLICY, WRONG, Stage, with_newcomer

# ── audits ───────────────────────────────────────────────────────────────────────────────────────


def audited_fleet(**options: object) -> Stage:
    st = Stage(policy=Policy(audit_share=1.0), **options)  # type: ignore[arg-type]
    st.join(WORKER, trusted=True)
    st.join(TAB)
    return st


def test_a_trusted_answer_is_delivered_at_once_and_repeated_behind_it() -> None:
    st = audited_fleet()
    st.submit(job("j"))

    effects = st.answer(TAB)

    assert st.answers() == {"j": EDGE}
    assert any(isinstance(e, fx.SendJobs) and e.node_id == WORKER for e in effects)
    st.answer(WORKER)
    assert (st.standing(TAB).agreed, st.standing(TAB).real) == (1001, 1001)


def test_a_lie_that_an_audit_finds_costs_the_node_its_trust_even_when_it_has_left() -> None:
    st = audited_fleet()
    st.submit(job("j"))
    st.answer(TAB, WRONG)
    st.leave(TAB)
    st.answer(WORKER)

    st.join(TAB, standing=proven(TAB))

    assert st.answers() == {"j": LIE}  # what an audit finds was delivered
    assert st.s.board.nodes[TAB].level == "newcomer"


def test_audits_wait_while_the_cpu_worker_is_full() -> None:
    st = audited_fleet()
    st.submit(job("j"))
    st.do(ev.CapacityChanged(WORKER, 1, "active", ""))
    st.submit(job("c1", placement="cloud"), job("c2", placement="cloud"))

    st.answer(TAB)
    during = st.texts(WORKER)
    st.answer(WORKER)
    st.answer(WORKER)

    assert during == ["text of c1"]
    assert st.texts(WORKER) == ["text of j"]


def test_audits_go_on_while_customers_wait_for_the_edge() -> None:
    st = Stage(policy=Policy(audit_share=1.0))
    st.join(WORKER, trusted=True)
    st.join(TAB, slots=1)
    st.submit(job("i"), job("j"), job("k"))
    st.answer(TAB)  # and takes j, while k goes on waiting

    assert st.texts(WORKER) == ["text of i"]


def test_audits_that_wait_are_bounded_in_number() -> None:
    st = audited_fleet(max_queued=10_000)
    st.do(ev.CapacityChanged(WORKER, 0, "active", ""))
    for number in range(audits.AUDITS_KEPT + 20):
        st.submit(job(f"j{number}"))
        st.answer(TAB)

    assert st.s.counters.audits_dropped == 20
    assert st.s.counters.audits == 0


def test_audits_that_wait_are_bounded_in_bytes() -> None:
    st = audited_fleet()
    st.do(ev.CapacityChanged(WORKER, 0, "active", ""))
    long = "x" * (audits.AUDIT_BYTES_KEPT // 5)  # an audit keeps the text and the answer
    for number in range(4):
        st.submit(job(f"{number} {long}"))
        st.answer(TAB)
    dropped = st.s.counters.audits_dropped
    st.do(ev.CapacityChanged(WORKER, 8, "active", ""))
    st.do(ev.Tick())
    st.answer(WORKER)
    st.submit(job(f"4 {long}"))
    st.answer(TAB)

    assert dropped == 2
    assert len(st.held[WORKER]) == 1  # the room is free again


def test_an_audit_whose_cpu_worker_dies_is_done_once_more_alone() -> None:
    st = audited_fleet()
    st.submit(job("j"))
    st.answer(TAB, WRONG)
    before = st.standing(TAB).disagreed

    st.leave(WORKER)
    between = st.standing(TAB).disagreed
    st.join(WORKER, trusted=True)
    [again] = st.held[WORKER].values()
    st.answer(WORKER)

    assert again.isolated
    assert (before, between, st.standing(TAB).disagreed) == (0, 0, 1)


def test_an_audit_that_the_cpu_worker_does_not_finish_is_done_once_more() -> None:
    st = audited_fleet()
    st.submit(job("j"))
    st.answer(TAB, WRONG)

    st.do(ev.Tick(), now=5.0)
    st.do(ev.NodeHeard(WORKER), now=5.1)
    st.answer(WORKER, only=1)

    assert st.standing(TAB).disagreed == 1


def test_an_audit_that_kills_two_cpu_workers_is_given_up() -> None:
    st = audited_fleet()
    st.submit(job("j"))
    st.answer(TAB)

    for _ in range(2):
        st.leave(WORKER)
        st.join(WORKER, trusted=True)

    assert not st.held.get(WORKER)
    assert not st.s.board.attempts


def test_without_a_cpu_worker_an_audit_is_a_replay() -> None:
    st = audited_fleet(known=8)
    st.leave(WORKER)
    st.submit(job("j"))

    st.answer(TAB)

    assert st.purposes(TAB) == ["replay"]


def test_a_trusted_node_is_not_audited_by_texts_that_everybody_can_know() -> None:
    st = audited_fleet(known=8)
    for number in range(60):
        st.submit(job(f"j{number}"))
        st.answer(TAB)
        st.answer(WORKER)

    assert st.standing(TAB).agreed - 1000 == st.standing(TAB).real - 1000 == 60


def test_a_private_fleet_is_not_audited() -> None:
    st = Stage(policy=Policy(trust_after=0, audit_share=0.0))
    st.join(WORKER, trusted=True)
    st.join(TAB, newcomer=True)
    for number in range(50):
        st.submit(job(f"j{number}"))
        st.answer(TAB)

    assert (st.s.counters.audits, st.s.counters.replays) == (0, 0)
    assert st.s.counters.answered_edge == 50


def test_projects_whose_texts_stay_are_audited_all_the_same() -> None:
    st = audited_fleet()
    st.submit(job("j", replays=False))
    st.answer(TAB, WRONG)
    st.answer(WORKER)

    st.join(SPARE, newcomer=True)

    assert st.standing(TAB).strikes == 1
    assert st.texts(SPARE) == []


# ── late answers ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("output", [None, WRONG])
def test_what_comes_after_its_lease_is_compared_and_not_delivered(output: bytes | None) -> None:
    st = Stage(policy=POLICY)
    st.join(WORKER, trusted=True)
    st.join(TAB)
    st.submit(job("j"))
    [item] = st.held[TAB].values()
    st.do(ev.Tick(), now=19.0)
    st.answer(WORKER)

    st.answer_items(TAB, item, output=output)

    assert st.answers() == {"j": CLOUD}
    assert st.standing(TAB).disagreed == (0 if output is None else 1)


def test_a_late_answer_is_compared_once_however_often_it_is_sent() -> None:
    st = Stage(policy=POLICY)
    st.join(WORKER, trusted=True)
    st.join(TAB)
    st.submit(job("j"))
    [item] = st.held[TAB].values()
    st.do(ev.Tick(), now=19.0)
    st.answer(WORKER)

    for _ in range(5):
        st.answer_items(TAB, item)

    assert st.standing(TAB).agreed == 1001


def test_a_late_answer_from_another_node_is_nobodys() -> None:
    st = Stage(policy=POLICY)
    st.join(WORKER, trusted=True)
    st.join(TAB)
    st.join(SPARE, tokens_per_s=1.0)
    st.submit(job("j"))
    [item] = st.held[TAB].values()
    st.do(ev.Tick(), now=19.0)
    st.answer(WORKER)

    st.answer_items(SPARE, item, output=WRONG)

    assert st.standing(TAB).disagreed == st.standing(SPARE).disagreed == 0


def test_a_node_that_left_may_be_judged_by_what_it_sends_when_it_is_back() -> None:
    st = Stage(policy=POLICY)
    st.join(WORKER, trusted=True)
    st.join(TAB)
    st.submit(job("j"))
    [item] = st.held[TAB].values()
    st.leave(TAB)
    st.answer(WORKER)
    st.join(TAB)

    st.answer_items(TAB, item, output=WRONG)

    assert st.answers() == {"j": CLOUD}
    assert st.standing(TAB).strikes == 1


def test_a_hedge_that_comes_second_judges_the_first() -> None:
    st = Stage(policy=POLICY, hedge_share=1.0)
    st.join(WORKER, trusted=True)
    st.join(TAB)
    st.submit(job("j"))
    st.do(ev.Tick(), now=0.5)
    [hedge] = st.held[WORKER].values()
    st.answer(TAB, WRONG)

    st.answer_items(WORKER, hedge)

    assert st.answers() == {"j": LIE}
    assert st.standing(TAB).strikes == 1


def test_a_hedge_that_comes_first_judges_what_the_node_says_later() -> None:
    st = Stage(policy=POLICY, hedge_share=1.0)
    st.join(WORKER, trusted=True)
    st.join(TAB)
    st.submit(job("j"))
    [item] = st.held[TAB].values()
    st.do(ev.Tick(), now=0.5)
    st.answer(WORKER)

    st.answer_items(TAB, item, output=WRONG)

    assert st.answers() == {"j": CLOUD}
    assert st.standing(TAB).strikes == 1


def test_what_late_answers_are_held_against_is_bounded() -> None:
    st = Stage(policy=POLICY)
    st.join(WORKER, trusted=True)
    st.join(TAB)
    items: list[JobItem] = []
    for number in range(checking.LATE_KEPT + 5):
        st.submit(job(f"j{number}"))
        items += st.held[TAB].values()
        st.leave(TAB)
        st.answer(WORKER)
        st.join(TAB)
    st.answer_items(TAB, items[0], output=WRONG)
    forgotten = st.standing(TAB).disagreed
    st.answer_items(TAB, items[-1], output=WRONG)

    assert forgotten == 0
    assert st.standing(TAB).disagreed == 1


# ── what was never asked ─────────────────────────────────────────────────────────────────────────


def test_an_outcome_of_a_comparison_nobody_asked_for_changes_nothing() -> None:
    st = with_newcomer()

    st.do(ev.Judged(CheckId(7), agrees=True))

    assert st.standing(TAB).agreed == 0


def test_results_for_attempts_never_given_change_nothing() -> None:
    st = with_newcomer()
    before = st.standing(TAB).agreed

    st.do(ev.AttemptsFinished(TAB, (ev.Finished(AttemptId("a999"), WRONG, 0.0),)))

    assert st.s.counters.late_results == 1
    assert st.standing(TAB).agreed == before
