"""What a build step is given, how it runs other programs, and how it fails."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_TAIL_LINES = 15


class BuildError(Exception):
    """A step cannot go on: ``str(error)`` says why, ``advice`` what to do about it."""

    def __init__(self, why: str, *, advice: str) -> None:
        super().__init__(why)
        self.advice = advice


@dataclass(frozen=True)
class Work:
    """One run of one step."""

    output: Path
    """An empty folder to fill; nobody sees it before the step has returned."""
    inputs: Mapping[str, Path]
    """What the steps it needs have made, by their names."""
    repository: Path
    cache: Path
    """Kept between runs, whatever changes; holds nothing that cannot be made again."""
    progress: Callable[[float], None] = lambda share: None
    """Called with the share of the step that is done, 0 to 1."""


def run_command(
    command: Sequence[str | Path],
    *,
    advice: str,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> str:
    """Run a program; returns its standard output, raises `BuildError` with the end of the rest."""
    name = Path(command[0]).name
    try:
        done = subprocess.run(
            [str(part) for part in command],
            cwd=cwd,
            env={**os.environ, **(env or {})},
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError as error:
        raise BuildError(f"{name} cannot be started: {error}", advice=advice) from error
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()[-_TAIL_LINES:]
        raise BuildError(
            "\n".join([f"{name} ended with status {done.returncode}:", *said]), advice=advice
        )
    return done.stdout
