"""Steps run when, and only when, something they read has changed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.wasm_build.conftest import Silent
from wasm_build.steps import Step, StepFailedError, run_steps

FIRST = Step("first", "Make the first", "cooking.first:run", sources=("recipe.txt",))
OTHER = Step("other", "Make another", "cooking.other:run")
LAST = Step("last", "Put them together", "cooking.last:run", needs=("first",))

COPY = """
from cooking import spice
from wasm_build.work import Work

def run(work: Work) -> None:
    (work.output / "dish").write_text(spice.NAME + (work.repository / "recipe.txt").read_text())
"""
CONSTANT = """
def run(work):
    (work.output / "dish").write_text("bread")
"""
JOIN = """
def run(work):
    (work.output / "dish").write_text((work.inputs["first"] / "dish").read_text() + "!")
"""
FAILING = """
from wasm_build.work import BuildError

def run(work):
    (work.output / "dish").write_text("half")
    raise BuildError("the oven is cold", advice="Heat it.")
"""


class Kitchen:
    """A repository with three steps, and its cache."""

    def __init__(self, folder: Path) -> None:
        self.repository = folder / "repository"
        self.cache = folder / "cache"
        self.write("recipe.txt", "soup")
        self.write("cooking/__init__.py", "")
        self.write("cooking/spice.py", "NAME = 'salted '")
        self.write("cooking/first.py", COPY)
        self.write("cooking/other.py", CONSTANT)
        self.write("cooking/last.py", JOIN)

    def write(self, path: str, content: str) -> None:
        file = self.repository / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)

    def cook(self, *steps: Step) -> list[str]:
        """Run the steps; returns the names of those that ran."""
        for name in [name for name in sys.modules if name.partition(".")[0] == "cooking"]:
            del sys.modules[name]
        report = Silent()
        run_steps(steps, repository=self.repository, cache=self.cache, report=report)
        return report.ran

    def dish(self, step: str) -> str:
        (output,) = (self.cache / "steps" / step).iterdir()
        return (output / "dish").read_text()


@pytest.fixture
def kitchen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kitchen]:
    kitchen = Kitchen(tmp_path)
    monkeypatch.syspath_prepend(str(kitchen.repository))
    # The sources change faster than a .pyc's date can tell.
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield kitchen
    for name in [name for name in sys.modules if name.partition(".")[0] == "cooking"]:
        del sys.modules[name]


def test_every_step_runs_the_first_time(kitchen: Kitchen) -> None:
    assert kitchen.cook(FIRST, OTHER, LAST) == ["first", "other", "last"]
    assert kitchen.dish("last") == "salted soup!"


def test_nothing_runs_the_second_time(kitchen: Kitchen) -> None:
    kitchen.cook(FIRST, OTHER, LAST)

    assert kitchen.cook(FIRST, OTHER, LAST) == []


def test_a_changed_file_runs_its_step_and_those_after_it_only(kitchen: Kitchen) -> None:
    kitchen.cook(FIRST, OTHER, LAST)
    kitchen.write("recipe.txt", "stew")

    assert kitchen.cook(FIRST, OTHER, LAST) == ["first", "last"]
    assert kitchen.dish("last") == "salted stew!"


def test_a_changed_import_runs_the_step_that_imports_it(kitchen: Kitchen) -> None:
    kitchen.cook(FIRST, OTHER)
    kitchen.write("cooking/spice.py", "NAME = 'peppered '")

    assert kitchen.cook(FIRST, OTHER) == ["first"]
    assert kitchen.dish("first") == "peppered soup"


def test_a_changed_step_runs_again(kitchen: Kitchen) -> None:
    kitchen.cook(OTHER)
    kitchen.write("cooking/other.py", CONSTANT.replace("bread", "rolls"))

    assert kitchen.cook(OTHER) == ["other"]
    assert kitchen.dish("other") == "rolls"


def test_a_failed_step_says_why_and_leaves_no_output(kitchen: Kitchen) -> None:
    kitchen.write("cooking/other.py", FAILING)

    with pytest.raises(StepFailedError, match="the oven is cold") as failure:
        kitchen.cook(OTHER)

    assert failure.value.step is OTHER
    assert failure.value.advice == "Heat it."
    kitchen.write("cooking/other.py", CONSTANT)
    assert kitchen.cook(OTHER) == ["other"]
    assert kitchen.dish("other") == "bread"


def test_a_step_that_fails_leaves_the_former_output_alone(kitchen: Kitchen) -> None:
    kitchen.cook(OTHER)
    kitchen.write("cooking/other.py", FAILING)
    with pytest.raises(StepFailedError):
        kitchen.cook(OTHER)
    kitchen.write("cooking/other.py", CONSTANT)

    assert kitchen.cook(OTHER) == []


def test_a_missing_library_is_named(kitchen: Kitchen) -> None:
    kitchen.write("cooking/other.py", "import a_library_that_is_not_there")

    with pytest.raises(StepFailedError, match="a_library_that_is_not_there") as failure:
        kitchen.cook(OTHER)

    assert "build extra" in failure.value.advice


def test_a_library_that_shapes_the_output_and_is_missing_is_named(kitchen: Kitchen) -> None:
    step = Step("other", "Make another", "cooking.other:run", libraries=("no-such-library",))

    with pytest.raises(StepFailedError, match="no-such-library is not installed"):
        kitchen.cook(step)


def test_a_full_disk_is_reported_as_the_step_s_failure(kitchen: Kitchen) -> None:
    kitchen.write("cooking/other.py", "def run(work):\n    raise OSError('No space left')")

    with pytest.raises(StepFailedError, match="No space left") as failure:
        kitchen.cook(OTHER)

    assert str(kitchen.cache) in failure.value.advice


def test_a_source_that_is_gone_is_named(kitchen: Kitchen) -> None:
    (kitchen.repository / "recipe.txt").unlink()

    with pytest.raises(FileNotFoundError, match=r"recipe\.txt"):
        kitchen.cook(FIRST)
