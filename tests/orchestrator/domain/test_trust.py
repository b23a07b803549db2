"""What audits do to a record, and what a record does to a node."""

from __future__ import annotations

import pytest

from browser_node.protocol import AttemptId, CloseCode, NodeId
from orchestrator.domain import effects as fx
from orchestrator.domain import events as ev
from orchestrator.domain import trust
from orchestrator.domain.trust import Identity, Policy, RuntimeClass, Standing
from tests.orchestrator.domain.fleet_of import (
    MODEL,
    RUNTIME,
    SPARE,
    TAB,
    WORKER,
    job,
    proven,
    scheduler,
)
from tests.orchestrator.domain.stage import WRONG, Stage

POLICY = Policy()


def record(**changes: int | bool | str) -> Standing:
    """Return a record of identity ``tab``."""
    standing = Standing(Identity(TAB), RUNTIME)
    for name, value in changes.items():
        setattr(standing, name, value)
    return standing


def audited(standing: Standing, count: int, *, real: bool = True) -> Standing:
    for _ in range(count):
        trust.agreed(standing, real=real)
    return standing


# ── the rule ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("consecutive", "real", "expected"),
    [(0, 0, "newcomer"), (9, 9, "newcomer"), (10, 2, "newcomer"), (10, 3, "trusted")],
)
def test_ten_agreed_audits_three_of_them_on_customers_texts_make_a_node_trusted(
    consecutive: int, real: int, expected: str
) -> None:
    assert trust.level(record(consecutive=consecutive, real=real), POLICY) == expected


def test_texts_that_everybody_can_know_never_make_a_node_trusted() -> None:
    assert trust.level(audited(record(), 1000, real=False), POLICY) == "newcomer"


def test_one_wrong_answer_takes_all_trust() -> None:
    standing = audited(record(), 50)

    trust.disagreed(standing, "wrong")

    assert trust.level(standing, POLICY) == "newcomer"
    assert (standing.consecutive, standing.real) == (0, 0)


def test_who_lied_once_must_agree_four_times_as_often_to_be_trusted_again() -> None:
    standing = audited(record(), 50)
    trust.disagreed(standing, "wrong")

    assert trust.level(audited(standing, 39), POLICY) == "newcomer"
    assert trust.level(audited(standing, 1), POLICY) == "trusted"


def test_who_lied_once_cannot_win_trust_back_on_texts_that_everybody_can_know() -> None:
    standing = audited(record(), 50)
    trust.disagreed(standing, "wrong")
    audited(audited(standing, 1000, real=False), 11)

    assert trust.level(standing, POLICY) == "newcomer"
    assert trust.level(audited(standing, 1), POLICY) == "trusted"


def test_texts_that_everybody_can_know_make_up_for_no_wrong_answer() -> None:
    standing = audited(record(), 50)
    trust.disagreed(standing, "wrong")

    assert audited(standing, 1000, real=False).strikes == 1
    assert audited(standing, 100).strikes == 0


def test_the_second_wrong_answer_quarantines_and_says_why() -> None:
    standing = audited(record(), 50)
    trust.disagreed(standing, "first")
    audited(standing, 60)
    trust.disagreed(standing, "second")

    assert trust.level(standing, POLICY) == "quarantined"
    assert standing.reason == "second"


def test_a_hundred_agreed_audits_make_up_for_one_wrong_answer() -> None:
    standing = audited(record(), 50)
    trust.disagreed(standing, "first")
    audited(standing, 100)
    trust.disagreed(standing, "second")

    assert trust.level(standing, POLICY) == "newcomer"


def test_agreeing_does_not_lift_a_quarantine() -> None:
    standing = record(quarantined=True, strikes=2)

    assert trust.level(audited(standing, 1000), POLICY) == "quarantined"


def test_a_failure_of_the_nodes_own_halves_what_it_has_earned() -> None:
    standing = audited(record(), 13)

    trust.erred(standing)

    assert (standing.consecutive, standing.real, standing.strikes) == (6, 6, 0)


def test_a_release_forgets_strikes_and_trust_alike() -> None:
    standing = audited(record(banned=True, quarantined=True, strikes=2, reason="wrong"), 20)

    trust.release(standing)

    assert trust.level(standing, POLICY) == "newcomer"
    assert (standing.strikes, standing.consecutive, standing.real) == (0, 0, 0)
    assert standing.agreed == 20  # what happened, happened


def test_a_ban_outweighs_everything() -> None:
    standing = record(banned=True, quarantined=True, consecutive=1000, real=1000)

    assert trust.level(standing, POLICY) == "banned"
    assert trust.level(standing, Policy(trust_after=0)) == "banned"


@pytest.mark.parametrize(
    ("consecutive", "strikes", "expected"),
    [(10, 0, 0.1), (20, 0, 0.05), (1000, 0, 0.05), (1000, 1, 0.25), (0, 0, 1.0)],
)
def test_the_longer_the_record_the_fewer_audits_down_to_a_floor(
    consecutive: int, strikes: int, expected: float
) -> None:
    standing = record(consecutive=consecutive, strikes=strikes)

    assert trust.audit_share(standing, POLICY) == expected


