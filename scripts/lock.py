"""Writes requirements.lock and wasm_build/package-lock.json: versions and hashes, no addresses.

    python scripts/lock.py             adds what is new; what is locked already stays as it is
    python scripts/lock.py --upgrade   takes the newest of everything

Needs the index (pip's own settings hold), npm, and as many of Python 3.11 to 3.14 as can be found:
each resolves the requirements once more, bound to what the older ones have chosen, so that one list
serves all. Hashes are those of the wheels for Linux and macOS.
"""

from __future__ import annotations

import html.parser
import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import unquote, urlsplit

from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

REPOSITORY = Path(__file__).resolve().parent.parent
PYTHONS = ("python3.11", "python3.12", "python3.13", "python3.14")
# hatchling imports it for editable installs, and names it nowhere else.
FOR_EDITABLE_INSTALLS = "editables"
PLATFORMS = re.compile(r"any|manylinux\S+_(x86_64|aarch64)|macosx_\S+_(x86_64|arm64|universal2)")
INTERPRETERS = re.compile(r"py3|py2|cp3|cp3(11|12|13|14)")
HEADER = """\
# Exact versions of all that `make setup` installs, with the hashes of their wheels.
# Written by scripts/lock.py for {pythons}; do not edit.
"""


class Links(html.parser.HTMLParser):
    """The file names and SHA-256 of a package's page in a simple index (PEP 503)."""

    def __init__(self) -> None:
        super().__init__()
        self.sha256: dict[str, str] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        link = urlsplit(dict(attrs).get("href") or "")
        if tag == "a" and link.fragment.startswith("sha256="):
            self.sha256[unquote(link.path.rpartition("/")[2])] = link.fragment[7:]


def requirements() -> list[str]:
    """Return what pyproject.toml asks for: to run, for every extra, and to be installed itself."""
    pyproject = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    project = pyproject["project"]
    extras = project["optional-dependencies"].values()
    return [
        *project["dependencies"],
        *(requirement for extra in extras for requirement in extra),
        *pyproject["build-system"]["requires"],
        FOR_EDITABLE_INSTALLS,
    ]


def resolve(python: str, wanted: list[str], chosen: dict[str, str]) -> dict[str, str]:
    """Return versions by name as this Python's pip chooses them, where ``chosen`` does not say."""
    with tempfile.TemporaryDirectory() as folder:
        names, bounds = Path(folder, "requirements.txt"), Path(folder, "constraints.txt")
        report = Path(folder, "report.json")
        names.write_text("\n".join(wanted))
        bounds.write_text("".join(f"{name}=={version}\n" for name, version in chosen.items()))
        command = [python, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
        command += ["--only-binary=:all:", "--report", str(report)]
        subprocess.run([*command, "-r", str(names), "-c", str(bounds)], check=True)
        installs = json.loads(report.read_text())["install"]
    return {
        canonicalize_name(install["metadata"]["name"]): install["metadata"]["version"]
        for install in installs
    }


def hashes(name: str, version: str) -> list[str]:
    """Return the SHA-256 of the version's wheels, those of platforms and Pythons we name."""
    index = os.environ.get("PIP_INDEX_URL", "https://pypi.org/simple").rstrip("/")
    links = Links()
    with urllib.request.urlopen(f"{index}/{name}/", timeout=60) as page:
        links.feed(page.read().decode())
    found = [sha256 for file, sha256 in links.sha256.items() if is_wanted(file, version)]
    if not found:
        raise SystemExit(f"{name}=={version} has no wheel for the platforms in scripts/lock.py")
    return sorted(found)


def is_wanted(file: str, version: str) -> bool:
    try:
        _, of, _, tags = parse_wheel_filename(file)
    except InvalidWheelFilename:
        return False
    return str(of) == version and any(
        PLATFORMS.fullmatch(tag.platform)
        and (tag.abi == "abi3" or INTERPRETERS.fullmatch(tag.interpreter))
        for tag in tags
    )


def locked() -> dict[str, str]:
    """Return the versions by name that the lock holds now."""
    lines = (REPOSITORY / "requirements.lock").read_text().splitlines()
    pinned = (line.split()[0].partition("==") for line in lines if "==" in line)
    return {name: version for name, _, version in pinned}


def lock_python(*, upgrade: bool) -> None:
    kept = {} if upgrade else locked()
    chosen: dict[str, str] = {}
    used: list[str] = []
    for python in PYTHONS:
        try:
            subprocess.run([python, "-m", "pip", "--version"], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            print(f"{python} is not here: not resolved for it", file=sys.stderr)
            continue
        chosen = resolve(python, requirements(), kept | chosen) | chosen
        used.append(python.removeprefix("python"))
    names = sorted(chosen)
    with ThreadPoolExecutor(8) as pool:
        found = pool.map(hashes, names, (chosen[name] for name in names))
    lines = [HEADER.format(pythons=f"Python {', '.join(used)}")]
    for name, sha256 in zip(names, found, strict=True):
        options = "".join(f" \\\n    --hash=sha256:{value}" for value in sha256)
        lines.append(f"{name}=={chosen[name]}{options}\n")
    (REPOSITORY / "requirements.lock").write_text("".join(lines))


def lock_npm() -> None:
    folder = REPOSITORY / "wasm_build"
    command = ["npm", "install", "--package-lock-only", "--ignore-scripts", "--no-audit"]
    command += ["--no-fund", "--omit-lockfile-registry-resolved"]
    subprocess.run(command, cwd=folder, check=True)
    path = folder / "package-lock.json"
    lock = json.loads(path.read_text())
    for package in lock["packages"].values():
        package.pop("funding", None)  # addresses of donation pages; npm does without
    path.write_text(json.dumps(lock, indent=2) + "\n")


if __name__ == "__main__":
    lock_python(upgrade="--upgrade" in sys.argv[1:])
    lock_npm()
