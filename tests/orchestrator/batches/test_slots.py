"""Turns of projects at what only a few may do at once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from orchestrator.batches.slots import Slots


class Work:
    """Holds slots for projects; ``begun`` is who got one, in order. Each lasts until `next`."""

    def __init__(self, count: int) -> None:
        self.slots = Slots(count)
        self.begun: list[str] = []
        self._ends: list[asyncio.Event] = []

    def start(self, projects: Sequence[str]) -> list[asyncio.Task[None]]:
        return [asyncio.create_task(self._hold(project)) for project in projects]

    async def _hold(self, project: str) -> None:
        async with self.slots.held(project):
            self.begun.append(project)
            over = asyncio.Event()
            self._ends.append(over)
            await over.wait()

    async def settled(self) -> list[str]:
        for _ in range(5):
            await asyncio.sleep(0)
        return self.begun

    async def next(self) -> list[str]:
        """End what has held the longest; returns who has begun by then."""
        self._ends.pop(0).set()
        return await self.settled()


async def test_no_more_than_so_many_are_held_at_once() -> None:
    work = Work(2)
    tasks = work.start("aaa")

    assert await work.settled() == ["a", "a"]
    assert await work.next() == ["a", "a", "a"]
    await work.next()
    await work.next()
    await asyncio.gather(*tasks)
    late = work.start("bb")
    assert (await work.settled())[3:] == ["b", "b"]
    for task in late:
        task.cancel()


async def test_projects_take_turns_however_many_wait() -> None:
    work = Work(1)
    tasks = work.start("aaaaaa")
    await work.settled()
    tasks += work.start("bbc")
    for _ in range(8):
        await work.next()
    await work.next()
    await asyncio.gather(*tasks)

    assert "".join(work.begun) == "aabcabaaa"


async def test_who_stops_waiting_is_passed_over() -> None:
    work = Work(1)
    [first, gone, last] = work.start("aab")
    await work.settled()
    gone.cancel()
    assert await work.next() == ["a", "b"]
    await work.next()
    await asyncio.gather(first, last)


async def test_a_turn_that_comes_as_its_project_leaves_is_the_next_ones() -> None:
    slots = Slots(1)

    async def hold() -> None:
        async with slots.held("a"):
            raise AssertionError("it has left")

    async with slots.held("a"):
        gone = asyncio.create_task(hold())
        await asyncio.sleep(0)
    # The turn was given just now; whoever waited for it has not run yet.
    gone.cancel()
    await asyncio.wait([gone])

    assert gone.cancelled()
    async with asyncio.timeout(10), slots.held("b"):
        pass
