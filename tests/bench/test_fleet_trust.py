"""What liars get past the audits, and what the audits cost, in a fleet that is a third liars."""

from __future__ import annotations

import msgspec
import pytest

from bench.fleet import Outcome, Scenario, mix, run
from bench.fleet.behaviours import CONDUCTS

FROM_THE_START = (
    "garbage",
    "another",
    "constant",
    "colluder",
    "pool_reader",
    "whitewasher",
    "forger",
)


def fleet_of(*conducts: tuple[str, float], jobs: int, nodes: int = 24) -> Scenario:
    scenario = mix("liars", jobs=jobs, nodes=nodes)
    population = msgspec.structs.replace(scenario.population, conducts=conducts)
    return msgspec.structs.replace(scenario, population=population)


@pytest.fixture(scope="module")
def attacked() -> Outcome:
    return run(mix("liars", jobs=8_000), seed=11)


def test_who_lies_from_the_start_delivers_nothing_wrong(attacked: Outcome) -> None:
    for conduct in FROM_THE_START:
        tally = attacked.tallies[conduct]
        assert tally.told > 0, conduct
        assert tally.wrong == 0, conduct


def test_every_lie_that_is_compared_is_caught_and_no_honest_answer_is(attacked: Outcome) -> None:
    caught = sum(attacked.tallies[conduct].caught for conduct in FROM_THE_START)

    assert attacked.honest_audits > 300
    assert attacked.honest_flagged == 0
    assert caught > 0
    assert attacked.quarantined >= len(FROM_THE_START)


def test_new_identities_do_not_help_a_liar(attacked: Outcome) -> None:
    tally = attacked.tallies["whitewasher"]

    assert tally.identities >= 2
    assert tally.wrong == 0


def test_a_staller_and_a_braggart_cost_nobody_an_answer(attacked: Outcome) -> None:
    assert attacked.failed.keys() <= {"invalid_input"}


def test_a_sleeper_delivers_a_bounded_number_of_lies() -> None:
    outcome = run(fleet_of(("light_sleeper", 0.4), jobs=10_000), seed=5)

    tally = outcome.tallies["light_sleeper"]
    assert tally.told > 0
    assert tally.caught > 0
    assert tally.most_wrong_per_identity <= 60


def test_liars_that_do_not_collude_deliver_nothing_wrong_to_who_asks_for_two() -> None:
    outcome = run(fleet_of(("sometimes", 0.3), ("light_sleeper", 0.3), jobs=6_000), seed=3)

    assert sum(tally.told for tally in outcome.tallies.values()) > 20
    assert sum(tally.wrong_always for tally in outcome.tallies.values()) == 0


def test_audits_cost_at_most_a_tenth_once_the_fleet_is_known() -> None:
    outcome = run(mix("calm", jobs=6_000), seed=2)

    assert 0.0 < outcome.audit_overhead <= 0.10


def test_every_attack_is_part_of_the_mix_of_liars() -> None:
    named = {name for name, _ in mix("liars").population.conducts}

    assert named <= CONDUCTS.keys()
    assert set(FROM_THE_START) < named
