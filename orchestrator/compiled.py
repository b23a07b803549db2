"""Puts compiled modules in the place of their sources, if they were made of these very ones.

A module beside which a `.pxd` file stands can be compiled (`scripts/compile.py`): by Cython, which
takes the types of its attributes and calls from that file. It does the same as its source, in a
third of the time. Where there is no compiler, or a source has changed since, Python runs the
sources; so it does where ``ZEROGPU_COMPILED=0`` says so.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Final

REPOSITORY: Final = Path(__file__).resolve().parent.parent
FOLDER: Final = REPOSITORY / "build" / "compiled"
SWITCH: Final = "ZEROGPU_COMPILED"


def sources() -> list[Path]:
    """Return the modules that can be compiled, in order."""
    package = REPOSITORY / "orchestrator"
    typed = (path.with_suffix(".py") for path in package.rglob("*.pxd"))
    # Editors leave files of their own beside those that they have open.
    found = (path for path in (*typed, *package.rglob("*.pyx")) if path.name[0] != ".")
    return sorted(path for path in found if path.exists())


def made_of() -> str:
    """Return a name for this interpreter, the sources and how they are compiled: 16 hex digits."""
    digest = hashlib.sha256((sysconfig.get_config_var("EXT_SUFFIX") or "").encode())
    for how in ("scripts/compile.py", "requirements.lock"):
        digest.update((REPOSITORY / how).read_bytes())
    for source in sources():
        types = source.with_suffix(".pxd")
        for path in (source, types) if types.exists() else (source,):
            text = path.read_bytes()
            name = str(path.relative_to(REPOSITORY))
            digest.update(b"%b\0%d\0" % (name.encode(), len(text)))
            digest.update(text)
    return digest.hexdigest()[:16]


@cache
def folder() -> Path | None:
    """Return where the compiled form of these sources is; None where they are to be run."""
    if os.environ.get(SWITCH) == "0" or not FOLDER.is_dir():
        return None
    try:
        found = FOLDER / made_of()
    except OSError:
        # A source that cannot be read is not what anything was made of.
        return None
    return found if found.is_dir() else None


@contextlib.contextmanager
def sources_in_children() -> Iterator[None]:
    """Have processes that are started meanwhile run the sources."""
    said = os.environ.get(SWITCH)
    os.environ[SWITCH] = "0"
    try:
        yield
    finally:
        if said is None:
            del os.environ[SWITCH]
        else:
            os.environ[SWITCH] = said


class _Finder(MetaPathFinder):
    """Knows where the compiled modules are, by their names."""

    def __init__(self, folder: Path) -> None:
        suffix = sysconfig.get_config_var("EXT_SUFFIX")
        self._files = {
            str(file.relative_to(folder)).removesuffix(suffix).replace(os.sep, "."): file
            for file in folder.rglob(f"*{suffix}")
        }

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        file = self._files.get(fullname)
        return None if file is None else spec_from_file_location(fullname, file)


def install() -> None:
    """Have compiled modules imported in the place of their sources from now on."""
    found = folder()
    if found is not None:
        sys.meta_path.insert(0, _Finder(found))
