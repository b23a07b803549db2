"""Watches requests under way: for bodies that do not come and for clients that leave.

One sweep looks at all of them every `LOOK_EVERY_S`, while there are any: a timer each, or a task
each to listen for the client's leaving, would cost as much as a tenth of a fast answer.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from starlette.types import Receive

LOOK_EVERY_S: Final = 0.1


class Watch:
    """One request's. Cancels its task, once, and says why: `timed_out` or `client_gone`.

    reading --(too long)--> cancelled; reading --(body complete)--> answering
    answering --(a sweep)--> listening --(client leaves)--> cancelled
    """

    def __init__(self, task: asyncio.Task[Any], receive: Receive, started_s: float) -> None:
        self.task = task
        self.receive = receive
        self.started_s = started_s
        self.reading = True
        self.listener: asyncio.Task[None] | None = None
        self.timed_out = False
        self.client_gone = False

    def look(self, loop: asyncio.AbstractEventLoop, late_s: float) -> None:
        """Start to listen, or give up on a body that was to be there by ``late_s`` (loop time)."""
        if self.reading:
            if self.started_s < late_s and not self.timed_out:
                self.timed_out = True
                self.task.cancel()
        elif self.listener is None:
            self.listener = loop.create_task(self._listen())

    async def _listen(self) -> None:
        # The body is complete: all that can still come is word that the client has gone.
        while (await self.receive())["type"] != "http.disconnect":
            pass
        self.client_gone = True
        self.task.cancel()


class Watches:
    """All requests under way. Lives on the event loop that first uses it."""

    def __init__(self, *, body_timeout_s: float) -> None:
        self._body_timeout_s = body_timeout_s
        self._look_every_s = min(LOOK_EVERY_S, body_timeout_s)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._open: set[Watch] = set()
        self._sweeping = False

    def start(self, receive: Receive) -> Watch:
        """Watch the current task, which is about to read its request's body."""
        loop = self._loop
        if loop is None:
            loop = self._loop = asyncio.get_running_loop()
        task = asyncio.current_task(loop)
        assert task is not None, "requests are answered in tasks"  # noqa: S101
        watch = Watch(task, receive, loop.time())
        self._open.add(watch)
        if not self._sweeping:
            self._sweeping = True
            loop.call_later(self._look_every_s, self._sweep, loop)
        return watch

    def resume(self, watch: Watch) -> None:
        """Watch on while an answer flows: its body is complete, its client may leave."""
        watch.reading = False
        self._open.add(watch)
        if not self._sweeping and self._loop is not None:
            self._sweeping = True
            self._loop.call_later(self._look_every_s, self._sweep, self._loop)

    def stop(self, watch: Watch) -> None:
        """Let go of a request, whatever became of it."""
        self._open.discard(watch)
        if watch.listener is not None:
            watch.listener.cancel()
            watch.listener = None

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        for watch in self._open:
            # A request younger than a sweep is most likely answered before the next one.
            if now - watch.started_s >= self._look_every_s:
                watch.look(loop, now - self._body_timeout_s)
        self._sweeping = bool(self._open)
        if self._sweeping:
            loop.call_later(self._look_every_s, self._sweep, loop)
