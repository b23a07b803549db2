"""``python -m bench``: run the benchmarks, print what they found and keep it in build/bench."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import click
from rich.console import Console

from bench import (
    batch,
    dispatch,
    fallback,
    fuzz,
    litellm,
    report,
    share,
    sse,
    swarm,
    tab,
    validation,
)
from bench.fleet import section as fleet
from bench.report import Section

_OUT: Final = Path("build/bench")


class Plan:
    """How much to measure; ``quick`` shows that everything works and says little else.

    ``minutes`` is the fuzzer's, ``seed`` its and that of the crashes of a batch.
    """

    def __init__(self, *, quick: bool, out: Path, minutes: float = 10.0, seed: int = 1) -> None:
        self.quick = quick
        self.out = out
        self.minutes = minutes
        self.seed = seed

    def batch(self) -> Section:
        return batch.measure(batch.QUICK if self.quick else batch.FULL, seed=self.seed)

    def dispatch(self) -> Section:
        if self.quick:
            return dispatch.measure(rounds=1, seconds=0.3, nodes=2)
        # Short, and many: what else the machine does comes in seconds, and then falls on both
        # sides of a ratio.
        return dispatch.measure(rounds=25, seconds=0.4, nodes=8)

    def fallback(self) -> Section:
        if self.quick:
            return fallback.measure(requests=20, times=2, silences=1)
        return fallback.measure(requests=300, times=25, silences=3)

    def fuzz(self) -> Section:
        return fuzz.measure(
            minutes=0.1 if self.quick else self.minutes, seed=self.seed, out=self.out
        )

    def litellm(self) -> Section:
        if self.quick:
            return litellm.measure(rounds=1, seconds=0.5)
        return litellm.measure(rounds=3, seconds=2.0)

    def share(self) -> Section:
        return share.measure(requests=200, runs=1 if self.quick else 3)

    def sse(self) -> Section:
        if self.quick:
            return sse.measure(rounds=1, words=100, times=2)
        return sse.measure(rounds=5, words=400, times=10)

    def swarm(self) -> Section:
        return swarm.measure(swarm.QUICK if self.quick else swarm.FULL)

    def tab(self) -> Section:
        return tab.measure(visits=1 if self.quick else 3, seconds=3.0 if self.quick else 8.0)

    def validation(self) -> Section:
        if self.quick:
            return validation.measure(lines=2_000, bytes_per_line=2_000, runs=1)
        return validation.measure(lines=50_000, bytes_per_line=2_000, runs=5)

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
    "batch": Plan.batch,
    "dispatch": Plan.dispatch,
    "fallback": Plan.fallback,
    "fuzz": Plan.fuzz,
    "litellm": Plan.litellm,
    "share": Plan.share,
    "sse": Plan.sse,
    "tab": Plan.tab,
    "swarm": Plan.swarm,
    "validation": Plan.validation,
    "fleet": Plan.fleet,
}


@click.command()
@click.argument("sections", nargs=-1, type=click.Choice(list(_SECTIONS)))
@click.option("--quick", is_flag=True, help="Seconds instead of minutes; numbers mean little.")
@click.option("--minutes", type=float, default=10.0, show_default=True, help="For fuzz.")
@click.option("--seed", type=int, default=1, show_default=True, help="For fuzz and batch.")
@click.option("--out", type=click.Path(path_type=Path), default=_OUT, show_default=True)
def main(sections: tuple[str, ...], quick: bool, minutes: float, seed: int, out: Path) -> None:
    """Measure SECTIONS, all by default."""
    console = Console(highlight=False)
    plan = Plan(quick=quick, out=out, minutes=minutes, seed=seed)
    for name in sections or _SECTIONS:
        section = _SECTIONS[name](plan)
        report.keep(out, section, at=time.strftime("%Y-%m-%dT%H:%MZ", time.gmtime()))
        report.show(section, console)
    console.print(f"\nKept in {out / report.MARKDOWN_NAME} and {out / report.JSON_NAME}")


if __name__ == "__main__":
    main()
