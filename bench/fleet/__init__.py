"""The fleet simulator: the orchestrator's own scheduler, sessions and trust in virtual time."""

from bench.fleet.invariants import InvariantBroken
from bench.fleet.outcome import Histogram, Outcome, Sample, Tally
from bench.fleet.scenario import (
    MIXES,
    STRESSES,
    Demand,
    Faults,
    Population,
    Project,
    Region,
    Scenario,
    mix,
)
from bench.fleet.world import run

__all__ = [
    "MIXES",
    "STRESSES",
    "Demand",
    "Faults",
    "Histogram",
    "InvariantBroken",
    "Outcome",
    "Population",
    "Project",
    "Region",
    "Sample",
    "Scenario",
    "Tally",
    "mix",
    "run",
]
