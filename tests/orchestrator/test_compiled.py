"""What is compiled runs in the place of its sources exactly as long as it was made of them."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from browser_node.tokenizer import WordPieceTokenizer
from orchestrator import compiled
from orchestrator.storage import token_counter
from tests.orchestrator.compilers import needs_compiled
from tests.orchestrator.fakes import tiny_wordpiece

WHERE = "from orchestrator.domain import scheduler; print(scheduler.__file__)"
CHUNKS = st.sampled_from(["cat", "dogs", "z9", "[SEP]", "", "a-b", "é" * 29, "x" * 58, "y" * 59])


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what is compiled and of what it imports, with what was compiled."""
    for package in ("orchestrator", "browser_node", "scripts"):
        skipped = shutil.ignore_patterns("__pycache__")
        shutil.copytree(compiled.REPOSITORY / package, tmp_path / package, ignore=skipped)
    shutil.copy(compiled.REPOSITORY / "requirements.lock", tmp_path)
    if compiled.FOLDER.is_dir():
        shutil.copytree(compiled.FOLDER, tmp_path / "build" / "compiled")
    return tmp_path


def python(checkout: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if name != "CI"}
    environment = {**inherited, "PYTHONPATH": str(checkout), "ZEROGPU_COMPILED": "", **variables}
    return subprocess.run(
        [sys.executable, *words],
        cwd=checkout,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def where(checkout: Path, **variables: str) -> Path:
    """Return the file that the scheduler is imported from."""
    ran = python(checkout, "-c", WHERE, **variables)
    assert ran.returncode == 0, ran.stderr
    return Path(ran.stdout.strip())


@needs_compiled
def test_all_that_can_be_compiled_runs_compiled() -> None:
    folder = compiled.folder()
    assert folder is not None
    assert len(compiled.sources()) > 10
    for source in compiled.sources():
        name = ".".join(source.relative_to(compiled.REPOSITORY).with_suffix("").parts)
        file = importlib.import_module(name).__file__
        assert file is not None
        assert Path(file).is_relative_to(folder)


@needs_compiled
def test_a_switch_has_the_sources_run(checkout: Path) -> None:
    assert where(checkout).suffix == ".so"
    assert where(checkout, ZEROGPU_COMPILED="0").name == "scheduler.py"


@needs_compiled
@pytest.mark.parametrize(
    "changed",
    ["orchestrator/domain/board.py", "orchestrator/domain/board.pxd", "scripts/compile.py"],
)
def test_a_source_that_has_changed_since_is_what_runs(checkout: Path, changed: str) -> None:
    with (checkout / changed).open("a") as file:
        file.write("# changed\n")

    assert where(checkout).name == "scheduler.py"


@needs_compiled
def test_what_an_editor_leaves_beside_the_types_is_no_source(checkout: Path) -> None:
    domain = checkout / "orchestrator" / "domain"
    (domain / ".#board.pxd").symlink_to("somebody@somewhere:1")
    (domain / "renamed.pxd").touch()

    assert where(checkout).suffix == ".so"


@needs_compiled
def test_none_in_the_place_of_a_node_is_an_error_and_no_crash(checkout: Path) -> None:
    program = "from orchestrator.domain.index import Index; Index({}).update(None, 0.0)"

    ran = python(checkout, "-c", program)

    assert ran.returncode == 1
    assert "'NoneType' object has no attribute 'draining'" in ran.stderr


@pytest.mark.parametrize(
    ("variables", "status"), [({}, 0), ({"CI": "true"}, 1)], ids=["at home", "in CI"]
)
def test_without_a_compiler_the_sources_run_and_ci_says_no(
    checkout: Path, variables: Mapping[str, str], status: int
) -> None:
    shutil.rmtree(checkout / "build", ignore_errors=True)

    ran = python(checkout, "scripts/compile.py", CC="/no/compiler", **variables)

    assert ran.returncode == status
    assert "there is no C compiler /no/compiler" in ran.stderr
    assert where(checkout).name == "scheduler.py"


@needs_compiled
@given(st.lists(CHUNKS, max_size=40), st.sampled_from([" ", ","]), st.integers(0, 2))
def test_words_are_counted_the_same_in_c(chunks: list[str], separator: str, each: int) -> None:
    from orchestrator.storage.chunk_table import ChunkTable

    engine = WordPieceTokenizer(tiny_wordpiece())
    remembered = token_counter.Chunks(engine, separator, each=each, whole=2)
    table = ChunkTable(engine, separator, each=each, whole=2, special=2)
    text = separator.join(chunks)

    # Twice: what is not known yet, and what is.
    assert [table.count(text), table.count(text)] == [remembered.count(text)] * 2


@needs_compiled
def test_no_text_takes_another_ones_tokens_when_the_table_is_full() -> None:
    from orchestrator.storage.chunk_table import ChunkTable

    engine = WordPieceTokenizer(tiny_wordpiece())
    table = ChunkTable(engine, " ", each=0, whole=2, special=2)
    words = [f"{'cat' * (number % 5)}z{number}" for number in range(50_000)]
    expected = [engine.count(word) for word in words]

    assert [table.count(word) for word in words] == expected
    assert [table.count(word) for word in words] == expected


class _Asked(WordPieceTokenizer):
    """Knows how often it was asked."""

    asked = 0

    def count(self, text: str) -> int:
        self.asked += 1
        return super().count(text)


@needs_compiled
def test_two_words_that_want_the_same_place_are_both_remembered() -> None:
    from orchestrator.storage.chunk_table import ChunkTable

    engine = _Asked(tiny_wordpiece())
    table = ChunkTable(engine, " ", each=0, whole=2, special=2)
    text = " ".join(f"word{number}" for number in range(3_000))
    for _ in range(2):
        table.count(text)
    engine.asked = 0
    table.count(text)

    # With one place for each, 263 of so many words share theirs with another (3,000² / 2¹⁵, less
    # those that share it by threes), give or take 20; with two, 50 share theirs with two others.
    assert engine.asked < 150


def test_half_of_a_surrogate_pair_is_counted_either_way() -> None:
    engine = WordPieceTokenizer(tiny_wordpiece())
    count = token_counter.summed_up(engine, " ", each=0, whole=2)

    assert count("cat \ud800 dog") == engine.count("cat \ud800 dog")
