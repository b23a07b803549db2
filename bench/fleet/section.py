"""The benchmark ``fleet``: every fault mix, what rules, attacks and audits are worth, what a
decision costs. Writes the whole report beside the others, as one page."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from bench.fleet import cost, report, study, wording
from bench.fleet.outcome import Outcome
from bench.fleet.study import Study
from bench.report import Figure, Section, Table, machine

REPORT_NAME: Final = "fleet.html"
_NODES: Final = 24
_SEED: Final = 1
_PROCESSES: Final = 2
# Targets: two placements in the time of one customer's request, and a fleet's memory beside its
# sockets' 18 to 32 kB each.
_PLACING_US: Final = {1_000: 50.0, 100_000: 150.0}
_BYTES_PER_NODE: Final = 2_000.0


def measure(*, jobs: int, study_jobs: int, placements: int, out: Path, command: str) -> Section:
    """Run each mix with ``jobs`` jobs and each study's runs with ``study_jobs``."""
    costs = [cost.measure(nodes, jobs=placements) for nodes in _PLACING_US]
    mixes = study.mixes(jobs=jobs, nodes=_NODES, seed=_SEED, processes=_PROCESSES)
    found = study.everything(mixes, jobs=study_jobs, nodes=_NODES, seed=_SEED, processes=_PROCESSES)
    found = msgspec.structs.replace(found, costs=costs)
    out.mkdir(parents=True, exist_ok=True)
    at = time.strftime("%Y-%m-%d", time.gmtime())
    html = report.page(found, commands=[command], at=at, machine=machine())
    (out / REPORT_NAME).write_text(html)
    return section(found, jobs=jobs, study_jobs=study_jobs)


def section(found: Study, *, jobs: int, study_jobs: int) -> Section:
    figures = [
        figure
        for one in found.costs
        for figure in (
            Figure(
                f"placement among {one.nodes:,} nodes, median",
                one.placing_us,
                "µs",
                _PLACING_US.get(one.nodes),
            ),
            Figure(
                f"scheduler's memory of a node, {one.nodes:,} nodes",
                one.bytes_per_node,
                "bytes",
                _BYTES_PER_NODE,
            ),
        )
    ]
    cpu_s = sum(outcome.cpu_s for outcome in found.mixes)
    if cpu_s:
        speed = sum(outcome.submitted for outcome in found.mixes) / cpu_s
        figures.append(Figure("jobs simulated per CPU second", speed, "jobs"))
    return Section(
        name="fleet",
        title="Simulated fleets: faults, rules, attacks, audits",
        figures=figures,
        tables=[
            *([side_by_side(found.mixes)] if found.mixes else []),
            *([_ablations(found)] if found.ablations else []),
            *([_attacks(found)] if found.attacks else []),
            *([_audits(found)] if found.audits else []),
        ],
        note=f"{jobs:,} jobs each mix, {study_jobs:,} each run of a study, {_NODES} tabs, seed "
        f"{_SEED}; no law was broken. The whole report: {REPORT_NAME}.",
    )


_NAMES: Final = (
    "mix",
    "seed",
    "jobs",
    "by tabs",
    "tabs p50",
    "p95",
    "p99",
    "CPU p95",
    "busy",
    "moved ‰",
    "hedged",
    "audit work",
    "lies told",
    "caught",
    "delivered",
)


def _figures(outcome: Outcome) -> tuple[str, ...]:
    """Return what a run did, as `_NAMES` say."""
    edge, cloud = outcome.latency_s["edge"], outcome.latency_s["cloud"]
    return (
        outcome.scenario,
        str(outcome.seed),
        wording.count(outcome.submitted),
        wording.percent(outcome.edge_share),
        *(wording.seconds(edge.quantile(q)) for q in (0.5, 0.95, 0.99)),
        wording.seconds(cloud.quantile(0.95)),
        wording.percent(outcome.utilisation),
        f"{wording.per_thousand(study.rerouted(outcome), outcome.submitted):.1f}",
        wording.percent(outcome.hedge_share),
        wording.percent(outcome.audit_overhead),
        wording.count(study.told(outcome)),
        wording.count(sum(tally.caught for tally in outcome.tallies.values())),
        wording.count(outcome.wrong_delivered),
    )


def side_by_side(outcomes: Sequence[Outcome]) -> Table:
    """Return a table with a column for each run."""
    rows = [_figures(outcome) for outcome in outcomes]
    first, *others = zip(_NAMES, *rows, strict=True)
    return Table(first, others)


def _ablations(found: Study) -> Table:
    full = {one.mix: one.outcome for one in found.ablations if one.name == study.FULL}
    rows = []
    for one in found.ablations:
        own, to = study.latency(one.outcome), study.latency(full[one.mix])
        times = [
            f"{wording.seconds(own.quantile(q))} ({own.quantile(q) / to.quantile(q):.2f} ×)"
            for q in (0.5, 0.95, 0.99)
        ]
        by_tabs = wording.percent(study.edge_share(one.outcome))
        moved = wording.per_thousand(study.rerouted(one.outcome), one.outcome.submitted)
        rows.append((one.mix, one.name, *times, by_tabs, f"{moved:.1f}"))
    columns = ("mix", "rules", "all answers p50", "p95", "p99", "by tabs", "moved ‰")
    return Table(columns, rows)


def _attacks(found: Study) -> Table:
    rows = []
    for attack in found.attacks:
        tally = attack.outcome.tallies[attack.name]
        rows.append(
            (
                attack.name,
                str(tally.identities),
                wording.count(tally.told),
                wording.count(tally.caught),
                wording.count(tally.wrong),
                wording.count(tally.most_wrong_per_identity),
                wording.count(tally.delivered - tally.wrong),
                wording.seconds(study.latency(attack.outcome).quantile(0.95)),
                wording.percent(attack.outcome.audit_overhead),
            )
        )
    columns = (
        "attack",
        "identities",
        "lies told",
        "caught",
        "delivered",
        "most by one",
        "honest work",
        "all answers p95",
        "audit work",
    )
    return Table(columns, rows)


def _audits(found: Study) -> Table:
    rows = [
        (
            f"{one.audit_share:.0%}",
            f"{study.expected_escapes(one.audit_share):.0f}",
            f"{study.escapes_per_liar(one.outcome):.1f}",
            wording.percent(study.audit_cpu(one.outcome)),
        )
        for one in found.audits
    ]
    columns = ("audit share", "delivered by a liar, at most", "simulated", "CPU worker's audits")
    return Table(columns, rows)
