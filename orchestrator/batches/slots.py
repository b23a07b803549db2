"""So many at once; of those that wait, one of each project in turn."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator


class Slots:
    """A semaphore that no project can keep from the others, however many wait for it."""

    def __init__(self, count: int) -> None:
        self._free = count
        # By project, in the order of their turns; none of these is empty.
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}

    @contextlib.asynccontextmanager
    async def held(self, project_id: str) -> AsyncIterator[None]:
        """Hold one of them for a project, once it has its turn."""
        await self._take(project_id)
        try:
            yield
        finally:
            self._give()

    async def _take(self, project_id: str) -> None:
        if self._free:
            self._free -= 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(project_id, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            # It came at the same moment: the next one's.
            if not turn.cancelled():
                self._give()
            raise

    def _give(self) -> None:
        while self._waiting:
            project_id, turns = next(iter(self._waiting.items()))
            del self._waiting[project_id]
            turn = turns.popleft()
            if turns:
                self._waiting[project_id] = turns
            # Whoever waited for it may have gone.
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1
