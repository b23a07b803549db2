"""The build: which steps there are, and how their outputs become what the server serves.

index.json               names everything below; written last, so a crash leaves the former build
runtime/<hash>/…         Pyodide, wheels, ONNX Runtime Web
vendor/<hash>/…          the pages' libraries
models/manifests, parts  the model packs
cache/                   the steps' outputs and other things that only save time
"""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from browser_node.models import decode_manifest
from wasm_build import bundle, files, packs
from wasm_build.bundle import Bundle
from wasm_build.packs import Listed
from wasm_build.steps import Report, Step, run_steps

_INSIDE: Final = "wasm_build/pyodide_run.mjs"

STEPS: Final = (
    Step(
        "npm",
        "Install npm packages",
        "wasm_build.node:install_packages",
        sources=("wasm_build/package.json", "wasm_build/package-lock.json"),
        seconds=8,
    ),
    Step("weights", "Download all-MiniLM-L6-v2", "wasm_build.fetch:weights", seconds=8),
    Step("wheels", "Download wheels for Pyodide", "wasm_build.fetch:wheels", seconds=3),
    Step(
        "backbone",
        "Build the ONNX graph",
        "wasm_build.backbone:run",
        needs=("weights",),
        libraries=("numpy", "onnx", "safetensors"),
        seconds=2,
    ),
    Step(
        "tokenizer",
        "Measure the tokenizer",
        "wasm_build.tokenizer_table:run",
        needs=("backbone",),
        libraries=("tokenizers",),
        seconds=6,
    ),
    Step(
        "heads",
        "Fit the classifier's head",
        "wasm_build.classifier:run",
        needs=("backbone", "tokenizer"),
        sources=("wasm_build/iab/*",),
        libraries=("numpy", "onnx", "onnxruntime"),
        seconds=20,
    ),
    Step(
        "packs",
        "Cut and compress the models",
        "wasm_build.packs:run",
        needs=("backbone", "tokenizer", "heads"),
        libraries=("brotli",),
        seconds=2,
    ),
    Step(
        "stdlib",
        "Compile the standard library",
        "wasm_build.runtime:compile_stdlib",
        needs=("npm",),
        sources=(_INSIDE, "wasm_build/inside/compile_stdlib.py"),
        seconds=6,
    ),
    Step(
        "node-wheel",
        "Build and lock the wheels",
        "wasm_build.runtime:pack_wheels",
        needs=("npm", "wheels"),
        sources=(
            _INSIDE,
            "wasm_build/inside/pack_wheels.py",
            "wasm_build/node_wheel/pyproject.toml",
            "pyproject.toml",
            "browser_node/**/*.py",
        ),
        libraries=("hatchling",),
        seconds=4,
    ),
    Step(
        "runtime",
        "Compress the runtime",
        "wasm_build.runtime:collect",
        needs=("npm", "stdlib", "node-wheel"),
        libraries=("brotli",),
        seconds=60,
    ),
    Step(
        "vendor",
        "Bundle the pages' libraries",
        "wasm_build.vendor:run",
        needs=("npm",),
        sources=("wasm_build/vendor.mjs",),
        libraries=("brotli",),
        seconds=1,
    ),
)


class Index(msgspec.Struct, frozen=True):
    """build/index.json."""

    runtime: Bundle
    vendor: Bundle
    models: tuple[Listed, ...]


def build(repository: Path, target: Path, report: Report) -> Index:
    """Bring ``target`` up to date; raises `wasm_build.steps.StepFailedError`."""
    with alone(target):
        outputs = run_steps(STEPS, repository=repository, cache=target / "cache", report=report)
        former = read_index(target)
        index = Index(
            runtime=bundle.publish(outputs["runtime"], target / "runtime"),
            vendor=bundle.publish(outputs["vendor"], target / "vendor"),
            models=packs.publish(outputs["packs"], target / "models"),
        )
        if index != former:
            files.write(target / "index.json", msgspec.json.format(msgspec.json.encode(index)))
            # A server that is still running serves the former build until it is started anew.
            sweep(target, keep=[index] if former is None else [index, former])
    return index


def read_index(target: Path) -> Index | None:
    """Return the index of the build in ``target``, None where there is none that can be read."""
    try:
        return msgspec.json.decode((target / "index.json").read_bytes(), type=Index)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


@contextmanager
def alone(target: Path) -> Iterator[None]:
    """Hold the build's lock: a second build waits, and then finds everything done."""
    target.mkdir(parents=True, exist_ok=True)
    with (target / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def sweep(target: Path, keep: Sequence[Index]) -> None:
    """Remove what no index in ``keep`` names."""
    for name, hashes in (
        ("runtime", {index.runtime.hash for index in keep}),
        ("vendor", {index.vendor.hash for index in keep}),
    ):
        for folder in (target / name).iterdir():
            if folder.name not in hashes:
                shutil.rmtree(folder)
    manifests, parts = target / "models" / "manifests", target / "models" / "parts"
    digests = {model.digest for index in keep for model in index.models}
    named: set[str] = set()
    for path in manifests.iterdir():
        if path.stem in digests:
            manifest = decode_manifest(path.read_bytes(), digest=path.stem)
            named |= {part.sha256 for file in manifest.files for part in file.parts}
        else:
            path.unlink()
    for path in parts.iterdir():
        if path.stem not in named:
            path.unlink()
