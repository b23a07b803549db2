"""What patient attackers achieve against the default policy, counted over seeded runs."""

from __future__ import annotations

import random
import statistics

from orchestrator.domain import events as ev
from orchestrator.domain.trust import Policy
from tests.orchestrator.domain.fleet_of import SPARE, TAB, WORKER, job
from tests.orchestrator.domain.stage import WRONG, Stage


def lies_until_quarantined(seed: int, *, share: float, newcomer: bool = False) -> int:
    """Return how many wrong answers a node gets delivered that lies on a share of its jobs.

    It is alone with the CPU worker, was honest for long (or is honest until it is trusted), and
    stays honest on the texts that anybody can read in this project's source.
    """
    rng = random.Random(1000 + seed)
    st = Stage(policy=Policy(), seed=seed, known=8)
    st.join(WORKER, trusted=True, tokens_per_s=100_000, slots=64)
    st.join(TAB, newcomer=newcomer)
    node, awake, number = st.s.board.nodes[TAB], not newcomer, 0
    while node.level != "quarantined":
        number += 1
        assert number < 20_000
        st.submit(job(f"j{number}"))
        awake = awake or node.level == "trusted"
        while st.held.get(TAB) or st.held.get(WORKER):
            if st.held.get(TAB):
                item = next(iter(st.held[TAB].values()))
                lies = awake and not item.input.startswith("known") and rng.random() < share
                st.answer(TAB, WRONG if lies else None, only=1, trait=number)
            if st.held.get(WORKER):
                st.answer(WORKER)
    return sum(output == WRONG for output, _ in st.answers().values())


def test_who_was_honest_for_a_thousand_jobs_and_lies_on_every_twentieth_delivers_a_few() -> None:
    delivered = [lies_until_quarantined(seed, share=0.05) for seed in range(8)]

    # One audit in twenty sees one lie in twenty: four hundred jobs, twenty lies.
    assert statistics.mean(delivered) <= 30
    assert max(delivered) <= 120


def test_who_was_honest_for_a_thousand_jobs_and_always_lies_delivers_a_few() -> None:
    delivered = [lies_until_quarantined(seed, share=1.0) for seed in range(12)]

    assert statistics.mean(delivered) <= 40
    assert max(delivered) <= 120


def test_a_new_identity_is_worth_a_dozen_lies() -> None:
    delivered = [lies_until_quarantined(seed, share=1.0, newcomer=True) for seed in range(12)]

    # A young record is audited at one in ten: who pays ten honest answers may tell ten lies.
    assert statistics.mean(delivered) <= 20
    assert max(delivered) <= 80


def test_a_claimed_speed_is_believed_for_a_few_jobs() -> None:
    st = Stage(policy=Policy(audit_share=0.0))
    st.join(WORKER, trusted=True)
    st.join(TAB, tokens_per_s=1e9)
    st.join(SPARE, tokens_per_s=2000.0)
    given = {TAB: 0, SPARE: 0}
    for number in range(200):
        st.now += 1.0
        for node_id in (TAB, SPARE, WORKER):
            st.do(ev.NodeHeard(node_id))
        st.submit(job(f"j{number}", tokens=30))
        [node_id] = [n for n in given if st.held.get(n)]
        given[node_id] += 1
        st.now += 1.5 if node_id == TAB else 0.01
        st.answer(node_id)

    # Each answer takes a fifth off the claim: from a thousand million to what it is worth.
    assert given[TAB] <= 70
