"""What simulated fleets did, as one HTML page without scripts, for operators and customers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Final

from bench.fleet import markup, plots, report_trust, study
from bench.fleet.markup import Cell, Rows
from bench.fleet.outcome import Histogram, Outcome, Sample
from bench.fleet.plots import Axis, Series
from bench.fleet.study import Study
from bench.fleet.wording import against, count, per_thousand, percent, seconds

_LEAST_S: Final = 0.01
_MOST_S: Final = 10.0
_ENOUGH: Final = 100


def page(found: Study, *, commands: Sequence[str] = (), at: str = "", machine: str = "") -> str:
    """Return the report; ``commands`` make it again, ``at`` and ``machine`` say when and where."""
    parts = [_summary(found)]
    if found.mixes:
        parts += [_runs(found.mixes), _answer_times(found.mixes), _timelines(found.mixes)]
    if found.ablations:
        parts.append(_ablations(found))
    if found.attacks and found.honest is not None:
        parts.append(report_trust.attacks(found, found.honest))
    if found.audits:
        parts.append(report_trust.audits(found))
    if found.costs:
        parts.append(report_trust.costs(found))
    parts.append(_again(commands, at, machine))
    return markup.page("Fleet simulation", parts)


# ── the sections ─────────────────────────────────────────────────────────────────────────────────


def _every(found: Study) -> Iterator[Outcome]:
    yield from found.mixes
    yield from (one.outcome for one in found.ablations)
    if found.honest is not None:
        yield found.honest
    yield from (one.outcome for one in found.attacks)
    yield from (one.outcome for one in found.audits)


def _summary(found: Study) -> str:
    every = list(_every(found))
    if not every:
        return markup.paragraph("No fleet was simulated.", muted=True)
    runs = "1 run" if len(every) == 1 else f"{len(every)} runs"
    jobs = sum(outcome.submitted for outcome in every)
    shown = found.mixes or every
    whole = math.fsum(outcome.answered for outcome in shown)
    lies = sum(study.told(outcome) for outcome in shown)
    served = sum(outcome.attempts.get("serve", 0) for outcome in shown)
    hedges = sum(outcome.attempts.get("hedge", 0) for outcome in shown)
    edge, cloud = _merged(shown, "edge"), _merged(shown, "cloud")
    return markup.paragraph(
        f"{runs}, {count(jobs)} jobs: the orchestrator's own scheduler in virtual time, among "
        "simulated tabs that come, go, stall and lie. After every event the laws of the system were"
        " checked, such as one answer for every job and no uncompared answer of a stranger. None "
        "was broken.",
        muted=True,
    ) + markup.cards(
        [
            (percent(_share(shown, "answered_edge", whole)), "of the answers came from tabs"),
            (f"{seconds(edge.quantile(0.5))}", "median answer of a tab"),
            (f"{seconds(edge.quantile(0.95))}", "95 % of the tabs' answers within"),
            (f"{seconds(cloud.quantile(0.95))}", "95 % of the CPU worker's within"),
            (percent(hedges / served if served else math.nan), "of the jobs were hedged"),
            (
                count(sum(outcome.wrong_delivered for outcome in shown)),
                f"wrong answers reached customers, of {count(lies)} told",
            ),
        ]
    )


def _share(outcomes: Sequence[Outcome], field: str, whole: float) -> float:
    return sum(getattr(one, field) for one in outcomes) / whole if whole else math.nan


def _merged(outcomes: Sequence[Outcome], place: str) -> Histogram:
    return study.merged([outcome.latency_s[place] for outcome in outcomes])


def _runs(outcomes: Sequence[Outcome]) -> str:
    def name(outcome: Outcome) -> Cell:
        return Cell(outcome.scenario, _MEANING.get(outcome.scenario, ""))

    def speed(outcome: Outcome) -> list[Cell]:
        edge, cloud = outcome.latency_s["edge"], outcome.latency_s["cloud"]
        return [
            name(outcome),
            Cell(count(outcome.submitted)),
            Cell(percent(outcome.edge_share)),
            *(Cell(seconds(edge.quantile(q))) for q in (0.5, 0.95, 0.99)),
            *(Cell(seconds(cloud.quantile(q))) for q in (0.5, 0.95, 0.99)),
            Cell(percent(outcome.utilisation)),
            Cell(count(_refused(outcome))),
        ]

    def rules(outcome: Outcome) -> list[Cell]:
        wrong = outcome.wrong_delivered
        return [
            name(outcome),
            Cell(f"{per_thousand(study.rerouted(outcome), outcome.submitted):.1f}"),
            Cell(percent(outcome.hedge_share)),
            Cell(percent(outcome.audit_overhead)),
            Cell(percent(study.audit_cpu(outcome))),
            Cell(count(outcome.quarantined)),
            Cell(count(study.told(outcome))),
            Cell(count(sum(tally.caught for tally in outcome.tallies.values()))),
            Cell(count(wrong), tone="bad" if wrong else ""),
        ]

    speed_columns = (
        "mix",
        "jobs",
        "by tabs",
        "tabs p50",
        "tabs p95",
        "tabs p99",
        "CPU p50",
        "CPU p95",
        "CPU p99",
        "tabs busy",
        "not answered",
    )
    rules_columns = (
        "mix",
        "moved ‰",
        "hedged",
        "audit work",
        "by the CPU worker",
        "shut out",
        "lies told",
        "caught",
        "delivered",
    )
    return markup.section(
        "What the fleet did",
        "Tabs and CPU: how long their answers took. Tabs busy: time spent computing. Not answered: "
        "failed with a truthful error, bad inputs apart.",
        markup.table(speed_columns, [Rows([speed(one) for one in outcomes])], name="Answers"),
    ) + markup.section(
        "What it cost, and what liars got through",
        "Moved: attempts per thousand jobs that ended without an answer and went elsewhere. Audit "
        "work: tokens of audits, trials and replays against tokens answered, after the warm-up. "
        "Caught: disagreements with a trusted answer.",
        markup.table(rules_columns, [Rows([rules(one) for one in outcomes])], name="Checks"),
    )


_MEANING: Final = {
    "calm": "nothing goes wrong",
    "churn": "tabs die and leave all the time",
    "outage": "regions and half the fleet drop out",
    "weather": "slow and stalled tabs, lost frames, clock jumps",
    "restart": "server and CPU worker crash",
    "liars": "most tabs attack, each in its way",
}


def _refused(outcome: Outcome) -> int:
    return sum(number for code, number in outcome.failed.items() if code != "invalid_input")


def _answer_times(outcomes: Sequence[Outcome]) -> str:
    x = plots.logarithmic("answered within", _LEAST_S, _MOST_S, _short)
    y = Axis("", 0.0, 1.0, [0.0, 0.25, 0.5, 0.75, 1.0], lambda share: f"{share:.0%}")
    figures = [
        plots.chart(
            f"{outcome.scenario.capitalize()}: share of answers by their time",
            x,
            y,
            [
                Series("tabs", _cumulative(outcome.latency_s["edge"]), "edge"),
                Series("CPU worker", _cumulative(outcome.latency_s["cloud"]), "cloud"),
            ],
        )
        for outcome in outcomes
    ]
    return markup.section(
        "How long answers took",
        "From submission to the customer's answer, waiting and rerouting included.",
        markup.charts(figures),
    )


def _short(value: float) -> str:
    return f"{value * 1e3:g} ms" if value < 1 else f"{value:g} s"


def _cumulative(times: Histogram) -> list[tuple[float, float]]:
    """Return the share of answers that took at most so long: one point for each bucket's edge."""
    if not times.count:
        return []
    # Many quantiles lie in one bucket; the largest is what its edge stands for.
    shares = (step / 400 for step in range(1, 401))
    return list({times.quantile(share): share for share in shares}.items())


