"""Which Node.js is taken."""

from __future__ import annotations

from pathlib import Path

import pytest

from wasm_build import node
from wasm_build.work import BuildError, run_command


def program(folder: Path, name: str, prints: str) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\necho {prints}\n")
    path.chmod(0o755)
    return path


def test_a_new_node_on_the_path_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = program(tmp_path, "node", "v22.1.0")
    npm = program(tmp_path, "npm", "11.0.0")
    monkeypatch.setenv("PATH", str(tmp_path))

    assert node.on_path() == node.Node(path, (str(npm),))


def test_an_old_node_on_the_path_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path, "node", "v18.20.0")
    program(tmp_path, "npm", "9.0.0")
    monkeypatch.setenv("PATH", str(tmp_path))

    assert node.on_path() is None


def test_a_node_without_npm_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path, "node", "v22.1.0")
    monkeypatch.setenv("PATH", str(tmp_path))

    assert node.on_path() is None


def test_a_program_that_is_no_node_counts_as_version_zero(tmp_path: Path) -> None:
    assert node.major_version(program(tmp_path, "node", "hello")) == 0
    assert node.major_version(tmp_path / "missing") == 0


def test_a_failed_command_says_its_last_words_and_the_advice(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho the disk is full >&2\nexit 3\n")
    broken.chmod(0o755)

    with pytest.raises(BuildError, match=r"status 3:\nthe disk is full") as failure:
        run_command([broken], advice="Make room.")

    assert failure.value.advice == "Make room."


def test_a_command_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="nothing cannot be started"):
        run_command([tmp_path / "nothing"], advice="Install it.")
