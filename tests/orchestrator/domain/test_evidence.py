"""Evidence that nodes keep until they are asked: when that is, and what becomes of who hides it."""

from __future__ import annotations

from typing import Literal

import pytest

from browser_node import protocol as p
from browser_node.protocol import AttemptId, JobItem, NodeId
from orchestrator.domain import audits, known, showing, trust
from orchestrator.domain import effects as fx
from orchestrator.domain import events as ev
from orchestrator.domain.trust import Policy
from tests.orchestrator.domain.fleet_of import SPARE, TAB, WORKER, job
from tests.orchestrator.domain.stage import (
    CLOUD,
    EDGE,
    LIE,
    POLICY,
    WRONG,
    Stage,
    evidence_of,
    right,
    with_newcomer,
)

TOO_LATE_S = showing.SHOW_WITHIN_S + 0.1


def audited(share: float = 1.0, **options: object) -> Stage:
    """Return a stage whose nodes show nothing until they are told to, and one trusted tab."""
    policy = Policy(audit_share=share)
    st = Stage(policy=policy, shows=False, judges=False, **options)  # type: ignore[arg-type]
    st.join(WORKER, trusted=True)
    st.join(TAB)
    return st


def answered(st: Stage, name: str = "j", output: bytes | None = None) -> None:
    """Have a job answered by the tab."""
    st.submit(job(name))
    st.answer(TAB, output)


def hedged(share: float = 0.0) -> tuple[Stage, JobItem]:
    """Return a stage on which the tab lied before the hedge on the CPU worker, which goes on."""
    st = audited(share=share, hedge_share=1.0)
    st.submit(job("j"))
    for _ in range(40):
        st.do(ev.Tick(), now=st.now + 0.1)
        if st.held.get(WORKER):
            break
    [hedge] = st.held[WORKER].values()
    st.answer(TAB, WRONG)
    return st, hedge


# ── who is asked, and when ───────────────────────────────────────────────────────────────────────


def test_who_is_not_audited_shows_nothing() -> None:
    st = audited(share=0.0)

    answered(st)

    assert st.answers() == {"j": EDGE}
    assert not st.asked


def test_an_audit_asks_once_the_answer_is_delivered_and_runs_when_it_is_shown() -> None:
    st = audited()

    answered(st)
    before = st.texts(WORKER)
    st.show()

    assert st.answers() == {"j": EDGE}
    assert (before, st.texts(WORKER)) == ([], ["text of j"])


def test_what_is_compared_is_what_was_shown() -> None:
    st = audited()
    answered(st)
    st.show()

    st.answer(WORKER)

    [compare] = st.unjudged
    output = right(p.Task(input="text of j"))
    assert compare.answer == p.Answer(output=output, evidence=evidence_of(output))
    assert compare.trusted == compare.answer
    assert compare.fault is None


def test_evidence_that_came_with_the_answer_is_not_asked_for() -> None:
    st = audited()
    st.submit(job("j"))
    [attempt_id] = st.held[TAB]
    result = ev.Finished(attempt_id, b"out", 0.01, b"what it rests on")

    st.do(ev.AttemptsFinished(TAB, (result,)))
    st.answer(WORKER)

    assert not st.asked
    assert st.unjudged[0].answer.evidence == b"what it rests on"


def test_an_answer_that_rests_on_nothing_but_itself_is_compared_at_once() -> None:
    st = audited()
    st.submit(job("j"))
    [attempt_id] = st.held[TAB]

    st.do(ev.AttemptsFinished(TAB, (ev.Finished(attempt_id, b"out", 0.01),)))
    st.answer(WORKER)

    assert not st.asked
    assert st.unjudged[0].fault is None


def test_a_replay_is_compared_when_its_evidence_is_there() -> None:
    st = Stage(policy=POLICY, shows=False, known=8)
    st.join(WORKER, trusted=True)
    st.join(TAB, newcomer=True)

    st.answer(TAB, only=1)
    before = st.standing(TAB).agreed
    st.show()

    assert (before, st.standing(TAB).agreed) == (0, 1)


