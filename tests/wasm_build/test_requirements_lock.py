"""requirements.lock has what pyproject.toml asks for; `python scripts/lock.py` writes it."""

from __future__ import annotations

import re
import tomllib
from itertools import chain

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.wasm_build.conftest import REPOSITORY


def test_every_requirement_is_locked_to_a_version_it_allows() -> None:
    lock = (REPOSITORY / "requirements.lock").read_text()
    locked = dict(re.findall(r"^([a-z0-9-]+)==(\S+) \\$", lock, re.MULTILINE))
    pyproject = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    project = pyproject["project"]
    wanted = chain(
        project["dependencies"],
        *project["optional-dependencies"].values(),
        pyproject["build-system"]["requires"],
    )

    for requirement in map(Requirement, wanted):
        found = locked.get(canonicalize_name(requirement.name))
        assert found is not None, f"{requirement} is not locked: run python scripts/lock.py"
        assert requirement.specifier.contains(found), f"{requirement} is locked to {found}"


def test_every_locked_version_has_a_hash() -> None:
    lock = (REPOSITORY / "requirements.lock").read_text()
    entries = re.split(r"^(?=[a-z0-9-]+==)", lock, flags=re.MULTILINE)[1:]

    assert len(entries) > 50
    assert all("--hash=sha256:" in entry for entry in entries)
