"""Requests whose bodies are still on their way, and what becomes of them when the server stops.

Rule: those on their way when it begins to stop may arrive until its time is over; then whoever is
not whole is cancelled and told so, as is all that comes later. A cancellation after that means the
same to whomever it hits.
"""

from __future__ import annotations

import asyncio
from typing import Final

from starlette.types import Message, Receive

from orchestrator.api.watch import Watch
from orchestrator.errors import BodyCutOff, ShuttingDown

_RETRY_AFTER_S: Final = 5.0


class Arrivals:
    """All bodies that are not whole. ``over``: none is read any more."""

    def __init__(self) -> None:
        self._coming: set[Watch] = set()
        self.over = False

    def begin(self, watch: Watch) -> None:
        """Take note of a body that is about to be read; raises `BodyCutOff` when it is too late."""
        if self.over:
            raise _cut_off()
        self._coming.add(watch)

    def end(self, watch: Watch) -> None:
        """Let go of a body that is whole, or that nobody reads any more."""
        self._coming.discard(watch)

    def follow(self, watch: Watch) -> Receive:
        """Begin as `begin` does; returns where to read the body from, which tells its end."""
        self.begin(watch)

        async def receive() -> Message:
            message = await watch.receive()
            if not message.get("more_body"):
                self.end(watch)
            return message

        return receive

    def why(self, watch: Watch) -> ShuttingDown:
        """Return what a request is told that was cancelled once it was over."""
        if watch in self._coming:
            return _cut_off()
        return ShuttingDown(
            "The server shut down before the answer was ready: send the request again in a few"
            " seconds.",
            retry_after_s=_RETRY_AFTER_S,
        )

    async def stop(self, within_s: float) -> None:
        """Wait until those on their way now are answered, then cancel whoever is not whole."""
        if self._coming:
            await asyncio.wait({watch.task for watch in self._coming}, timeout=within_s)
        self.over = True
        for watch in self._coming:
            watch.task.cancel()


def _cut_off() -> BodyCutOff:
    return BodyCutOff(
        "The server is shutting down and did not wait for the rest of this request: send it again"
        " in a few seconds.",
        retry_after_s=_RETRY_AFTER_S,
    )
