"""``zerogpu simulate``: a capacity plan on paper, or a run of the simulator."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any, Final

import click
import msgspec
from rich.console import Console
from rich.table import Table as RichTable

from bench.fleet import paper, scenario, section, study
from bench.fleet.assumptions import REQUESTS_PER_TAB, Assumptions, Region, describe, parse_regions
from bench.fleet.capacity import plan as plan_for
from bench.fleet.invariants import InvariantBroken
from bench.fleet.outcome import Histogram, Outcome
from bench.fleet.planted import BUGS
from bench.fleet.report import page as report_page
from bench.fleet.scenario import MIXES, STRESSES
from bench.report import Table
from orchestrator.errors import OperatorError

_SIDE_BY_SIDE: Final = 6
_AS_JSON: Final = click.Option(
    ["--json", "as_json"], is_flag=True, help="Print JSON and nothing else."
)


def _regions_of(
    _context: click.Context, _option: click.Parameter, text: str | None
) -> tuple[Region, ...] | None:
    if text is None:
        return None
    try:
        return parse_regions(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def _plan_options() -> list[click.Parameter]:
    """Return an option for every assumption; those not given are None."""
    options: list[click.Parameter] = []
    for name, about, kind in describe():
        default = about.default or paper.number(getattr(Assumptions, name))
        bounds: click.FloatRange | click.IntRange = click.FloatRange(about.low, about.high)
        if kind is int:
            bounds = click.IntRange(int(about.low))
        options.append(
            click.Option(
                [f"--{name.replace('_', '-')}"],
                type=bounds,
                metavar=about.unit or "N",
                help=f"{about.text} [{default}].",
            )
        )
    regions = click.Option(
        ["--regions"],
        metavar="NAME=SHARE,…",
        callback=_regions_of,
        help="Shares, such as eu=0.4,na=0.35,as=0.25; eu=0.4@20 names the busiest hour in UTC.",
    )
    sources = click.Option(["--assumptions"], is_flag=True, help="List them with their sources.")
    return [*options[:2], regions, *options[2:], sources, _AS_JSON]


def _plan(*, as_json: bool, assumptions: bool, **asked: Any) -> None:
    chosen = {name: value for name, value in asked.items() if value is not None}
    if "nodes" in chosen:
        chosen.setdefault("requests_per_s", chosen["nodes"] * REQUESTS_PER_TAB)
    given = Assumptions(**chosen)
    found = plan_for(given)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(paper.as_json(found, given))))
        return
    console = Console(highlight=False)
    console.print(
        f"[bold]{given.nodes:,} tabs, {paper.number(given.requests_per_s)} requests/s:[/bold] "
        f"{found.processes} processes on {found.machines} machines, "
        f"{found.cpu_workers} CPU workers"
    )
    for title, table in paper.tables(found, given):
        _print(console, title, table)
    if assumptions:
        _print(console, "Assumptions", paper.assumptions(given))
    else:
        console.print("\nWhat this takes for granted: zerogpu simulate --assumptions")
    console.print(paper.NOTE)


def _print(console: Console, title: str, table: Table) -> None:
    console.print(f"\n[bold]{title}[/bold]" if title else "")
    shown = RichTable(*table.columns, box=None, pad_edge=False)
    for row in table.rows:
        shown.add_row(*row)
    console.print(shown)


@click.pass_context
def _simulate(context: click.Context, /, **asked: Any) -> None:
    if context.invoked_subcommand is None:
        _plan(**asked)
    elif any(value not in (None, False) for value in asked.values()):
        name = context.invoked_subcommand
        raise click.UsageError(f"options stand after the command: zerogpu simulate {name} …")


# ── a run ────────────────────────────────────────────────────────────────────────────────────────


def _run(
    *,
    mix: tuple[str, ...],
    jobs: int,
    nodes: int,
    seed: int,
    seeds: int,
    processes: int,
    report: Path | None,
    full: bool,
    planted: str | None,
    as_json: bool,
) -> None:
    mixes = mix or MIXES
    asked = [(name, seed + more) for more in range(seeds) for name in mixes]
    trials = [
        study.Trial(scenario.mix(name, jobs=jobs, nodes=nodes), at, planted=planted or "")
        for name, at in asked
    ]
    done: list[Outcome] = []
    broken = 0
    for (name, of_seed), found in zip(
        asked, study.each_of(trials, processes=processes), strict=True
    ):
        if isinstance(found, Outcome):
            done.append(found)
            continue
        broken += 1
        click.echo(f"A law is broken: {found.message}", err=True)
        again = _command(mix=(name,), jobs=jobs, nodes=nodes, seed=of_seed, planted=planted)
        click.echo(f"See it again with:\n  {again}", err=True)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode([_figures(one) for one in done])))
    elif done:
        console = Console(highlight=False)
        # Runs side by side, as many as a terminal is wide.
        for at in range(0, len(done), _SIDE_BY_SIDE):
            _print(console, "", section.side_by_side(done[at : at + _SIDE_BY_SIDE]))
        if not broken:
            word = "run" if len(done) == 1 else "runs"
            click.echo(f"\n{len(done)} {word} of {nodes} tabs: no law was broken.")
    if broken:
        raise click.exceptions.Exit(1)
    if report is None:
        return
    whole = study.Study(mixes=done)
    if full:
        try:
            whole = study.everything(done, jobs=jobs, nodes=nodes, seed=seed, processes=processes)
        except InvariantBroken as error:
            raise OperatorError(f"a law is broken: {error}") from error
    command = _command(
        mix=mix, jobs=jobs, nodes=nodes, seed=seed, seeds=seeds, full=full, planted=planted
    )
    report.write_text(report_page(whole, commands=[command]))
    click.echo(f"The report is in {report}", err=as_json)


def _command(
    *,
    mix: tuple[str, ...],
    jobs: int,
    nodes: int,
    seed: int,
    seeds: int = 1,
    full: bool = False,
    planted: str | None = None,
) -> str:
    """Return the command that makes a run again."""
    words = ["zerogpu", "simulate", "run"]
    for name in mix:
        words += ["--mix", name]
    words += ["--jobs", str(jobs), "--nodes", str(nodes), "--seed", str(seed)]
    words += ["--seeds", str(seeds)] if seeds > 1 else []
    words += ["--full"] if full else []
    words += ["--planted", planted] if planted else []
    return shlex.join(words)


def _figures(outcome: Outcome) -> dict[str, Any]:
    """Return an outcome for programs: quantiles for histograms, and no timeline."""
    fields = {name: getattr(outcome, name) for name in outcome.__struct_fields__}
    histograms = {name: one for name, one in fields.items() if isinstance(one, Histogram)}
    histograms |= {f"latency_{place}_s": one for place, one in outcome.latency_s.items()}
    for name in ("timeline", "latency_s", *(n for n in histograms if n in fields)):
        del fields[name]
    return {
        **fields,
        "edge_share": outcome.edge_share,
        "hedge_share": outcome.hedge_share,
        "audit_overhead": outcome.audit_overhead,
        "utilisation": outcome.utilisation,
        **{
            name: {
                "count": one.count,
                "mean": one.mean,
                **{f"p{q:g}": one.quantile(q / 100) for q in (50, 95, 99, 99.9)},
            }
            for name, one in histograms.items()
        },
    }


run = click.Command(
    "run",
    params=[
        click.Option(
            ["--mix"],
            type=click.Choice([*MIXES, *STRESSES]),
            multiple=True,
            help=f"Faults to simulate; may be given again [{', '.join(MIXES)}].",
        ),
        click.Option(
            ["--jobs"], type=click.IntRange(1), default=12_000, show_default=True, help="Of a run."
        ),
        click.Option(
            ["--nodes"], type=click.IntRange(1), default=24, show_default=True, help="Tabs."
        ),
        click.Option(["--seed"], type=click.IntRange(0), default=1, show_default=True),
        click.Option(
            ["--seeds"],
            type=click.IntRange(1),
            default=1,
            show_default=True,
            help="Runs of each mix, with as many seeds from --seed on.",
        ),
        click.Option(
            ["--processes"],
            type=click.IntRange(1, 64),
            default=1,
            show_default=True,
            help="Processes to run them in.",
        ),
        click.Option(
            ["--report"],
            type=click.Path(path_type=Path, dir_okay=False),
            metavar="FILE",
            help="Also write a report, one HTML page.",
        ),
        click.Option(
            ["--full"],
            is_flag=True,
            help="With rules taken away, each attack and several audit shares in the report.",
        ),
        click.Option(
            ["--planted"],
            type=click.Choice(list(BUGS)),
            metavar="BUG",
            help="Give the scheduler a known bug, to see a law catch it.",
        ),
        _AS_JSON,
    ],
    callback=_run,
    help="Simulate fleets with the real scheduler in virtual time, and check the laws throughout.",
)
plan = click.Command(
    "plan",
    params=_plan_options(),
    callback=_plan,
    help="How many machines N tabs need, and what breaks first: counts, so a million are instant.",
)
simulate = click.Group(
    "simulate",
    invoke_without_command=True,
    params=_plan_options(),
    callback=_simulate,
    commands=[plan, run],
    help="Plan a fleet's capacity (as `plan` does), or `run` the fleet simulator.",
)
