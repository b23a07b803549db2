"""The finished build: the index, the lock, and Pyodide booted with it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import brotli
import pytest

from tests.wasm_build.conftest import BUILD, REPOSITORY, Silent
from wasm_build import files, node
from wasm_build.build import STEPS, Index, build, read_index
from wasm_build.bundle import Bundle
from wasm_build.sources import module_files

WHEELS = {"msgpack", "msgspec", "zerogpu-browser-node"}
BOOT = """
import sys, msgpack, msgspec
import browser_node.executor, browser_node.models, browser_node.protocol, browser_node.session
from browser_node.protocol import SUBPROTOCOL
assert all(
    module.__file__.endswith((".pyc", ".so")) for name, module in sys.modules.items()
    if name.partition(".")[0] in ("browser_node", "msgpack", "msgspec", "json") and module.__file__
)
print(sys.version_info[:2], msgpack.version, msgspec.__version__, SUBPROTOCOL)
"""


@pytest.mark.slow
def test_a_second_build_runs_no_step_and_writes_nothing(index: Index) -> None:
    before = (BUILD / "index.json").stat().st_mtime_ns
    report = Silent()

    assert build(REPOSITORY, BUILD, report) == index
    assert report.ran == []
    assert (BUILD / "index.json").stat().st_mtime_ns == before


@pytest.mark.slow
@pytest.mark.parametrize("name", ["runtime", "vendor"])
def test_every_file_of_the_index_is_there_with_its_hash_and_encodings(
    index: Index, name: str
) -> None:
    bundle: Bundle = getattr(index, name)
    folder = BUILD / name / bundle.hash

    for file, entry in bundle.files.items():
        content = (folder / file).read_bytes()
        assert (len(content), files.sha256(content)) == (entry.bytes, entry.sha256)
        compressed = folder / f"{file}.br"
        assert compressed.exists() == ("br" in entry.encodings)
        if compressed.exists():
            assert brotli.decompress(compressed.read_bytes()) == content
    listed = {f"{file}{end}" for file in bundle.files for end in ("", ".br")}
    assert {path.name for path in folder.iterdir()} <= listed


@pytest.mark.slow
def test_the_lock_names_our_wheels_only_by_file_and_hash(index: Index) -> None:
    folder = BUILD / "runtime" / index.runtime.hash
    lock = json.loads((folder / "pyodide-lock.json").read_text())

    assert set(lock["packages"]) == WHEELS
    for package in lock["packages"].values():
        assert re.fullmatch(r"[A-Za-z0-9_.-]+\.whl", package["file_name"])
        assert files.sha256_of(folder / package["file_name"]) == package["sha256"]


@pytest.mark.slow
def test_pyodide_boots_with_the_lock_and_imports_the_node_without_compiling(
    index: Index, tmp_path: Path
) -> None:
    script = tmp_path / "boot.py"
    script.write_text(BOOT)

    said = node.find().run_in_pyodide(
        script,
        pyodide=BUILD / "runtime" / index.runtime.hash,
        mounts={},
        packages=sorted(WHEELS),
        advice="Run `make setup`.",
    )

    assert said.split("\n")[-2].startswith("(3, 14) (1, ")
    assert said.split()[-1] == "zerogpu.node.v1"


@pytest.mark.slow
def test_the_icons_and_the_exports_that_pages_use_are_there(index: Index) -> None:
    folder = BUILD / "vendor" / index.vendor.hash
    icons = re.findall(r'<symbol id="([a-z-]+)"', (folder / "icons.svg").read_text())
    exports = (folder / "ui.js").read_text().rpartition("export{")[2]

    assert {"play", "pause", "square", "circle-stop", "shield-check", "eye-off"} <= set(icons)
    for name in ("html", "render", "useState", "signal", "computed", "useSignal"):
        assert re.search(rf"\b{name}\b", exports)
    notices = (folder / "THIRD-PARTY.txt").read_text()
    assert all(f"{name} " in notices for name in ("preact", "htm", "lucide-static", "pyodide"))


def test_an_index_that_cannot_be_read_counts_as_none(tmp_path: Path) -> None:
    assert read_index(tmp_path) is None
    (tmp_path / "index.json").write_text('{"runtime": ')

    assert read_index(tmp_path) is None


def test_steps_come_after_what_they_need() -> None:
    done: set[str] = set()
    for step in STEPS:
        assert set(step.needs) <= done
        done.add(step.name)


def test_editing_the_node_leaves_the_long_steps_alone() -> None:
    for step in STEPS:
        read = module_files(step.run.partition(":")[0], REPOSITORY)
        read += [path for pattern in step.sources for path in REPOSITORY.glob(pattern)]
        if step.name in {"npm", "weights", "wheels", "backbone", "tokenizer", "stdlib", "vendor"}:
            assert not [path for path in read if REPOSITORY / "browser_node" in path.parents]


def test_lock_files_hold_no_addresses() -> None:
    for path in ("wasm_build/package-lock.json", "requirements.lock"):
        assert "://" not in (REPOSITORY / path).read_text()


def test_npm_packages_are_pinned_exactly() -> None:
    package = json.loads((REPOSITORY / "wasm_build/package.json").read_text())
    lock = json.loads((REPOSITORY / "wasm_build/package-lock.json").read_text())

    for name, pinned in (package["dependencies"] | package["devDependencies"]).items():
        assert re.fullmatch(r"\d+\.\d+\.\d+", pinned)
        assert lock["packages"][f"node_modules/{name}"]["version"] == pinned
    assert all("integrity" in entry for name, entry in lock["packages"].items() if name)