def test_a_private_fleet_trusts_whoever_calibrates_and_audits_nobody() -> None:
    private = Policy(trust_after=0, audit_share=0.0)

    assert trust.level(record(), private) == "trusted"
    assert trust.audit_share(record(strikes=1), private) == 0.0


# ── records that are looked up ───────────────────────────────────────────────────────────────────


def joined(node_id: NodeId, identity: str = TAB, **changes: str) -> ev.NodeJoined:
    return ev.NodeJoined(
        node_id, False, identity=Identity(identity), runtime=RUNTIME, network=changes.get("net", "")
    )


def working(st: Stage, node_id: NodeId) -> list[fx.Effect]:
    """Let a node that has joined offer slots and be ready."""
    st.do(ev.CapacityChanged(node_id, 8, "active", ""))
    return st.do(ev.ModelReady(node_id, MODEL, 1000))


def test_a_node_gets_no_customers_text_before_its_record_was_looked_up() -> None:
    st = Stage(policy=POLICY, known=4)
    st.join(WORKER, trusted=True)
    effects = st.do(joined(TAB))
    working(st, TAB)
    st.submit(job("j"))

    assert fx.RecallStanding(Identity(TAB), RUNTIME) in effects
    assert st.texts(TAB) == []

    st.do(ev.StandingRecalled(Identity(TAB), RUNTIME, None))

    assert st.purposes(TAB) == ["replay", "replay"]


def test_a_good_record_that_comes_late_makes_the_node_useful_at_once() -> None:
    st = Stage(policy=POLICY)
    st.join(WORKER, trusted=True)
    st.do(joined(TAB))
    working(st, TAB)

    st.do(ev.StandingRecalled(Identity(TAB), RUNTIME, proven(TAB)))
    st.submit(job("j"))

    assert st.texts(TAB) == ["text of j"]
    assert st.s.board.nodes[TAB].level == "trusted"


def test_a_kept_quarantine_that_comes_late_ends_the_work() -> None:
    st = Stage(policy=POLICY, known=4)
    st.join(WORKER, trusted=True)
    st.do(joined(TAB))
    working(st, TAB)

    st.do(ev.StandingRecalled(Identity(TAB), RUNTIME, record(quarantined=True, strikes=2)))
    st.submit(job("j"))

    assert st.texts(TAB) == []
    assert any(isinstance(e, fx.Tell) and e.node_id == TAB for e in st.log)


def test_a_kept_ban_that_comes_late_closes_the_socket() -> None:
    st = Stage(policy=POLICY)
    st.do(joined(TAB))
    working(st, TAB)

    effects = st.do(ev.StandingRecalled(Identity(TAB), RUNTIME, record(banned=True)))

    assert [(e.node_id, e.code) for e in effects if isinstance(e, fx.CloseNode)] == [
        (TAB, CloseCode.BANNED)
    ]
    assert TAB not in st.s.board.nodes


def test_a_banned_identity_that_comes_back_is_shown_the_door_at_once() -> None:
    st = Stage(policy=POLICY)
    st.join(TAB)
    st.do(ev.StandingOrdered(Identity(TAB), RUNTIME, "ban"))

    effects = st.do(joined(NodeId("again")))

    assert [e.code for e in effects if isinstance(e, fx.CloseNode)] == [CloseCode.BANNED]
    assert not st.s.board.nodes


def test_what_is_known_of_an_identity_is_not_looked_up_twice() -> None:
    st = Stage(policy=POLICY)
    st.join(TAB)
    st.leave(TAB)

    effects = st.do(joined(TAB))

    assert not [e for e in effects if isinstance(e, fx.RecallStanding)]
    assert st.s.board.nodes[TAB].level == "trusted"


def test_a_second_answer_to_a_lookup_changes_nothing() -> None:
    st = Stage(policy=POLICY)
    st.join(TAB)
    st.do(ev.StandingOrdered(Identity(TAB), RUNTIME, "quarantine"))

    st.do(ev.StandingRecalled(Identity(TAB), RUNTIME, proven(TAB)))

    assert st.standing(TAB).quarantined


def test_a_ban_ordered_while_the_record_is_looked_up_stands() -> None:
    st = Stage(policy=POLICY)
    st.do(joined(TAB))
    st.do(ev.StandingOrdered(Identity(TAB), RUNTIME, "ban"))

    st.do(ev.StandingRecalled(Identity(TAB), RUNTIME, proven(TAB)))

    assert st.standing(TAB).banned


def test_two_tabs_of_one_browser_share_a_record() -> None:
    st = Stage(policy=POLICY)
    st.join(WORKER, trusted=True)
    for node_id in (TAB, SPARE):
        st.do(joined(node_id, "browser"))
        working(st, node_id)
    st.do(ev.StandingRecalled(Identity("browser"), RUNTIME, proven("browser")))

    st.do(ev.StandingOrdered(Identity("browser"), RUNTIME, "quarantine"))

    levels = {node_id: st.s.board.nodes[node_id].level for node_id in (TAB, SPARE)}
    assert levels == {TAB: "quarantined", SPARE: "quarantined"}


