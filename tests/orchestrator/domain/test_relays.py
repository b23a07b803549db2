"""Pieces of an answer on their way to a customer: from one attempt at a time, never unseen ones."""

from __future__ import annotations

import pytest

from browser_node.protocol import AttemptId, NodeId
from orchestrator.domain import effects as fx
from orchestrator.domain import events as ev
from orchestrator.domain.model import JobId
from orchestrator.domain.trust import Identity
from tests.orchestrator.domain.fleet_of import (
    RUNTIME,
    SPARE,
    TAB,
    WORKER,
    delivered,
    finish,
    job,
    join,
    progress,
    relayed,
    scheduler,
    sent,
    submit,
)
from tests.orchestrator.domain.stage import POLICY, WRONG, Stage, with_newcomer


def cancelled(effects: list[fx.Effect]) -> list[tuple[NodeId, AttemptId]]:
    return [
        (e.node_id, attempt_id)
        for e in effects
        if isinstance(e, fx.SendCancel)
        for attempt_id in e.attempt_ids
    ]


def attempt_on(st: Stage, node_id: NodeId) -> str:
    [attempt_id] = st.held[node_id]
    return attempt_id


def tell(st: Stage, node_id: NodeId, text: str = "right") -> list[tuple[str, str, str]]:
    """Let the node tell a piece of the one thing it holds; return what goes to a customer."""
    return relayed(st.do(ev.AttemptProgressed(node_id, AttemptId(attempt_on(st, node_id)), text)))


@pytest.mark.parametrize("stream", [True, False])
def test_a_node_is_asked_to_stream_what_the_customer_wants_streamed(stream: bool) -> None:
    s = scheduler()
    join(s, TAB)

    [item] = sent(submit(s, job("j", stream=stream)))[TAB]

    assert item.stream is stream


def test_the_pieces_of_a_trusted_node_are_relayed_as_they_come() -> None:
    s = scheduler()
    join(s, TAB)
    submit(s, job("j", stream=True))

    assert relayed(progress(s, TAB, "a1", "One.", 0.1)) == [("j", "a1", "One.")]
    assert relayed(progress(s, TAB, "a1", " Two.", 0.2)) == [("j", "a1", " Two.")]
    assert delivered(finish(s, TAB, "a1", now=0.3)) == [("j", "edge", TAB)]


def test_a_piece_says_that_the_node_is_there() -> None:
    s = scheduler()
    join(s, TAB)
    submit(s, job("j", stream=True))
    node = s.board.nodes[TAB]
    node.stale = node.late = True

    progress(s, TAB, "a1", "One.", 0.5)

    assert (node.last_frame_at, node.stale, node.late) == (0.5, False, False)


def test_pieces_of_a_job_that_was_cancelled_or_answered_go_nowhere() -> None:
    s = scheduler()
    join(s, TAB)
    submit(s, job("j", stream=True), job("k", stream=True))
    s.handle(ev.JobsCancelled((JobId("j"),)), now=0.1)
    finish(s, TAB, "a2", now=0.2)

    assert progress(s, TAB, "a1", "One.", 0.3) == []
    assert progress(s, TAB, "a2", "One.", 0.3) == []
    assert progress(s, SPARE, "a1", "One.", 0.3) == []


# ── more than one attempt ────────────────────────────────────────────────────────────────────────


def test_after_the_first_piece_no_hedge_starts() -> None:
    s = scheduler(hedge_share=1.0)
    join(s, WORKER, trusted=True)
    join(s, TAB)
    submit(s, job("j", stream=True))
    hedge_at = s.board.attempts[AttemptId("a1")].hedge_at
    progress(s, TAB, "a1", "One.", hedge_at - 0.01)

    effects = s.handle(ev.Tick(), now=hedge_at + 0.01) + s.handle(ev.Tick(), now=2 * hedge_at)

    assert sent(effects) == {}
    assert s.counters.hedged == 0


@pytest.mark.parametrize(("teller", "other"), [(TAB, WORKER), (WORKER, TAB)])
def test_the_first_piece_takes_back_what_runs_beside_it(teller: NodeId, other: NodeId) -> None:
    s = scheduler(hedge_share=1.0)
    join(s, WORKER, trusted=True)
    join(s, TAB)
    submit(s, job("j", stream=True))
    hedge_at = s.board.attempts[AttemptId("a1")].hedge_at
    assert list(sent(s.handle(ev.Tick(), now=hedge_at + 0.01))) == [WORKER]
    attempts = {TAB: AttemptId("a1"), WORKER: AttemptId("a2")}

    effects = progress(s, teller, attempts[teller], "One.", hedge_at + 0.02)

    assert cancelled(effects) == [(other, attempts[other])]
    assert relayed(effects) == [("j", attempts[teller], "One.")]
    assert progress(s, other, attempts[other], "One.", hedge_at + 0.03) == []
    assert delivered(finish(s, other, attempts[other], now=hedge_at + 0.04)) == []
    [answer] = delivered(finish(s, teller, attempts[teller], now=hedge_at + 0.05))
    assert answer[2] == teller


