"""What the build prints where there is no terminal."""

from __future__ import annotations

import io

from rich.console import Console

from wasm_build.progress import ProgressReport
from wasm_build.steps import Step

STEPS = (
    Step("soup", "Cook the soup", "kitchen:soup", seconds=3),
    Step("bread", "Bake", "kitchen:bread"),
)


def test_only_steps_that_ran_leave_a_line() -> None:
    console = Console(file=io.StringIO(), width=80)
    with ProgressReport(STEPS, console) as report:
        for step, ran in zip(STEPS, (True, False), strict=True):
            report.started(step)
            report.progressed(step, 0.5)
            report.finished(step, ran=ran)

    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert printed.startswith("✓ Cook the soup ")
    assert "Bake" not in printed
    assert report.ran == 1
