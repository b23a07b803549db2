"""Tests of what is compiled: where nothing is, they say so; in CI that is a failure."""

from __future__ import annotations

import os

import pytest

from orchestrator import compiled

_MISSING = compiled.folder() is None and not os.environ.get("CI")

needs_compiled = pytest.mark.skipif(
    _MISSING,
    reason="nothing is compiled: see scripts/compile.py; or ZEROGPU_COMPILED=0 is set",
)
