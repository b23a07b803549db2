"""Waiting for processes that need not be our children."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def end_of(pid: int) -> asyncio.Task[None]:
    """Return a task that ends when the process, which need not be our child, is gone."""
    descriptor = os.pidfd_open(pid)

    async def wait() -> None:
        gone = asyncio.Event()
        asyncio.get_running_loop().add_reader(descriptor, gone.set)
        try:
            await gone.wait()
        finally:
            asyncio.get_running_loop().remove_reader(descriptor)
            os.close(descriptor)

    return asyncio.create_task(wait())


def is_running(pid: object) -> bool:
    """Return whether there is a process with this id."""
    return Path(f"/proc/{pid}").exists()
