"""Waiting in real time, on the event loop."""

from __future__ import annotations

import asyncio

import pytest

from browser_node.runtimes.clock import LoopClock


@pytest.mark.parametrize("turns", range(6))
@pytest.mark.parametrize("seconds", [None, 60.0])
async def test_a_wait_that_is_cancelled_as_its_event_comes_ends_cancelled(
    seconds: float | None, turns: int
) -> None:
    event = asyncio.Event()
    waiting = asyncio.create_task(LoopClock().wait(event, seconds))
    await asyncio.sleep(0)
    await asyncio.sleep(0)

    event.set()
    for _ in range(turns):
        await asyncio.sleep(0)
    was_too_late = not waiting.cancel()
    await asyncio.wait({waiting})

    assert waiting.cancelled() != was_too_late


async def test_a_wait_ends_with_its_event_or_its_time() -> None:
    event = asyncio.Event()
    await LoopClock().wait(event, 0.0)
    assert not event.is_set()

    event.set()
    await LoopClock().wait(event, None)
