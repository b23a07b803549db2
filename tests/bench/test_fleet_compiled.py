"""The compiled scheduler decides as its sources do, to the last effect, whatever goes wrong."""

from __future__ import annotations

import pytest

from bench.fleet import mix
from bench.fleet.scenario import MIXES
from bench.fleet.study import Trial, run_all
from orchestrator import compiled
from tests.orchestrator.compilers import needs_compiled

TRIALS = [Trial(mix(name, jobs=1_500), seed) for name in MIXES for seed in (1, 2)]


@pytest.fixture(scope="module")
def traces_of_sources() -> list[str]:
    with compiled.sources_in_children():
        return [outcome.trace for outcome in run_all(TRIALS, processes=2)]


@needs_compiled
@pytest.mark.parametrize("at", range(len(TRIALS)))
def test_both_forms_of_the_scheduler_do_the_same(traces_of_sources: list[str], at: int) -> None:
    [here] = run_all([TRIALS[at]])

    assert here.trace == traces_of_sources[at]
