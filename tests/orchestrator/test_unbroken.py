"""Steps that are done together, whoever leaves."""

from __future__ import annotations

import asyncio

import pytest

from orchestrator.errors import NotFound
from orchestrator.unbroken import unbroken


async def test_what_it_did_is_returned_and_what_went_wrong_is_raised() -> None:
    async def works(wrong: bool) -> int:
        await asyncio.sleep(0)
        if wrong:
            raise NotFound("No.")
        return 7

    assert await unbroken(works(False)) == 7
    with pytest.raises(NotFound):
        await unbroken(works(True))


@pytest.mark.parametrize("wrong", [False, True])
async def test_who_is_cancelled_is_so_once_all_is_done(wrong: bool) -> None:
    begun, go = asyncio.Event(), asyncio.Event()
    done: list[str] = []

    async def works() -> None:
        begun.set()
        await go.wait()
        done.append("first")
        await asyncio.sleep(0)
        done.append("second")
        if wrong:
            raise NotFound("No.")

    waiting = asyncio.create_task(unbroken(works()))
    await begun.wait()
    waiting.cancel()
    await asyncio.sleep(0)
    assert not waiting.done()
    go.set()

    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert done == ["first", "second"]
