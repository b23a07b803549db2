"""Runs that answer a question: what each rule of the scheduler is worth, what attacks achieve, what
audits buy. Runs are independent, so that they use as many processes as they are given."""

from __future__ import annotations

import contextlib
import math
import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Final

import msgspec

from bench.fleet.cost import Cost
from bench.fleet.engine import SchedulerFactory
from bench.fleet.invariants import InvariantBroken
from bench.fleet.outcome import Histogram, Outcome
from bench.fleet.planted import BUGS, planted
from bench.fleet.scenario import MIXES, Scenario, mix
from bench.fleet.world import run
from orchestrator import compiled
from orchestrator.domain.scheduler import Options, Scheduler
from orchestrator.domain.trust import PROBATION_SHARE, Policy

FULL: Final = "full"
# What is taken away, by name; all else stays, demand, tabs and faults included.
ABLATIONS: Final[dict[str, Options]] = {
    FULL: Options(),
    "no hedging": Options(hedge_share=0.0),
    "random placement": Options(rule="random"),
    "least loaded": Options(rule="least_loaded"),
    "no geography": Options(geo=False),
    "fixed timeouts": Options(leases="fixed"),
}
# What each attack tries; names are those of `behaviours.CONDUCTS`.
ATTACKS: Final[dict[str, str]] = {
    "garbage": "answers noise",
    "sometimes": "answers noise one time in five",
    "another": "answers what it answered before",
    "constant": "answers the most frequent label",
    "sleeper": "honest for 1,000 answers, then lies one time in twenty",
    "colluder": "all agree on the same wrong answers",
    "colluding_sleeper": "honest for 200 answers, then they agree on wrong ones",
    "pool_reader": "honest on texts known from this source, lies on others",
    "whitewasher": "answers noise, and comes back under a new identity",
    "forger": "sends results for jobs it was never given",
    "hider": "honest for 200 answers, then lies one time in twenty, and shows no evidence of a lie",
    "swapper": "the same, but shows the evidence of the right answer instead",
    "braggart": "claims fifty times its speed, to draw work",
    "staller": "takes jobs and answers half of them",
}
ATTACKER_SHARE: Final = 0.25
AUDIT_SHARES: Final = (0.01, 0.02, 0.05, 0.1, 0.2)
_LIAR: Final = "sleeper"


class Ablated(msgspec.Struct, frozen=True):
    """One mix with something taken away."""

    mix: str
    name: str
    outcome: Outcome


class Attack(msgspec.Struct, frozen=True):
    """One attack by `ATTACKER_SHARE` of the tabs."""

    name: str
    outcome: Outcome


class Audited(msgspec.Struct, frozen=True):
    """Sleeping liars under one audit share."""

    audit_share: float
    outcome: Outcome


class Study(msgspec.Struct, frozen=True, kw_only=True):
    """What there is to report; any part may be missing. ``honest`` is the attacks' fleet
    without the attackers."""

    mixes: Sequence[Outcome] = ()
    ablations: Sequence[Ablated] = ()
    honest: Outcome | None = None
    attacks: Sequence[Attack] = ()
    audits: Sequence[Audited] = ()
    costs: Sequence[Cost] = ()


class Trial(msgspec.Struct, frozen=True):
    """One run to do. ``planted`` names one of `planted.BUGS` that its scheduler is to have."""

    scenario: Scenario
    seed: int
    options: Options | None = None
    planted: str = ""


class Broken(msgspec.Struct, frozen=True):
    """A run that broke a law; ``message`` says which."""

    trial: Trial
    message: str


def each_of(trials: Sequence[Trial], *, processes: int = 1) -> Iterator[Outcome | Broken]:
    """Do the runs and yield what came of them, in order."""
    # A bug can only be planted in sources, and this process may run what was compiled.
    in_sources = compiled.folder() is not None and any(trial.planted for trial in trials)
    if not in_sources and (processes == 1 or len(trials) == 1):
        yield from map(_run, trials)
        return
    # Not forked: the parent may have threads.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        with compiled.sources_in_children() if in_sources else contextlib.nullcontext():
            outcomes = pool.map(_run, trials)
        yield from outcomes


def run_all(trials: Sequence[Trial], *, processes: int = 1) -> list[Outcome]:
    """Do the runs and return their outcomes. Raises `InvariantBroken` if one breaks a law."""
    done: list[Outcome] = []
    for found in each_of(trials, processes=processes):
        if isinstance(found, Broken):
            raise InvariantBroken(found.message)
        done.append(found)
    return done


def _run(trial: Trial) -> Outcome | Broken:
    factory: SchedulerFactory = planted(BUGS[trial.planted]) if trial.planted else Scheduler
    try:
        return run(
            trial.scenario, seed=trial.seed, options=trial.options, scheduler_factory=factory
        )
    except InvariantBroken as error:
        return Broken(trial, str(error))


# ── the studies ──────────────────────────────────────────────────────────────────────────────────


def mixes(*, jobs: int, nodes: int, seed: int, processes: int = 1) -> list[Outcome]:
    """Run every fault mix."""
    trials = [Trial(mix(name, jobs=jobs, nodes=nodes), seed) for name in MIXES]
    return run_all(trials, processes=processes)