def test_what_a_stranger_answers_too_late_is_held_against_the_text_that_was_relayed() -> None:
    st = Stage(policy=POLICY, hedge_share=1.0)
    st.join(WORKER, trusted=True)
    st.join(TAB)
    st.submit(job("j", stream=True))
    [late] = st.held[TAB].values()
    st.do(ev.Tick(), now=st.s.board.attempts[AttemptId(late.attempt_id)].hedge_at + 0.01)
    tell(st, WORKER)
    st.answer(WORKER)

    st.answer_items(TAB, late, output=WRONG)

    assert st.standing(TAB).strikes == 1


def test_the_next_attempt_takes_over_when_the_node_is_lost() -> None:
    s = scheduler()
    join(s, TAB, tokens_per_s=2000)
    join(s, SPARE)
    submit(s, job("j", stream=True))
    progress(s, TAB, "a1", "One.", 0.1)

    moved = s.handle(ev.NodeLeft(TAB, "closed"), now=0.2)

    [item] = sent(moved)[SPARE]
    assert item.stream
    assert relayed(progress(s, SPARE, "a2", "One.", 0.3)) == [("j", "a2", "One.")]
    assert delivered(finish(s, SPARE, "a2", now=0.4)) == [("j", "edge", SPARE)]


def test_the_next_attempt_takes_over_when_the_lease_is_over() -> None:
    s = scheduler()
    join(s, TAB, tokens_per_s=2000)
    join(s, SPARE)
    submit(s, job("j", stream=True))
    progress(s, TAB, "a1", "One.", 0.1)
    lease_at = s.board.attempts[AttemptId("a1")].lease_at

    [item] = sent(s.handle(ev.Tick(), now=lease_at + 0.01))[SPARE]

    assert relayed(progress(s, TAB, "a1", " Two.", lease_at + 0.02)) == []
    assert relayed(progress(s, SPARE, item.attempt_id, "One.", lease_at + 0.03)) != []


# ── what must be seen first ──────────────────────────────────────────────────────────────────────


def test_a_newcomers_pieces_go_nowhere_and_its_trial_outlives_the_workers_first() -> None:
    st = with_newcomer()
    st.submit(job("j", stream=True))
    assert st.purposes(TAB) == ["trial"]
    trial = attempt_on(st, TAB)

    assert tell(st, TAB) == []
    assert [text for _, _, text in tell(st, WORKER)] == ["right"]

    assert attempt_on(st, TAB) == trial
    st.answer(WORKER)
    st.answer(TAB)
    assert (st.standing(TAB).agreed, st.answers()["j"][1]) == (1, "cloud")


def test_nodes_cannot_tell_a_trial_by_not_being_asked_to_stream() -> None:
    st = with_newcomer()
    st.submit(job("j", stream=True))

    assert [item.stream for item in st.held[TAB].values()] == [True]


def test_the_text_that_was_relayed_is_delivered_and_not_what_agrees_with_it() -> None:
    st = with_newcomer(judges=False)
    st.submit(job("j", stream=True))
    tell(st, WORKER)
    st.answer(TAB, b"right, in other words")

    st.answer(WORKER)

    assert st.answers() == {"j": (b"right: text of j", "cloud")}
    st.judge(agrees=True)
    assert st.standing(TAB).agreed == 1
    assert st.answers() == {"j": (b"right: text of j", "cloud")}


def test_without_pieces_a_trial_that_agrees_is_still_delivered() -> None:
    st = with_newcomer()
    st.submit(job("j", stream=True))
    st.answer(TAB)

    st.answer(WORKER)

    assert st.answers()["j"][1] == "edge"


def test_the_pieces_of_a_pair_go_nowhere() -> None:
    st = Stage(policy=POLICY)
    st.join(TAB, network="here")
    st.join(SPARE, network="there")
    st.submit(job("j", verify="always", stream=True))

    assert tell(st, TAB) == tell(st, SPARE) == []

    st.answer(TAB)
    st.answer(SPARE)
    assert st.answers()["j"][1] == "edge"


def test_a_node_that_is_believed_no_more_is_not_relayed_and_the_cpu_worker_takes_over() -> None:
    st = Stage(policy=POLICY)
    st.join(TAB)
    st.join(WORKER, trusted=True)
    st.submit(job("j", stream=True))
    assert tell(st, TAB) != []

    st.do(ev.StandingOrdered(Identity(TAB), RUNTIME, "quarantine"))

    assert st.texts(TAB) == []
    assert [text for _, _, text in tell(st, WORKER)] == ["right"]
    st.answer(WORKER)
    assert st.answers()["j"][1] == "cloud"


def test_nodes_cannot_tell_a_replay_of_a_streamed_text_by_not_being_asked_to_stream() -> None:
    st = Stage(policy=POLICY)
    st.join(WORKER, trusted=True)
    st.submit(job("j", stream=True))
    st.answer(WORKER)

    st.join(TAB, newcomer=True)

    assert st.purposes(TAB) == ["replay"]
    assert [item.stream for item in st.held[TAB].values()] == [True]
    assert tell(st, TAB) == []
