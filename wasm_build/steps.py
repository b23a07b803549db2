"""Steps cached by the content of their inputs.

A step's key is the hash of all it reads: its own source with what that imports, the repository's
files it names, the versions of the libraries that shape its output, and the keys of the steps it
needs. Its output is the folder ``steps/<name>/<key>``, filled under another name and renamed when
the step has returned: that folder's existence proves the step done, and a crash leaves only a
folder to sweep away.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final, Protocol

from wasm_build import files, sources
from wasm_build.work import BuildError, Work

_UNFINISHED: Final = ".unfinished-"


@dataclass(frozen=True)
class Step:
    """One step; ``run`` is ``module:function``, imported only when the step has to run."""

    name: str
    title: str
    run: str
    needs: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    """Globs of further files it reads, relative to the repository."""
    libraries: tuple[str, ...] = ()
    """Distributions whose version shapes its output."""
    seconds: float = 1.0
    """About how long it takes the first time: its share of the progress bar."""


class Report(Protocol):
    """Who is told how the build goes."""

    def started(self, step: Step) -> None: ...
    def progressed(self, step: Step, share: float) -> None: ...
    def finished(self, step: Step, *, ran: bool) -> None: ...


class StepFailedError(Exception):
    """A step raised; the cause is chained."""

    def __init__(self, step: Step, error: BuildError) -> None:
        super().__init__(str(error))
        self.step = step
        self.advice = error.advice


def key_of(step: Step, repository: Path, needed: Mapping[str, str]) -> str:
    """Return the step's key; ``needed`` are the keys of all steps before it, by name."""
    paths = sources.module_files(step.run.partition(":")[0], repository)
    for pattern in step.sources:
        matches = sorted(path for path in repository.glob(pattern) if path.is_file())
        if not matches:
            raise FileNotFoundError(f"step {step.name}: nothing matches {pattern}")
        paths += matches
    read = {
        "run": step.run,
        "files": {str(path.relative_to(repository)): files.sha256_of(path) for path in paths},
        "libraries": {name: version(name) for name in step.libraries},
        "needs": {name: needed[name] for name in step.needs},
    }
    return hashlib.sha256(json.dumps(read, sort_keys=True).encode()).hexdigest()[:32]


def run_steps(
    steps: Sequence[Step], *, repository: Path, cache: Path, report: Report
) -> dict[str, Path]:
    """Run what is out of date, in order; returns each step's output folder by the step's name.

    Raises `StepFailedError`. Outputs of former keys are removed once everything has succeeded.
    """
    keys: dict[str, str] = {}
    outputs: dict[str, Path] = {}
    for step in steps:
        report.started(step)
        try:
            keys[step.name] = key_of(step, repository, keys)
        except PackageNotFoundError as error:
            raise StepFailedError(step, _not_installed(error.name)) from error
        output = cache / "steps" / step.name / keys[step.name]
        ran = not output.is_dir()
        if ran:
            work = Work(
                output=output.with_name(f"{_UNFINISHED}{os.getpid()}"),
                inputs={name: outputs[name] for name in step.needs},
                repository=repository,
                cache=cache,
                progress=_progress(step, report),
            )
            _run(step, work)
            work.output.replace(output)
        outputs[step.name] = output
        report.finished(step, ran=ran)
    _sweep(outputs)
    return outputs


def _progress(step: Step, report: Report) -> Callable[[float], None]:
    return lambda share: report.progressed(step, share)


def _run(step: Step, work: Work) -> None:
    shutil.rmtree(work.output, ignore_errors=True)
    work.output.mkdir(parents=True)
    module, _, function = step.run.partition(":")
    try:
        getattr(importlib.import_module(module), function)(work)
    except BuildError as error:
        raise StepFailedError(step, error) from error
    except ImportError as error:
        raise StepFailedError(step, _not_installed(error.name or str(error))) from error
    except OSError as error:
        advice = f"Check the rights and the free space of {work.cache}."
        raise StepFailedError(step, BuildError(str(error), advice=advice)) from error


def _not_installed(name: str) -> BuildError:
    return BuildError(
        f"{name} is not installed",
        advice="Install the project with its build extra: pip install -e '.[build]'",
    )


def _sweep(outputs: Mapping[str, Path]) -> None:
    """Remove former and unfinished outputs of these steps."""
    for output in outputs.values():
        for other in output.parent.iterdir():
            if other != output:
                shutil.rmtree(other)
