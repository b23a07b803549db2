"""Each batch's own copy of its input, with the index of its lines: what it runs from.

Where files are local the copy is a second name of the same bytes, so it costs nothing.
"""

from __future__ import annotations

import shutil
from collections import OrderedDict
from pathlib import Path
from typing import Final

from orchestrator.batches.lines import Lines
from orchestrator.batches.slots import Slots
from orchestrator.batches.validation import Rules, Validated, validate
from orchestrator.settings import Settings
from orchestrator.storage.batches import BatchRow
from orchestrator.storage.files import object_name
from orchestrator.storage.objects import Objects

_CHECKS_AT_ONCE: Final = 2
# Two descriptors each, of a number that all connections share.
_OPEN_MAX: Final = 128


class Spool:
    """The folders ``batches/<batch id>`` of the data directory."""

    def __init__(self, *, settings: Settings, objects: Objects) -> None:
        self._settings = settings
        self._root = settings.data_dir / "batches"
        self._objects = objects
        self._checks = Slots(_CHECKS_AT_ONCE)
        self._opened: OrderedDict[str, Lines] = OrderedDict()

    async def fetch(self, batch_id: str, file_id: str) -> None:
        """Make the copy; raises `storage.objects.NoSuchObject` and `errors.StorageError`."""
        self._input(batch_id).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        await self._objects.fetch(object_name(file_id), self._input(batch_id))

    async def check(self, row: BatchRow) -> Validated:
        """Check the copy and make its index; raises `errors.InternalError`."""
        settings = self._settings
        rules = Rules(
            endpoint=row.endpoint,
            allowed=settings.batch_endpoints,
            max_bytes=settings.batch_input_max_bytes,
            max_lines=settings.batch_lines_max,
            line_max_bytes=settings.batch_line_max_bytes,
        )
        async with self._checks.held(row.project_id):
            return await validate(self._input(row.id), self._index(row.id), rules=rules)

    def holds(self, batch_id: str) -> bool:
        return self._input(batch_id).exists()

    def open(self, batch_id: str) -> Lines:
        """Return the lines of a checked copy, to be closed; raises `errors.StorageError`."""
        return Lines(self._input(batch_id), self._index(batch_id))

    def lines(self, batch_id: str) -> Lines:
        """Return the lines of a checked copy, for now: those of few batches are kept open.

        Raises `errors.StorageError`. Called on the event loop only.
        """
        lines = self._opened.get(batch_id) or self.open(batch_id)
        self._opened[batch_id] = lines
        self._opened.move_to_end(batch_id)
        if len(self._opened) > _OPEN_MAX:
            self._opened.popitem(last=False)[1].close()
        return lines

    def release(self, batch_id: str) -> None:
        """Close what `lines` opened."""
        if (lines := self._opened.pop(batch_id, None)) is not None:
            lines.close()

    def release_all(self) -> None:
        for batch_id in list(self._opened):
            self.release(batch_id)

    def forget(self, batch_id: str) -> None:
        """Remove the copy; it is fine if there is none. Blocks."""
        shutil.rmtree(self._root / batch_id, ignore_errors=True)

    def held(self) -> set[str]:
        """Return the batches that have a folder. Blocks."""
        return {path.name for path in self._root.iterdir()} if self._root.is_dir() else set()

    def _input(self, batch_id: str) -> Path:
        return self._root / batch_id / "input.jsonl"

    def _index(self, batch_id: str) -> Path:
        return self._root / batch_id / "index"