def ablations(*, jobs: int, nodes: int, seed: int, processes: int = 1) -> list[Ablated]:
    """Run every mix with each rule taken away in turn; the same seed means the same demand."""
    asked = [(name, rule) for name in MIXES for rule in ABLATIONS]
    trials = [
        Trial(mix(name, jobs=jobs, nodes=nodes), seed, ABLATIONS[rule]) for name, rule in asked
    ]
    outcomes = run_all(trials, processes=processes)
    return [Ablated(*pair, outcome) for pair, outcome in zip(asked, outcomes, strict=True)]


def attacks(
    *, jobs: int, nodes: int, seed: int, processes: int = 1
) -> tuple[Outcome, list[Attack]]:
    """Run a calm fleet with a quarter of it attacking, an attack at a time.

    The first outcome is that of the honest three quarters alone, under the same demand.
    """
    calm = mix("calm", jobs=jobs, nodes=nodes)
    honest_nodes = nodes - round(ATTACKER_SHARE * nodes)
    alone = msgspec.structs.replace(calm.population, nodes=honest_nodes)
    trials = [
        Trial(msgspec.structs.replace(calm, population=alone), seed),
        *(Trial(_with(calm, name), seed) for name in ATTACKS),
    ]
    honest, *outcomes = run_all(trials, processes=processes)
    found = [Attack(name, outcome) for name, outcome in zip(ATTACKS, outcomes, strict=True)]
    return honest, found


def audits(*, jobs: int, nodes: int, seed: int, processes: int = 1) -> list[Audited]:
    """Run a fleet with sleeping liars under different audit shares."""
    calm = _with(mix("calm", jobs=jobs, nodes=nodes), _LIAR)
    trials = [
        Trial(msgspec.structs.replace(calm, policy=Policy(audit_share=share)), seed)
        for share in AUDIT_SHARES
    ]
    outcomes = run_all(trials, processes=processes)
    return [Audited(share, outcome) for share, outcome in zip(AUDIT_SHARES, outcomes, strict=True)]


def everything(
    done: Sequence[Outcome], *, jobs: int, nodes: int, seed: int, processes: int = 1
) -> Study:
    """Return the runs that are ``done`` together with all studies."""
    honest, attacked = attacks(jobs=jobs, nodes=nodes, seed=seed, processes=processes)
    return Study(
        mixes=done,
        ablations=ablations(jobs=jobs, nodes=nodes, seed=seed, processes=processes),
        honest=honest,
        attacks=attacked,
        # A sleeping liar takes its time.
        audits=audits(jobs=2 * jobs, nodes=nodes, seed=seed, processes=processes),
    )


def _with(scenario: Scenario, attack: str) -> Scenario:
    # The scenario keeps its name, since demand and arrivals are drawn from it: all see the same.
    people = msgspec.structs.replace(scenario.population, conducts=((attack, ATTACKER_SHARE),))
    return msgspec.structs.replace(scenario, population=people)


# ── what follows from them ───────────────────────────────────────────────────────────────────────


def expected_escapes(audit_share: float) -> float:
    """Return the wrong answers a patient liar gets through before it is shut out.

    An answer is delivered and then audited with probability a, so that 1/a of its lies reach
    customers until one is caught, that one included. Trusted once more after a long probation it
    is audited with `PROBATION_SHARE`, and the next one caught is the last. This is the most it can
    hope for: it lies only while its record is spotless, and lies alone.
    """
    return 1 / audit_share + 1 / max(audit_share, PROBATION_SHARE)


def escapes_per_liar(outcome: Outcome) -> float:
    """Return the wrong answers that customers got of each liar by the end, on average."""
    tally = outcome.tallies.get(_LIAR)
    if tally is None or not tally.told:
        return math.nan  # none has begun to lie
    return tally.wrong / tally.identities


def liars(outcome: Outcome) -> int:
    """Return how many identities were liars where audit shares are compared."""
    tally = outcome.tallies.get(_LIAR)
    return tally.identities if tally is not None else 0


def audit_cpu(outcome: Outcome) -> float:
    """Return the CPU worker's audit tokens ÷ all tokens answered. Replays cost only the tabs, and
    what a trial is compared with was to be answered by the worker anyway."""
    answered = outcome.steady_answered_tokens
    return outcome.steady_tokens.get("audit", 0) / answered if answered else math.nan


def latency(outcome: Outcome) -> Histogram:
    """Return the answer times of tabs and CPU workers together, after the warm-up.

    Of a run that ends before that, all of them.
    """
    steady = outcome.steady_latency_s
    return steady if steady.count else merged(list(outcome.latency_s.values()))


def edge_share(outcome: Outcome) -> float:
    """Return the share of answers by tabs, after the warm-up if there was anything after it."""
    steady = outcome.steady_latency_s
    return outcome.steady_edge_share if steady.count else outcome.edge_share


def merged(parts: Sequence[Histogram]) -> Histogram:
    """Return what one histogram would be that had counted all."""
    return Histogram(
        counts=[sum(counts) for counts in zip(*(part.counts for part in parts), strict=True)],
        count=sum(part.count for part in parts),
        total=math.fsum(part.total for part in parts),
        most=max((part.most for part in parts), default=0.0),
    )


def told(outcome: Outcome) -> int:
    """Return the wrong answers that tabs gave."""
    return sum(tally.told for tally in outcome.tallies.values())


def rerouted(outcome: Outcome) -> int:
    return sum(outcome.rerouted.values())
