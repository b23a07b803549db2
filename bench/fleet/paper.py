"""A capacity plan for people: tables of what a fleet needs, how it recovers and what breaks."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any, Final

from bench.fleet.assumptions import Assumptions, describe
from bench.fleet.capacity import Plan, RegionPlan
from bench.report import Table

# What the server of today lacks for this plan, said wherever it is shown.
NOTE: Final = (
    "More than one process needs orchestrators that pass jobs to each other, which this version "
    "does not have: the plan says what to expect of them."
)


def tables(plan: Plan, given: Assumptions) -> Iterator[tuple[str, Table]]:
    """Yield the plan's tables with their titles."""
    yield "What each region needs, at its own busiest hour", _regions(plan)
    yield "What flows", _flows(plan)
    yield "When many lose their orchestrator at once", _storms(plan)
    yield "What breaks first if all of it grows and nothing is added", _limits(plan, given)


def assumptions(given: Assumptions) -> Table:
    """Return every assumption, its value, its option and its source."""
    rows = []
    for name, about, _ in describe():
        value = getattr(given, name)
        changed = value != getattr(Assumptions, name)
        rows.append(
            (
                about.text,
                f"{number(value)} {about.unit}".rstrip(),
                f"--{name.replace('_', '-')}",
                "asked" if changed else about.source,
            )
        )
    return Table(("assumption", "value", "option", "source"), rows)


def as_json(plan: Plan, given: Assumptions) -> dict[str, Any]:
    """Return plan and assumptions for programs; sums are over regions at their busiest hours."""
    return {
        "assumptions": {
            **dataclasses.asdict(given),
            "regions": [region._asdict() for region in given.regions],
        },
        "total": {
            "processes": plan.processes,
            "machines": plan.machines,
            "cpu_workers": plan.cpu_workers,
            **{name: plan.total(name) for name in plan.regions[0].traffic.__struct_fields__},
            "frames": plan.total("frames"),
        },
        "regions": plan.regions,
        "busiest": plan.busiest,
        "quietest": plan.quietest,
        "storms": plan.storms,
        "limits": plan.limits,
        "breaks_first": plan.limits[0].name,
        "note": NOTE,
    }


def number(value: float) -> str:
    """Return a number in three digits, thousands apart: 1,000,000 · 12,300 · 0.144."""
    if value == 0:
        return "0"
    digits = 2 - math.floor(math.log10(abs(value)))
    if digits <= 0:
        exact = float(value).is_integer() and abs(value) < 1e8
        return f"{value if exact else round(value, digits):,.0f}"
    return f"{value:.{digits}f}".rstrip("0").rstrip(".")


def _regions(plan: Plan) -> Table:
    def row(name: str, regions: tuple[RegionPlan, ...]) -> tuple[str, ...]:
        processes = sum(region.processes for region in regions)
        machines = sum(region.machines for region in regions)
        cores = sum(region.traffic.orchestrator_cores for region in regions)
        nodes = sum(region.traffic.nodes for region in regions)
        return (
            name,
            number(nodes),
            number(sum(region.traffic.requests for region in regions)),
            str(processes),
            str(machines),
            number(nodes / processes),
            f"{cores / processes:.0%}",
            f"{max(region.memory_per_process_mb for region in regions):.0f} MB",
            str(sum(region.cpu_workers for region in regions)),
            regions[0].set_by if len(regions) == 1 else "",
        )

    columns = [row(region.name, (region,)) for region in plan.regions]
    if len(plan.regions) > 1:
        columns.append(row("all", plan.regions))
    names = (
        "",
        "tabs",
        "requests/s",
        "processes",
        "machines",
        "sockets each",
        "CPU each",
        "memory each",
        "CPU workers",
        "processes set by",
    )
    # A column a region: few regions fit a terminal, ten figures do not.
    first, *rows = zip(names, *columns, strict=True)
    return Table(first, rows)


def _flows(plan: Plan) -> Table:
    total = plan.total
    edge_share = total("edge") / total("requests") if total("requests") else 0.0
    busy, quiet = plan.busiest, plan.quietest
    used = total("edge_tokens") / total("edge_capacity_tokens") if total("edge_tokens") else 0.0
    rows = [
        ("answered by tabs", f"{number(total('edge'))} requests/s", f"{edge_share:.1%} of all"),
        (
            "tokens by tabs",
            f"{number(total('edge_tokens'))} tokens/s",
            f"{used:.1%} of the {number(total('edge_capacity_tokens'))} they could do",
        ),
        (
            "tokens by CPU workers",
            f"{number(total('cpu_worker_tokens'))} tokens/s",
            f"a second: {number(total('cloud'))} fallbacks, {number(total('audits'))} audits, "
            f"{number(total('hedges'))} hedges, {number(total('trials'))} trials",
        ),
        (
            "joins, and as many leaves",
            f"{number(total('joins'))}/s",
            f"{number(total('newcomers'))}/s of them new identities",
        ),
        (
            "frames",
            f"{number(total('frames'))}/s",
            f"{number(2 * total('probes'))}/s of them pings and pongs; an idle tab is asked every "
            f"{number(max(region.probe_every_s for region in plan.regions))} s",
        ),
        (
            "network of the orchestrators",
            f"{number(sum(region.gbit for region in plan.regions))} Gbit/s",
            f"first visits download {number(sum(r.download_gbit for r in plan.regions))} Gbit/s, "
            "most of it from others",
        ),
        (
            f"world's busiest hour, {busy.utc:02}:00 UTC",
            f"{number(busy.nodes)} tabs",
            f"{number(busy.requests)} requests/s",
        ),
        (
            f"world's quietest hour, {quiet.utc:02}:00 UTC",
            f"{number(quiet.nodes)} tabs",
            f"{number(quiet.requests)} requests/s",
        ),
    ]
    return Table(("", "how much", "of which"), rows)


def _storms(plan: Plan) -> Table:
    rows = [
        (
            storm.name,
            number(storm.tabs),
            str(storm.processes),
            f"{number(storm.arrivals)}/s",
            f"{number(storm.accepts)}/s",
            "not within an hour" if storm.back_s is None else f"{storm.back_s} s",
        )
        for storm in plan.storms
    ]
    return Table(
        ("event", "tabs", "processes left", "knock at each", "each welcomes", "99 % back after"),
        rows,
    )


def _limits(plan: Plan, given: Assumptions) -> Table:
    rows = [
        (
            limit.name,
            f"{number(limit.used)} of {number(limit.limit)} {limit.unit}".rstrip(),
            f"{number(limit.growth)} ×" if limit.used else "–",
            number(limit.growth * given.nodes) if limit.used else "–",
            limit.then,
        )
        for limit in plan.limits
    ]
    return Table(("what", "used", "grows by", "to tabs", "then"), rows)
