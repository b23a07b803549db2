"""Real time for the driver, the same natively and in Pyodide's event loop."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress


class LoopClock:
    """The process's monotonic clock and the running event loop."""

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def wait(self, event: asyncio.Event, seconds: float | None) -> None:
        """Return when ``event`` is set or ``seconds`` have passed, whichever is first."""
        # Not `wait_for`: before Python 3.12 it forgets a cancellation that comes with the event,
        # and a loop of ours that was to end goes on.
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await event.wait()