def test_a_lie_in_one_tab_costs_the_other_its_trust() -> None:
    st = Stage(policy=Policy(audit_share=1.0))
    st.join(WORKER, trusted=True)
    for node_id in (TAB, SPARE):
        st.do(joined(node_id, "browser"))
    st.do(ev.StandingRecalled(Identity("browser"), RUNTIME, proven("browser")))
    for node_id in (TAB, SPARE):
        working(st, node_id)
    st.submit(job("j"))
    liar, other = (TAB, SPARE) if st.texts(TAB) else (SPARE, TAB)
    st.answer(liar, WRONG)
    st.answer(WORKER)

    assert st.s.board.nodes[other].level == "newcomer"


def test_trust_in_one_runtime_says_nothing_of_another() -> None:
    st = Stage(policy=POLICY)
    st.join(TAB)
    other = ev.NodeJoined(
        SPARE, False, identity=Identity(TAB), runtime=RuntimeClass("browser/webgpu")
    )

    effects = st.do(other)

    assert fx.RecallStanding(Identity(TAB), RuntimeClass("browser/webgpu")) in effects
    assert st.s.board.nodes[SPARE].level == "newcomer"


# ── an operator's word ───────────────────────────────────────────────────────────────────────────


def test_an_order_on_somebody_absent_is_kept_and_holds_when_it_comes() -> None:
    s = scheduler(policy=POLICY)

    effects = s.handle(
        ev.StandingOrdered(Identity(TAB), RUNTIME, "quarantine", proven(TAB)), now=0.0
    )
    s.handle(joined(TAB), now=1.0)

    [changed] = [e for e in effects if isinstance(e, fx.StandingChanged)]
    assert (changed.before, changed.after) == ("trusted", "quarantined")
    assert changed.standing.agreed == 1000
    assert s.board.nodes[TAB].level == "quarantined"


def test_a_quarantined_nodes_jobs_move_at_once_and_what_it_sends_later_is_not_delivered() -> None:
    st = Stage(policy=POLICY)
    st.join(WORKER, trusted=True)
    st.join(TAB)
    st.submit(job("j"))
    [item] = st.held[TAB].values()

    effects = st.do(ev.StandingOrdered(Identity(TAB), RUNTIME, "quarantine"))
    st.answer_items(TAB, item, output=WRONG)
    st.answer(WORKER)

    assert fx.SendCancel(TAB, (AttemptId("a1"),)) in effects
    assert st.answers() == {"j": (b"right: text of j", "cloud")}


def test_without_a_cpu_worker_a_quarantined_nodes_jobs_move_to_another_node() -> None:
    st = Stage(policy=POLICY)
    st.join(TAB, rtt_s=0.001)
    st.join(SPARE)
    st.submit(job("j"))

    st.do(ev.StandingOrdered(Identity(TAB), RUNTIME, "quarantine"))

    assert st.failures() == {}
    assert st.texts(SPARE) == ["text of j"]


def test_a_released_node_is_tried_again_as_a_newcomer_at_once() -> None:
    st = Stage(policy=POLICY, known=4)
    st.join(WORKER, trusted=True)
    st.join(TAB, standing=record(quarantined=True, strikes=2))

    st.do(ev.StandingOrdered(Identity(TAB), RUNTIME, "release"))

    assert st.s.board.nodes[TAB].level == "newcomer"
    assert st.purposes(TAB) == ["replay", "replay"]


def test_a_ban_that_was_read_before_a_release_is_out_of_date() -> None:
    st = Stage(policy=POLICY, known=4)
    st.join(WORKER, trusted=True)
    st.join(TAB)
    other = RuntimeClass("browser/webgpu")
    joined = ev.NodeJoined(SPARE, False, None, identity=Identity(TAB), runtime=other)
    st.do(joined)  # its record is being looked up

    st.do(ev.StandingOrdered(Identity(TAB), RUNTIME, "release"))
    read = Standing(Identity(TAB), other, banned=True)
    st.do(ev.StandingRecalled(Identity(TAB), other, read))

    assert {st.s.board.nodes[node_id].level for node_id in (TAB, SPARE)} <= {"newcomer", "trusted"}


def test_a_young_nodes_failure_without_a_cpu_worker_ends_its_job_and_nothing_else() -> None:
    st = Stage(policy=POLICY)
    st.join(TAB, standing=record(consecutive=12, real=12))
    st.submit(job("j"))

    st.do(ev.AttemptFailed(TAB, AttemptId("a1"), "node", "out_of_memory"))

    assert st.s.board.nodes[TAB].level == "newcomer"


def test_what_makes_up_for_a_disagreement_doubles_with_each() -> None:
    standing = Standing(Identity("i"), RuntimeClass("browser/wasm"))
    took = []
    for _ in range(4):
        trust.disagreed(standing, "wrong")
        while standing.strikes:
            trust.agreed(standing, real=True)
        took.append(standing.real)

    assert took == [trust.FORGIVEN_AFTER * factor for factor in (1, 2, 4, 8)]
