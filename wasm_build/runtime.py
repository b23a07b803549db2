"""Steps: Pyodide, the wheels it installs and ONNX Runtime Web, as the browser downloads them."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Final

from wasm_build import bundle, node
from wasm_build.compress import Compressor
from wasm_build.work import Work, run_command

_INSIDE: Final = Path("wasm_build/inside")
_PYODIDE: Final = ("pyodide.mjs", "pyodide.asm.mjs", "pyodide.asm.wasm")
# The plain build: the ones with WebGPU or JSPI are larger, and no faster on a CPU.
_ORT: Final = (
    "ort.wasm.min.mjs",
    "ort-wasm-simd-threaded.mjs",
    "ort-wasm-simd-threaded.wasm",
)
_ADVICE: Final = (
    "Run `make clean` and `make setup`; if it fails again, this is a bug in wasm_build."
)


def _package(work: Work, name: str) -> Path:
    return work.inputs["npm"] / "node_modules" / name


def compile_stdlib(work: Work) -> None:
    """Make python_stdlib.zip of .pyc files out of the published one."""
    pyodide = _package(work, "pyodide")
    node.find().run_in_pyodide(
        work.repository / _INSIDE / "compile_stdlib.py",
        pyodide=pyodide,
        mounts={"/in": pyodide, "/out": work.output},
        advice=_ADVICE,
    )


def pack_wheels(work: Work) -> None:
    """Build the node's wheel, add those of PyPI, compile them all and write pyodide-lock.json."""
    project = work.repository / "wasm_build" / "node_wheel"
    run_command(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "-d", work.output],
        cwd=project,
        advice=f"Read {project / 'pyproject.toml'}; hatchling must be installed (the build extra).",
    )
    for wheel in (work.inputs["wheels"] / "browser").glob("*.whl"):
        shutil.copyfile(wheel, work.output / wheel.name)
    node.find().run_in_pyodide(
        work.repository / _INSIDE / "pack_wheels.py",
        pyodide=_package(work, "pyodide"),
        mounts={
            "/pyodide": _package(work, "pyodide"),
            "/tools": work.inputs["wheels"] / "tools",
            "/wheels": work.output,
        },
        path=["/tools"],
        advice=_ADVICE,
    )


def collect(work: Work) -> None:
    """Put the runtime's files and their brotli forms in one folder."""
    paths = [_package(work, "pyodide") / name for name in _PYODIDE]
    paths += [_package(work, "onnxruntime-web") / "dist" / name for name in _ORT]
    paths += [work.inputs["stdlib"] / "python_stdlib.zip"]
    paths += sorted(work.inputs["node-wheel"].iterdir())
    bundle.collect(
        {path.name: path for path in paths},
        work.output,
        Compressor(work.cache / "brotli"),
        progress=work.progress,
    )
