"""Newcomers: what they are put to, and that none of their answers is delivered unseen."""

from __future__ import annotations

import pytest

from browser_node.protocol import NodeId
from orchestrator.domain import effects as fx
from orchestrator.domain import events as ev
from orchestrator.domain import known
from orchestrator.domain.model import JobId
from tests.orchestrator.domain.fleet_of import (
    SPARE,
    TAB,
    WORKER,
    job,
)
from tests.orchestrator.domain.stage import CLOUD, EDGE, POLICY, WRONG, Stage, with_newcomer

# ── replays ──────────────────────────────────────────────────────────────────────────────────────


def test_a_newcomer_is_put_known_tasks_two_at_a_time_until_it_has_shown_enough() -> None:
    st = Stage(policy=POLICY, known=8)
    st.join(WORKER, trusted=True)
    st.join(TAB, newcomer=True)
    most = 0
    while st.held.get(TAB):
        most = max(most, len(st.held[TAB]))
        st.answer(TAB, only=1)

    assert most == 2
    assert 10 <= st.standing(TAB).agreed <= 11  # one more may be under way when it is enough
    assert st.standing(TAB).real == 0
    assert st.s.board.nodes[TAB].level == "newcomer"


def test_after_customers_texts_it_is_trusted_and_its_answers_are_edge() -> None:
    st = Stage(policy=POLICY, known=8)
    st.join(WORKER, trusted=True)
    st.join(TAB, newcomer=True)
    while st.held.get(TAB):
        st.answer(TAB)
    for number in range(3):
        st.submit(job(f"j{number}"))
        st.answer(WORKER)
        while st.held.get(TAB):
            st.answer(TAB)

    st.submit(job("j"))
    st.answer(TAB)

    assert st.standing(TAB).real >= 3
    assert st.answers()["j"] == EDGE


def test_a_newcomer_that_lies_to_replays_is_quarantined_after_two_and_gets_no_more() -> None:
    st = Stage(policy=POLICY, known=8)
    st.join(WORKER, trusted=True)
    st.join(TAB, newcomer=True)

    st.answer(TAB, WRONG)

    assert st.s.board.nodes[TAB].level == "quarantined"
    assert st.texts(TAB) == []
    [told] = [e for e in st.log if isinstance(e, fx.Tell)]
    assert told.node_id == TAB


def test_a_disagreement_is_recorded_with_its_evidence() -> None:
    st = Stage(policy=POLICY, known=8)
    st.join(WORKER, trusted=True)
    st.join(TAB, newcomer=True)

    st.answer(TAB, WRONG, only=1)

    [changed] = [e for e in st.log if isinstance(e, fx.StandingChanged)]
    assert changed.evidence == fx.Evidence(TAB, "model", "replay", 0.1, "the outputs differ")
    assert changed.standing.strikes == 1
    assert changed.standing is not st.standing(TAB)


def test_a_replay_that_is_never_answered_earns_nothing_and_backs_the_node_off() -> None:
    st = Stage(policy=POLICY, known=8)
    st.join(WORKER, trusted=True)
    st.join(TAB, newcomer=True)

    for second in range(1, 21):
        st.do(ev.NodeHeard(TAB), now=second)
        st.do(ev.NodeHeard(WORKER))
        st.do(ev.Tick())

    assert st.standing(TAB).agreed == 0
    assert st.s.board.nodes[TAB].consecutive_failures > 0
    assert st.texts(TAB) == []


def test_a_customers_text_is_replayed_to_newcomers_that_come_later() -> None:
    st = Stage(policy=POLICY)
    st.join(WORKER, trusted=True)
    st.submit(job("j"))
    st.answer(WORKER)

    st.join(TAB, newcomer=True)

    assert st.texts(TAB)[0] == "text of j"


@pytest.mark.parametrize(
    "rules",
    [{"replays": False}, {"placement": "trusted"}, {"placement": "cloud"}, {"region": "EU"}],
    ids=["no replays", "trusted only", "cloud only", "a region"],
)
def test_a_text_whose_project_forbids_it_is_not_replayed(rules: dict[str, object]) -> None:
    st = Stage(policy=POLICY)
    st.join(WORKER, trusted=True)
    st.submit(job("j", **rules))  # type: ignore[arg-type]
    st.answer(WORKER)

    st.join(TAB, newcomer=True, region="EU")

    assert st.texts(TAB) == []


def test_a_text_that_killed_a_node_is_not_put_to_others() -> None:
    st = Stage(policy=POLICY)
    st.join(WORKER, trusted=True)
    st.join(TAB)
    st.submit(job("poison"))
    st.leave(TAB)
    st.answer(WORKER)

    st.join(SPARE, newcomer=True)

    assert st.texts(SPARE) == []


def test_a_node_is_not_put_the_same_text_twice() -> None:
    st = Stage(policy=POLICY)
    st.join(WORKER, trusted=True)
    st.submit(job("j"))
    st.answer(WORKER)
    st.join(TAB, newcomer=True)
    while st.held.get(TAB):
        st.answer(TAB)

    assert st.standing(TAB).real <= 1


def test_a_text_is_put_to_sixteen_nodes_at_most() -> None:
    st = Stage(policy=POLICY)
    st.join(WORKER, trusted=True)
    st.submit(job("j"))
    st.answer(WORKER)

    for number in range(20):
        st.join(NodeId(f"n{number}"), newcomer=True)

    put = [item for _, item in st.items.values() if item.input == "text of j"]
    assert len(put) <= 1 + known.RECENT_USES


# ── trials ───────────────────────────────────────────────────────────────────────────────────────


