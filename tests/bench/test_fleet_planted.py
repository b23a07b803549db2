"""The simulator's laws can fail: every planted bug is caught."""

from __future__ import annotations

import re

import pytest

from bench.fleet import mix, run
from bench.fleet.outcome import Outcome
from bench.fleet.planted import BUGS
from bench.fleet.study import Broken, Trial, each_of

CAUGHT_BY = {
    "drops a requeue": "has no end",
    "delivers twice": "was not open",
    "charges again later": "was not open",
    "credits another node": "did not give to it",
    "mixes two answers up": "did not give to it",
    "loses a cancelled attempt": "the scheduler has|attempts for . slots",
    "skips audits": "audits were made",
    "audits a quarter of what it promises": "audits were made",
    "trusts newcomers": "without a comparison",
    "trusts too soon": "becomes trusted after 3 agreed",
    "ignores a disagreement": "(stays|becomes) trusted",
    "leaks a slot": "the scheduler has",
    "oversubscribes": "attempts for . slots",
    "miscounts a backlog": "tokens outstanding",
    "forgets deadlines": "has no end",
    "gives up too early": "which is not true",
    "lets queues grow": "jobs wait",
    "hedges without a budget": "hedges were started",
    "ignores regions": "which demands EU",
}


@pytest.fixture(scope="module")
def runs() -> dict[str, Outcome | Broken]:
    """What came of a run with each of the bugs."""
    trials = [Trial(mix(bug.mix, jobs=4_000), 1, planted=name) for name, bug in BUGS.items()]
    return dict(zip(BUGS, each_of(trials, processes=2), strict=True))


@pytest.mark.parametrize("name", BUGS)
def test_a_planted_bug_is_caught_by_the_law_it_breaks(
    runs: dict[str, Outcome | Broken], name: str
) -> None:
    found = runs[name]

    assert isinstance(found, Broken)
    assert re.search(CAUGHT_BY[name], found.message)


def test_without_a_bug_the_same_runs_are_fine() -> None:
    for name in sorted({bug.mix for bug in BUGS.values()}):
        run(mix(name, jobs=1_000), seed=1)