def test_a_late_answer_is_asked_for_what_it_rests_on_and_compared() -> None:
    st = audited(share=0.0)
    st.submit(job("j"))
    late = list(st.held[TAB].values())
    for _ in range(40):
        st.do(ev.Tick(), now=st.now + 0.25)
        if st.held.get(WORKER):
            break
    st.answer(WORKER)

    st.answer_items(TAB, *late, output=WRONG)
    waiting = len(st.unjudged)
    st.show()

    assert waiting == 0
    [compare] = st.unjudged
    assert (compare.answer.output, compare.answer.evidence) == (WRONG, evidence_of(WRONG))


def test_a_stranger_that_won_against_a_hedge_and_left_is_judged_without_its_evidence() -> None:
    st, hedge = hedged()
    st.leave(TAB)

    st.answer_items(WORKER, hedge)

    assert st.unjudged[0].fault == "unshown"


def test_a_stranger_that_won_against_a_hedge_is_asked_when_the_cpu_worker_answers() -> None:
    st, hedge = hedged()
    before = len(st.asked)

    st.answer_items(WORKER, hedge)
    st.show()

    assert before == 0
    [compare] = st.unjudged
    assert (compare.answer.output, compare.answer.evidence) == (WRONG, evidence_of(WRONG))


# ── who does not show it ─────────────────────────────────────────────────────────────────────────


def test_who_does_not_show_it_in_time_is_audited_without() -> None:
    st = audited()
    answered(st)

    st.do(ev.Tick(), now=st.now + TOO_LATE_S)
    st.answer(WORKER)

    [compare] = st.unjudged
    assert (compare.fault, compare.answer.evidence) == ("unshown", b"")


def test_who_shows_it_late_but_in_time_is_audited_with_it() -> None:
    st = audited()
    answered(st)

    st.do(ev.Tick(), now=st.now + showing.SHOW_WITHIN_S - 0.1)
    st.show()
    st.answer(WORKER)

    assert st.unjudged[0].fault is None


def test_who_is_slow_to_show_it_gets_nothing_until_it_has() -> None:
    st = audited()
    answered(st)

    st.do(ev.Tick(), now=st.now + showing.OWING_S)
    st.submit(job("k"))
    meanwhile = st.texts(TAB)
    st.answer(WORKER)
    st.show()
    st.submit(job("l"))

    assert meanwhile == []
    assert st.texts(TAB) == ["text of l"]


def test_who_never_shows_it_is_asked_for_work_again_when_it_is_too_late() -> None:
    st = audited()
    answered(st)

    st.do(ev.Tick(), now=st.now + TOO_LATE_S)
    st.submit(job("k"))

    assert "text of k" in st.texts(TAB)


def test_to_say_that_it_has_it_no_more_is_no_better() -> None:
    st = audited()
    answered(st)

    st.say(st.asked.popleft(), None)
    st.answer(WORKER)

    assert st.unjudged[0].fault == "unshown"


def test_a_stall_costs_nothing_however_many_answers_it_leaves_unshown() -> None:
    st = audited()
    st.submit(*(job(f"j{number}") for number in range(8)))
    st.answer(TAB)
    before = st.standing(TAB).consecutive

    st.do(ev.Tick(), now=st.now + TOO_LATE_S)

    assert (st.standing(TAB).consecutive, st.s.board.nodes[TAB].level) == (before, "trusted")
    assert st.s.board.nodes[TAB].owing == 0


def undecided(st: Stage, name: str) -> None:
    """Let an audit of the tab end without evidence, and its output not tell."""
    answered(st, name)
    st.say(st.asked.popleft(), None)
    st.answer(WORKER)
    st.judge(unshown=True)


def test_audits_that_could_not_be_decided_are_a_disagreement_when_they_are_too_many() -> None:
    st = audited()
    for number in range(trust.UNSHOWN_MAX - 1):
        undecided(st, f"j{number}")
    before = st.standing(TAB).strikes

    undecided(st, "the last straw")

    assert (before, st.standing(TAB).strikes, st.standing(TAB).unshown) == (0, 1, 0)
    assert st.s.board.nodes[TAB].level == "newcomer"


def test_audits_that_could_not_be_decided_are_made_up_for_by_others() -> None:
    st = audited()
    for number in range(4 * trust.UNSHOWN_MAX):
        undecided(st, f"j{number}")
        for other in range(trust.SHOWN_AFTER):
            answered(st, f"j{number}.{other}")
            st.show()
            st.answer(WORKER)
            st.judge()

    assert st.standing(TAB).strikes == 0


