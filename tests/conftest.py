"""Settings shared by all tests."""

from __future__ import annotations

import functools
import gc
import os
from collections.abc import Iterator
from types import SimpleNamespace

import brotli
import pytest
from hypothesis import settings

from orchestrator.transport import assets

# In CI every run tries the same examples: a red run is then about the change it tests. New examples
# are found where people work.
settings.register_profile("here", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "here")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # Two processes share the tests: neither is to be idle while the other ends with a long one.
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def pytest_collection_finish() -> None:
    # Thousands of tests and what they import stay until the end: no collection needs to look again.
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _compressed_once() -> Iterator[None]:
    """Remember compressed pages: a server compresses all of them, and a hundred are started."""
    remembering = SimpleNamespace(compress=functools.lru_cache(maxsize=256)(brotli.compress))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assets, "brotli", remembering)
        yield