def _timelines(outcomes: Sequence[Outcome]) -> str:
    figures = []
    for outcome in outcomes:
        # Once all is submitted only the rest is answered.
        pairs = [
            (a, b) for a, b in itertools.pairwise(outcome.timeline) if b.submitted > a.submitted
        ]
        if len(pairs) < 2:
            continue
        minutes = pairs[-1][1].at_s > 180
        each_s = 60.0 if minutes else 1.0

        edge = _rates("answered_edge", pairs, each_s)
        cloud = _rates("answered_cloud", pairs, each_s)
        most = max(rate for _, rate in (*edge, *cloud))
        figures.append(
            plots.chart(
                f"{outcome.scenario.capitalize()}: answers a second",
                plots.linear(
                    f"virtual {'minutes' if minutes else 'seconds'}",
                    edge[-1][0],
                    lambda value: f"{value:g}",
                ),
                plots.linear("", most, lambda rate: f"{rate:g}"),
                [
                    Series("tabs", edge, "edge", filled=True),
                    Series("CPU worker", cloud, "cloud", filled=True),
                ],
            )
        )
    if not figures:
        return ""
    return markup.section(
        "Who answered, over time",
        "When tabs fail the CPU worker's share rises, and falls again as they return.",
        markup.charts(figures),
    )


def _rates(of: str, pairs: Sequence[tuple[Sample, Sample]], each_s: float) -> list[plots.Point]:
    return plots.thinned(
        [(b.at_s / each_s, (getattr(b, of) - getattr(a, of)) / (b.at_s - a.at_s)) for a, b in pairs]
    )


def _ablations(found: Study) -> str:
    columns = ("rules", "p50", "p95", "p99", "by tabs", "moved ‰", "hedged", "not answered")
    groups = []
    for name in dict.fromkeys(one.mix for one in found.ablations):
        runs = {one.name: one.outcome for one in found.ablations if one.mix == name}
        full = runs[study.FULL]
        rows = []
        for rule, outcome in runs.items():
            whole, own = study.latency(outcome), study.latency(full)
            share = study.edge_share(outcome)
            compared = rule != study.FULL
            times = [(whole.quantile(q), own.quantile(q)) for q in (0.5, 0.95, 0.99)]
            # A handful of moves is chance.
            enough = min(study.rerouted(outcome), study.rerouted(full)) >= _ENOUGH
            moved, before = (
                per_thousand(study.rerouted(one), one.submitted) for one in (outcome, full)
            )
            rows.append(
                [
                    Cell(rule),
                    *(
                        against(seconds(a), a, b) if compared else Cell(seconds(a))
                        for a, b in times
                    ),
                    against(percent(share), share, study.edge_share(full), more_is_worse=False)
                    if compared
                    else Cell(percent(share)),
                    against(f"{moved:.1f}", moved, before)
                    if compared and enough
                    else Cell(f"{moved:.1f}"),
                    Cell(percent(outcome.hedge_share)),
                    Cell(count(_refused(outcome))),
                ]
            )
        groups.append(Rows(rows, heading=f"in {name}"))
    return markup.section(
        "What each rule is worth",
        "The same demand, tabs and faults with one rule taken away at a time. Times are those of "
        "all answers after the warm-up; the small number is the ratio to the full set of rules.",
        markup.table(columns, groups, name="Ablations"),
    )


def _again(commands: Sequence[str], at: str, machine: str) -> str:
    parts = [markup.command(command) for command in commands]
    made = ", ".join(word for word in (at, machine) if word)
    if made:
        parts.append(markup.paragraph(f"Made {made}.", muted=True))
    says = "The same seed gives the same run; only CPU times differ."
    return markup.section("Do it again", says, *parts)