def test_a_newcomer_that_leaves_owes_nothing() -> None:
    st = Stage(policy=POLICY, shows=False, judges=False, known=8)
    st.join(WORKER, trusted=True)
    for _ in range(3 * trust.UNSHOWN_MAX):
        st.join(TAB, newcomer=True)
        st.answer(TAB)
        st.asked.clear()
        st.leave(TAB)
        while st.unjudged:
            st.judge(unshown=True)

    assert (st.standing(TAB).strikes, st.standing(TAB).unshown) == (0, 0)


def test_an_answer_of_an_earlier_connection_is_asked_for_on_no_other() -> None:
    st, hedge = hedged()
    st.leave(TAB)
    st.now += 1.0
    st.join(TAB)

    st.answer_items(WORKER, hedge)

    assert not st.asked
    assert st.unjudged[0].fault == "unshown"


def test_nothing_is_left_of_what_was_shown_or_not() -> None:
    st = audited()
    for number in range(3):
        answered(st, f"j{number}")
    st.show()
    st.say(st.asked.popleft(), None)
    st.leave(TAB)

    assert len(st.s.checking.showing) == 0


def test_large_evidence_is_not_kept_for_what_may_still_come() -> None:
    st, _ = hedged(share=1.0)
    large = bytes(known.BYTES_KEPT + 1)
    [claim] = [late.claimed for late in st.s.checking._late.values()]
    assert claim is not None
    claim.commitment = p.commitment_to(large)

    st.say(st.asked.popleft(), large)

    assert not st.s.checking._late


def test_who_leaves_is_audited_without_and_has_failed_at_nothing() -> None:
    st = audited()
    answered(st)
    before = st.standing(TAB).consecutive

    st.leave(TAB)
    st.answer(WORKER)

    assert st.unjudged[0].fault == "unshown"
    assert st.standing(TAB).consecutive == before


def test_a_liar_that_leaves_when_it_is_asked_is_found_out_all_the_same() -> None:
    st = audited()
    answered(st, output=WRONG)
    st.leave(TAB)
    st.answer(WORKER)

    st.judge()

    assert st.answers() == {"j": LIE}
    assert st.standing(TAB).strikes == 1


def test_what_a_node_shows_after_it_came_back_is_too_late() -> None:
    st = audited()
    answered(st)
    asked = st.asked.popleft()
    st.leave(TAB)
    st.join(TAB)

    st.say(asked, evidence_of(b"whatever"))
    st.answer(WORKER)

    assert st.unjudged[0].fault == "unshown"


def test_other_evidence_than_was_committed_to_is_forged() -> None:
    st = audited()
    answered(st, output=WRONG)

    st.show(instead=evidence_of(right(p.Task(input="text of j"))))
    st.answer(WORKER)

    assert st.unjudged[0].fault == "forged"
    st.judge()
    assert st.standing(TAB).strikes == 1


def test_evidence_that_nobody_asked_for_changes_nothing() -> None:
    st = audited(share=0.0)
    answered(st)

    effects = st.do(ev.EvidenceShown(TAB, AttemptId("a1"), b"look"))
    effects += st.do(ev.EvidenceShown(NodeId("nobody"), AttemptId("a1"), None))

    assert effects == []


def test_time_in_which_the_process_did_not_run_does_not_count() -> None:
    st = audited()
    answered(st)

    st.do(ev.Overslept(60.0), now=st.now + 60.0)
    st.do(ev.Tick())
    in_time = st.texts(WORKER)
    st.do(ev.Tick(), now=st.now + TOO_LATE_S)

    assert (in_time, st.texts(WORKER)) == ([], ["text of j"])


def test_audits_to_come_are_counted_with_those_that_wait() -> None:
    st = audited(max_queued=10_000)
    for number in range(audits.AUDITS_KEPT + 5):
        st.now = 0.0  # so that nothing is overdue
        answered(st, f"j{number}")

    assert len(st.asked) == audits.AUDITS_KEPT
    assert st.s.counters.audits_dropped == 5


