"""Runs a uvicorn server for as long as a test needs it, and not a tenth of a second longer."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Final

import uvicorn

# uvicorn tells nobody when a connection is gone.
_LOOKS_AGAIN_S: Final = 0.001


@contextlib.asynccontextmanager
async def running(
    server: uvicorn.Server, listener: socket.socket
) -> AsyncIterator[asyncio.Task[None]]:
    """Serve on ``listener`` until the block ends; yields the task that serves.

    uvicorn looks ten times a second whether it shall stop, and sleeps as long again before it looks
    whether its connections are gone. Hundreds of servers are stopped in a test run: here, they take
    the same steps when there is something to do. A test about stopping sets ``should_exit``.
    """
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started:
        await asyncio.sleep(0)
        if serving.done():
            serving.result()
    try:
        yield serving
    finally:
        if server.should_exit or serving.done():
            server.should_exit = True
            await serving
        else:
            await _stop(server)
            serving.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await serving


async def _stop(server: uvicorn.Server) -> None:
    """Do what `uvicorn.Server.shutdown` does: no new connections, then no connections."""
    state = server.server_state
    for listening in server.servers:
        listening.close()
    for connection in list(state.connections):
        connection.shutdown()
    try:
        async with asyncio.timeout(server.config.timeout_graceful_shutdown):
            while (state.connections or state.tasks) and not server.force_exit:  # noqa: ASYNC110
                await asyncio.sleep(_LOOKS_AGAIN_S)
    except TimeoutError:
        for task in state.tasks:
            task.cancel()
