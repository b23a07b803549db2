"""Steps that belong together, and are done together even if whoever asked for them leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

_T = TypeVar("_T")


async def unbroken(work: Coroutine[Any, Any, _T]) -> _T:
    """Do ``work`` to its end, and return what it does.

    Whoever is cancelled meanwhile is so once it is done: what a first step has written to the
    database is followed by the second.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if not task.done():
            await asyncio.wait([task])
        if not task.cancelled() and (error := task.exception()) is not None:
            # Nobody is there to be told.
            raise asyncio.CancelledError from error
        raise