def test_evidence_that_is_too_much_to_keep_is_not_audited() -> None:
    st = audited()
    st.do(ev.CapacityChanged(WORKER, 0, "active", ""))
    large = bytes(1 << 20)
    for number in range(20):
        st.submit(job(f"j{number}"))
        [attempt_id] = st.held.pop(TAB)
        result = ev.Finished(attempt_id, b"out", 0.01, commitment=p.commitment_to(large))
        st.do(ev.AttemptsFinished(TAB, (result,)))
        st.say(st.asked.popleft(), large)

    kept = sum(audit.size_bytes for audit in st.s.checking.audits.waiting)
    assert kept <= audits.AUDIT_BYTES_KEPT
    assert st.s.counters.audits_dropped == 5


# ── customers that wait ──────────────────────────────────────────────────────────────────────────


def test_no_customer_waits_for_what_a_newcomer_has_to_show() -> None:
    st = with_newcomer(shows=False)
    st.submit(job("j"))
    st.answer(TAB)

    st.answer(WORKER)
    delivered = st.answers()
    st.show()

    assert delivered == {"j": CLOUD}
    assert st.standing(TAB).agreed == 1


def test_a_newcomer_that_has_shown_it_by_then_is_delivered() -> None:
    st = with_newcomer(shows=False)
    st.submit(job("j"))
    st.answer(TAB)
    st.show()

    st.answer(WORKER)

    assert st.answers() == {"j": EDGE}


def pair(**options: object) -> Stage:
    st = Stage(policy=POLICY, shows=False, **options)  # type: ignore[arg-type]
    st.join(WORKER, trusted=True)
    st.join(TAB, network="here")
    st.join(SPARE, network="there")
    st.submit(job("j", verify="always"))
    st.answer(TAB)
    st.answer(SPARE)
    return st


def test_a_pair_is_compared_when_both_have_shown_what_they_answered_by() -> None:
    st = pair()

    st.show()
    waiting = st.answers()
    st.show()

    assert waiting == {}
    assert st.answers() == {"j": EDGE}


@pytest.mark.parametrize("ends", ["leaves", "is slow", "forges"])
def test_a_pair_of_which_one_does_not_show_it_is_left_to_the_cpu_worker(
    ends: Literal["leaves", "is slow", "forges"],
) -> None:
    st = pair()
    st.show()

    if ends == "leaves":
        st.leave(SPARE)
    elif ends == "is slow":
        st.do(ev.Tick(), now=st.now + showing.OWING_S)
    else:
        st.show(instead=b"other")
    waiting = st.answers()
    st.answer(WORKER)

    assert waiting == {}
    assert st.answers() == {"j": CLOUD}
    assert st.standing(SPARE).strikes == (1 if ends == "forges" else 0)


def test_a_pair_of_which_one_shows_it_after_the_cpu_worker_was_asked_is_judged_by_it() -> None:
    st = pair()
    st.show()
    st.do(ev.Tick(), now=st.now + showing.OWING_S)
    st.show()

    compared = [effect for effect in st.log if isinstance(effect, fx.Compare)]
    st.answer(WORKER)

    assert compared == []
    assert st.answers() == {"j": CLOUD}
    assert (st.standing(TAB).agreed, st.standing(SPARE).agreed) == (1001, 1001)


@pytest.mark.parametrize("alike", [True, False])
def test_a_pair_without_evidence_has_to_be_alike_where_there_is_no_cpu_worker(alike: bool) -> None:
    st = Stage(policy=Policy(trust_after=0), shows=False)
    st.join(TAB, network="here")
    st.join(SPARE, network="there")
    st.submit(job("j", verify="always"))
    st.answer(TAB)
    st.answer(SPARE, None if alike else WRONG)

    st.leave(SPARE)
    st.do(ev.Tick(), now=st.now + showing.OWING_S)
    st.show()

    assert (st.answers(), st.failures()) == (
        ({"j": EDGE}, {}) if alike else ({}, {"j": "no_capacity"})
    )


def test_a_reveal_is_an_effect_for_the_node_that_answered() -> None:
    st = audited()
    st.submit(job("j"))
    [attempt_id] = st.held[TAB]

    effects = st.answer(TAB)

    assert [e for e in effects if isinstance(e, fx.Reveal)] == [fx.Reveal(TAB, attempt_id)]
