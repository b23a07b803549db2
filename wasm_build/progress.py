"""How the build shows what it does: a bar on a terminal, a line a step elsewhere."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from wasm_build.steps import Step


class ProgressReport:
    """Implements `wasm_build.steps.Report`; ``ran`` counts the steps that were out of date.

    Steps that are up to date leave no line.
    """

    def __init__(self, steps: Sequence[Step], console: Console) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._bar = self._progress.add_task("", total=sum(step.seconds for step in steps))
        self._done_s = 0.0
        self._started_s = 0.0
        self.ran = 0

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def started(self, step: Step) -> None:
        self._started_s = time.monotonic()
        self._progress.update(self._bar, description=step.title)

    def progressed(self, step: Step, share: float) -> None:
        self._progress.update(self._bar, completed=self._done_s + share * step.seconds)

    def finished(self, step: Step, *, ran: bool) -> None:
        self._done_s += step.seconds
        self._progress.update(self._bar, completed=self._done_s)
        if ran:
            self.ran += 1
            took_s = time.monotonic() - self._started_s
            self._console.print(f"[green]✓[/green] {step.title} [dim]{took_s:.1f} s[/dim]")