def test_when_the_cpu_worker_is_first_its_answer_is_delivered_and_the_newcomers_compared() -> None:
    st = with_newcomer()
    st.submit(job("j"))
    st.answer(WORKER)
    delivered = st.answers()

    st.answer(TAB)

    assert delivered == {"j": CLOUD}
    assert st.answers() == delivered
    assert st.standing(TAB).real >= 1


def test_when_the_newcomer_is_first_its_answer_waits_and_is_delivered_when_both_agree() -> None:
    st = with_newcomer()
    st.submit(job("j"))
    st.answer(TAB)
    waiting = st.answers()

    st.answer(WORKER)

    assert waiting == {}
    assert st.answers() == {"j": EDGE}


def test_when_they_differ_the_customer_gets_the_cpu_workers_and_the_newcomer_a_strike() -> None:
    st = with_newcomer()
    st.submit(job("j"))
    st.answer(TAB, WRONG)

    st.answer(WORKER)

    assert st.answers() == {"j": CLOUD}
    assert st.standing(TAB).strikes == 1


@pytest.mark.parametrize("output", [None, WRONG])
def test_a_newcomer_that_leaves_while_it_is_judged_is_learnt_from_all_the_same(
    output: bytes | None,
) -> None:
    st = with_newcomer(judges=False)
    st.submit(job("j"))
    st.answer(TAB, output)
    st.answer(WORKER)
    st.leave(TAB)

    st.judge()

    assert st.answers() == {"j": CLOUD}
    standing = st.standing(TAB)
    assert (standing.agreed, standing.disagreed) == ((1, 0) if output is None else (0, 1))


def test_a_cpu_worker_that_leaves_while_its_answer_is_compared_has_answered() -> None:
    st = with_newcomer(judges=False)
    st.submit(job("j"))
    st.answer(TAB, WRONG)
    st.answer(WORKER)
    st.leave(WORKER)

    st.judge()

    assert st.answers() == {"j": CLOUD}


def test_a_trial_whose_cpu_worker_is_gone_waits_for_the_next_one() -> None:
    st = with_newcomer()
    st.do(ev.WorkerExpected(True))
    st.submit(job("j"))
    st.answer(TAB, WRONG)
    st.leave(WORKER)
    waiting = dict(st.answers())

    st.join(WORKER, trusted=True)
    st.answer(WORKER)

    assert waiting == {}
    assert st.answers() == {"j": CLOUD}


def test_a_newcomer_that_leaves_with_a_trial_costs_the_customer_nothing() -> None:
    st = with_newcomer()
    st.submit(job("j"))
    st.leave(TAB)

    st.answer(WORKER)

    assert st.answers() == {"j": CLOUD}


def test_a_trial_that_is_cancelled_while_judged_is_delivered_to_nobody() -> None:
    st = with_newcomer(judges=False)
    st.submit(job("j"))
    st.answer(TAB)
    st.answer(WORKER)
    st.do(ev.JobsCancelled((JobId("j"),)))

    st.judge()

    assert st.answers() == {}
    assert st.standing(TAB).agreed == 1
    assert not st.s.board.jobs


def test_a_trial_whose_deadline_passes_while_judged_ends_once() -> None:
    st = with_newcomer(judges=False)
    st.submit(job("j", deadline_s=1.0))
    st.answer(TAB)
    st.answer(WORKER)
    st.do(ev.Tick(), now=1.0)

    st.judge()

    assert st.failures() == {"j": "deadline_exceeded"}
    assert st.answers() == {}


def test_a_customer_who_cancels_frees_the_newcomer_and_the_cpu_worker() -> None:
    st = with_newcomer()
    st.submit(job("j"))

    st.do(ev.JobsCancelled((JobId("j"),)))

    assert st.texts(TAB) == st.texts(WORKER) == []
    assert not st.s.board.attempts


@pytest.mark.parametrize(
    "rules", [{"placement": "trusted"}, {"placement": "cloud"}, {"region": "EU"}]
)
def test_a_newcomer_gets_no_trial_that_the_projects_rules_forbid(rules: dict[str, object]) -> None:
    st = Stage(policy=POLICY)
    st.join(WORKER, trusted=True)
    st.join(TAB, newcomer=True, region="NA-US")

    st.submit(job("j", **rules))  # type: ignore[arg-type]

    assert st.texts(TAB) == []
    assert st.texts(WORKER) == ["text of j"]


def test_a_newcomer_gets_no_trial_of_a_project_that_forbids_replays() -> None:
    st = with_newcomer()

    st.submit(job("j", replays=False))

    assert st.texts(TAB) == []


def test_one_network_gets_so_many_trials_at_once_and_another_network_its_own() -> None:
    st = Stage(policy=POLICY, newcomers_per_network=2)
    st.join(WORKER, trusted=True, tokens_per_s=100_000, slots=64)
    for number in range(5):
        st.join(NodeId(f"same{number}"), newcomer=True, network="one")
    st.join(NodeId("other"), newcomer=True, network="two")

    st.submit(*(job(f"j{number}") for number in range(8)))

    same = [node_id for node_id, held in st.held.items() if held and node_id.startswith("same")]
    assert len(same) == 2
    assert st.texts(NodeId("other"))


def test_a_finished_trial_makes_room_for_the_next_newcomer_of_its_network() -> None:
    st = Stage(policy=POLICY, newcomers_per_network=1)
    st.join(WORKER, trusted=True)
    st.join(TAB, newcomer=True, network="one")
    st.join(SPARE, newcomer=True, network="one")
    st.submit(job("j"))
    first, second = (TAB, SPARE) if st.texts(TAB) else (SPARE, TAB)
    st.leave(first)

    st.submit(job("k"))

    assert st.texts(second) == ["text of k"]
