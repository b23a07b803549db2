"""The report's sections on attacks, audits and what a decision costs."""

from __future__ import annotations

import math

from bench.fleet import markup, plots, study
from bench.fleet.behaviours import CONDUCTS
from bench.fleet.markup import Cell, Rows
from bench.fleet.outcome import Outcome
from bench.fleet.plots import Series
from bench.fleet.study import Study
from bench.fleet.wording import against, count, percent, seconds


def attacks(found: Study, honest: Outcome) -> str:
    usual = study.latency(honest).quantile(0.95)
    rows = []
    for attack in found.attacks:
        outcome, tally = attack.outcome, attack.outcome.tallies[attack.name]
        p95 = study.latency(outcome).quantile(0.95)
        lies = not CONDUCTS[attack.name].honest
        rows.append(
            [
                Cell(attack.name.replace("_", " "), study.ATTACKS[attack.name]),
                Cell(count(tally.identities)),
                Cell(count(tally.told) if lies else "–"),
                Cell(count(tally.caught) if lies else "–"),
                _escaped(tally.wrong, outcome.answered),
                Cell(count(tally.most_wrong_per_identity)),
                Cell(count(tally.delivered - tally.wrong)),
                Cell(count(outcome.quarantined)),
                against(seconds(p95), p95, usual),
                against(
                    percent(outcome.audit_overhead),
                    outcome.audit_overhead,
                    honest.audit_overhead,
                ),
            ]
        )
    columns = (
        "attack",
        "identities",
        "lies told",
        "caught",
        "delivered",
        "most by one",
        "honest work done",
        "shut out",
        "all answers p95",
        "audit work",
    )
    return markup.section(
        "What attacks achieve, and cost",
        f"{study.ATTACKER_SHARE:.0%} of a calm fleet attack, one kind at a time. Delivered: wrong "
        "answers that reached a customer, and how many of a million answers. Honest work done: "
        "right answers that attackers gave customers on the way. The other small numbers compare "
        "with the honest three quarters alone, under the same demand "
        f"(p95 {seconds(usual)}, audit work {percent(honest.audit_overhead)}).",
        markup.table(columns, [Rows(rows)], name="Attacks"),
    )


def _escaped(wrong: int, answered: int) -> Cell:
    if not wrong:
        return Cell("0")
    return Cell(count(wrong), f"{wrong / answered * 1e6:,.0f} ppm", "bad")


def audits(found: Study) -> str:
    shares = sorted(one.audit_share for one in found.audits)
    line = [shares[0] * (shares[-1] / shares[0]) ** (step / 40) for step in range(41)]
    expected = [(share, study.expected_escapes(share)) for share in line]
    measured = [(one.audit_share, study.escapes_per_liar(one.outcome)) for one in found.audits]
    seen = [point for point in measured if not math.isnan(point[1])]
    most = max(escapes for _, escapes in (*expected, *seen))
    across = plots.linear("audit share", shares[-1], lambda share: f"{share:.0%}")
    figure = plots.chart(
        "Wrong answers a patient liar gets delivered",
        across,
        plots.linear("", most, lambda escapes: f"{escapes:g}"),
        [
            Series("before it is shut out, at most", expected, "other"),
            Series(
                "simulated, mean",
                seen,
                "edge",
                dots=True,
                line=False,
                notes=[f"{share:.0%}: {escapes:.1f}" for share, escapes in seen],
            ),
        ],
    )
    work = [(one.audit_share, study.audit_cpu(one.outcome)) for one in found.audits]
    work = [point for point in work if not math.isnan(point[1])]
    dearest = max((share for _, share in work), default=0.0)
    price = plots.chart(
        "Repeated by the CPU worker, of all tokens",
        across,
        plots.linear("", dearest, lambda share: f"{share * 100:g} %"),
        [Series("simulated", work, "cloud", dots=True)],
    )
    rows = [
        [
            Cell(f"{one.audit_share:.0%}"),
            Cell(f"{study.expected_escapes(one.audit_share):.0f}"),
            Cell("–" if math.isnan(escapes) else f"{escapes:.1f}"),
            Cell(f"{one.outcome.quarantined} of {study.liars(one.outcome)}"),
            Cell(percent(one.outcome.audit_overhead)),
            Cell(percent(study.audit_cpu(one.outcome))),
        ]
        for one, (_, escapes) in zip(found.audits, measured, strict=True)
    ]
    columns = (
        "audit share",
        "delivered by a liar, at most",
        "simulated",
        "liars shut out",
        "audit work",
        "by the CPU worker",
    )
    return markup.section(
        "What audits buy",
        "A patient liar is honest until it is trusted, then lies now and then. Each answer is "
        "delivered at once and audited with the probability of the audit share, so that doubling "
        "the share about halves what gets through, and doubles the work. Choose the share by what "
        "a wrong answer costs; projects that can afford none ask for two nodes on every job. Where "
        "liars were not yet shut out when the run ended, they would have got more through.",
        markup.charts([figure, price]),
        markup.table(columns, [Rows(rows)], name="Audit shares"),
    )


def costs(found: Study) -> str:
    rows = [
        [
            Cell(f"{cost.nodes:,}"),
            Cell(f"{cost.placing_us:.0f} µs"),
            Cell(f"{cost.placing_p99_us:.0f} µs"),
            Cell(f"{cost.finishing_us:.0f} µs"),
            Cell(f"{cost.bytes_per_node:,.0f}"),
        ]
        for cost in found.costs
    ]
    return markup.section(
        "What a decision costs",
        "CPU time of the scheduler for one job among so many ready nodes, and the memory it holds "
        "for each beside that of its socket.",
        markup.table(
            ("nodes", "placement, median", "p99", "result, median", "bytes a node"),
            [Rows(rows)],
            name="Decision cost",
        ),
    )
