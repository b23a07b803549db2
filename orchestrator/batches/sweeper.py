"""Deletes what has outlived its time: files, batches, and what a crash left in the spool."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Set
from typing import Final

import structlog

from orchestrator.batches.spool import Spool
from orchestrator.settings import Settings
from orchestrator.storage.batches import Batches
from orchestrator.storage.files import Files, sweep_files, sweep_orphans
from orchestrator.storage.objects import Objects

_EVERY_S: Final = 300.0
# Looking for objects without a file lists the whole store.
_ORPHANS_EVERY_S: Final = 86_400.0

log = structlog.get_logger("sweeper")


class Sweeper:
    """``creating`` are batches whose row may not be there yet."""

    def __init__(
        self,
        *,
        settings: Settings,
        batches: Batches,
        files: Files,
        objects: Objects,
        spool: Spool,
        creating: Set[str],
        wall: Callable[[], float],
    ) -> None:
        self._retention_s = settings.file_retention_s
        self._batches = batches
        self._files = files
        self._objects = objects
        self._spool = spool
        self._creating = creating
        self._wall = wall
        self._orphans_at = 0.0

    async def run(self) -> None:
        """Sweep now and then, for as long as it is not cancelled."""
        while True:
            try:
                await self.sweep()
            except Exception as error:
                log.error("sweeping failed", error=str(error))
            await asyncio.sleep(_EVERY_S)

    async def sweep(self) -> None:
        now = self._wall()
        gone = await sweep_files(self._files, self._objects, now)
        if now >= self._orphans_at:
            self._orphans_at = now + _ORPHANS_EVERY_S
            gone += await sweep_orphans(self._files, self._objects, now)
        ended = await asyncio.to_thread(self._batches.delete_ended, before=now - self._retention_s)
        spools = await self._sweep_spools()
        if gone or ended or spools:
            log.info("swept", files=gone, batches=ended, spools=spools)

    async def _sweep_spools(self) -> int:
        """Remove the folders of batches that are not under way."""
        names = await asyncio.to_thread(self._spool.held)
        # In this order: what is no longer being created by now, and lives, has its row.
        names -= self._creating
        live = await asyncio.to_thread(self._batches.still_under_way, names)
        for name in names - live:
            await asyncio.to_thread(self._spool.forget, name)
        return len(names - live)
