"""``python -m bench``: run the benchmarks, print what they found and keep it in build/bench."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import click
from rich.console import Console

from bench import dispatch, fallback, report, share, swarm, tab
from bench.fleet import section as fleet
from bench.report import Section

_OUT: Final = Path("build/bench")


class Plan:
    """How much to measure; ``quick`` shows that everything works and says little else."""

    def __init__(self, *, quick: bool, out: Path) -> None:
        self.quick = quick
        self.out = out

    def dispatch(self) -> Section:
        if self.quick:
            return dispatch.measure(rounds=1, seconds=0.3, nodes=2)
        return dispatch.measure(rounds=5, seconds=2.0, nodes=8)

    def fallback(self) -> Section:
        if self.quick:
            return fallback.measure(requests=20, times=2, silences=1)
        return fallback.measure(requests=300, times=25, silences=3)

    def share(self) -> Section:
        return share.measure(requests=200, runs=1 if self.quick else 3)

    def swarm(self) -> Section:
        return swarm.measure(swarm.QUICK if self.quick else swarm.FULL)

    def tab(self) -> Section:
        return tab.measure(visits=1 if self.quick else 3, seconds=3.0 if self.quick else 8.0)

    def fleet(self) -> Section:
        command = f"python -m bench fleet{' --quick' if self.quick else ''}"
        if self.quick:
            return fleet.measure(
                jobs=5_000, study_jobs=1_000, placements=500, out=self.out, command=command
            )
        return fleet.measure(
            jobs=1_000_000, study_jobs=100_000, placements=5_000, out=self.out, command=command
        )


_SECTIONS: Final[dict[str, Callable[[Plan], Section]]] = {
    "dispatch": Plan.dispatch,
    "fallback": Plan.fallback,
    "share": Plan.share,
    "tab": Plan.tab,
    "swarm": Plan.swarm,
    "fleet": Plan.fleet,
}


@click.command()
@click.argument("sections", nargs=-1, type=click.Choice(list(_SECTIONS)))
@click.option("--quick", is_flag=True, help="Seconds instead of minutes; numbers mean little.")
@click.option("--out", type=click.Path(path_type=Path), default=_OUT, show_default=True)
def main(sections: tuple[str, ...], quick: bool, out: Path) -> None:
    """Measure SECTIONS (all by default): dispatch, fallback, share, tab, fleet."""
    console = Console(highlight=False)
    plan = Plan(quick=quick, out=out)
    for name in sections or _SECTIONS:
        section = _SECTIONS[name](plan)
        report.keep(out, section, at=time.strftime("%Y-%m-%dT%H:%MZ", time.gmtime()))
        report.show(section, console)
    console.print(f"\nKept in {out / report.MARKDOWN_NAME} and {out / report.JSON_NAME}")


if __name__ == "__main__":
    main()
