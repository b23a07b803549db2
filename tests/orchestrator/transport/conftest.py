"""Sockets are tested on the event loop that serves them: closing differs in the other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import pytest
import uvloop


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Return the loop of all tests in this folder."""
    return {"uvloop": uvloop.new_event_loop}
