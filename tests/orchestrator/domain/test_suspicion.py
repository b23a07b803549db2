"""Statistics on answers: who repeats itself too often, and who only seems to."""

from __future__ import annotations

import random

from orchestrator.domain.model import Speed
from orchestrator.domain.suspicion import Traits
from orchestrator.domain.trust import Policy
from tests.orchestrator.domain.fleet_of import SPARE, TAB, WORKER, job
from tests.orchestrator.domain.stage import WRONG, Stage

# Labels as a classifier says them: one of them every third time.
SHARES = {1: 0.33, 2: 0.2, 3: 0.15, 4: 0.12, 5: 0.1, 6: 0.1}


def honest(rng: random.Random) -> int:
    return rng.choices(list(SHARES), list(SHARES.values()))[0]


def fleet(rng: random.Random, answers: int = 500) -> Traits:
    """Return the statistics of a fleet that has answered honestly for a while."""
    traits = Traits()
    speed = Speed(1000.0)
    for asked in range(answers):
        traits.suspicious(speed, trait=honest(rng), asked=asked)
    return traits


def first_suspicion(traits: Traits, answers: list[int], *, asked: list[int] | None = None) -> int:
    """Return after how many answers a node is suspicious, or 0 if it never is."""
    speed = Speed(1000.0)
    for number, trait in enumerate(answers, start=1):
        question = number if asked is None else asked[number - 1]
        if traits.suspicious(speed, trait=trait, asked=question):
            return number
    return 0


def test_who_always_says_the_most_frequent_label_is_suspicious_within_a_dozen_answers() -> None:
    assert 0 < first_suspicion(fleet(random.Random(1)), [1] * 50) <= 12


def test_who_always_says_a_rare_thing_is_suspicious_within_four_answers() -> None:
    assert 0 < first_suspicion(fleet(random.Random(1)), [99] * 50) <= 4


def test_it_stays_suspicious_while_it_goes_on() -> None:
    traits, speed = fleet(random.Random(1)), Speed(1000.0)

    found = [traits.suspicious(speed, trait=1, asked=number) for number in range(100)]

    assert all(found[12:])


def test_honest_nodes_are_suspicious_in_less_than_one_answer_of_a_hundred() -> None:
    rng = random.Random(3)
    traits = fleet(rng)
    nodes = [Speed(1000.0) for _ in range(20)]

    found = sum(
        traits.suspicious(rng.choice(nodes), trait=honest(rng), asked=number)
        for number in range(5000)
    )

    assert found < 50


def test_the_same_answer_to_the_same_question_is_no_reason() -> None:
    traits = fleet(random.Random(1))

    assert first_suspicion(traits, [99] * 50, asked=[7] * 50) == 0


def test_one_other_answer_starts_the_count_anew() -> None:
    traits, speed = fleet(random.Random(1)), Speed(1000.0)
    for number in range(20):
        traits.suspicious(speed, trait=1, asked=number)

    traits.suspicious(speed, trait=2, asked=20)

    assert not traits.suspicious(speed, trait=1, asked=21)


def test_what_everybody_says_is_not_suspicious() -> None:
    traits, speed = Traits(), Speed(1000.0)
    for number in range(1000):
        traits.suspicious(speed, trait=1, asked=number)

    assert first_suspicion(traits, [1] * 100) == 0


def test_the_statistics_stay_small_and_forget() -> None:
    traits, speed = Traits(), Speed(1000.0)
    for number in range(30_000):
        traits.suspicious(speed, trait=number, asked=number)

    assert len(traits._counts) <= 512
    assert traits._total < 10_000


def test_a_suspicious_answer_is_audited_although_hardly_any_other_is() -> None:
    st = Stage(policy=Policy(audit_share=1e-9))
    st.join(WORKER, trusted=True)
    st.join(SPARE)
    for number in range(300):
        st.submit(job(f"h{number}"))
        st.answer(SPARE, trait=number % 3)
    st.leave(SPARE)
    before = st.s.counters.audits
    st.join(TAB)
    lies = 0
    # The record is a good one, so each draw alone would find it once in a thousand answers.
    while st.s.counters.audits == before and lies < 50:
        st.submit(job(f"l{lies}"))
        st.answer(TAB, WRONG, trait=1)
        lies += 1
    st.answer(WORKER)

    assert lies <= 10
    assert st.standing(TAB).strikes == 1


def test_without_audits_nobody_is_suspected() -> None:
    st = Stage(policy=Policy(audit_share=0.0))
    st.join(WORKER, trusted=True)
    st.join(TAB)
    for number in range(60):
        st.submit(job(f"j{number}"))
        st.answer(TAB, trait=number if number < 40 else 1)

    assert st.s.counters.audits == 0
