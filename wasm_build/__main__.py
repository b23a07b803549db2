"""``python -m wasm_build``: make what the browser downloads, or say that it is up to date."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click
from rich.console import Console

from wasm_build.build import STEPS, build
from wasm_build.progress import ProgressReport
from wasm_build.steps import StepFailedError

REPOSITORY = Path(__file__).resolve().parent.parent


@click.command()
@click.option(
    "--build-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=REPOSITORY / "build",
    show_default=True,
    help="Where the result and its cache go.",
)
def main(build_dir: Path) -> None:
    """Make what the browser downloads: Pyodide, the node's wheel, models, page libraries."""
    console = Console(highlight=False)
    started_s = time.monotonic()
    try:
        with ProgressReport(STEPS, console) as report:
            build(REPOSITORY, build_dir.resolve(), report)
    except StepFailedError as error:
        console.print(f"[red]✗ {error.step.title}[/red]: {error}", soft_wrap=True)
        console.print(f"  {error.advice}", soft_wrap=True)
        sys.exit(1)
    took_s = time.monotonic() - started_s
    state = "built" if report.ran else "up to date"
    console.print(f"{build_dir} is {state} [dim]({took_s:.1f} s)[/dim]", soft_wrap=True)


if __name__ == "__main__":
    main()
