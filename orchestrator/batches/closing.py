"""Ends a batch: writes its two files, then all that the database says of the end in one go.

It can be begun again at any point, as the files' names and contents follow from the batch alone.
A line without an outcome gets its own in the error file: it was cancelled, or too late.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from hashlib import blake2b
from typing import Final

import orjson
import structlog

from orchestrator.batches.lines import LineLost, Lines
from orchestrator.batches.outcomes import cancelled_line, expired_line
from orchestrator.clock import Clock
from orchestrator.errors import StorageError
from orchestrator.storage.batches import Batches, BatchRow, Status
from orchestrator.storage.files import PREFIX, File, object_name
from orchestrator.storage.objects import Objects

PURPOSE: Final = "batch_output"
_CHUNK_LINES: Final = 500

log = structlog.get_logger("batches")

_LineOf = Callable[[str, int, str], bytes]
# By the status that a batch is in while its files are written: the one it ends in, and what is told
# of its lines that have no outcome. There are none of those in `finalizing`.
_ENDS: Final[dict[Status, tuple[Status, _LineOf]]] = {
    "finalizing": ("completed", expired_line),
    "in_progress": ("expired", expired_line),
    "cancelling": ("cancelled", cancelled_line),
}


class InputGone(Exception):
    """The batch's input cannot be read any more, so it is not known which lines there are left."""


class Closing:
    """Ends batches. ``retention_s`` is how long their files are kept at most."""

    def __init__(
        self,
        *,
        batches: Batches,
        objects: Objects,
        open_lines: Callable[[str], Lines],
        clock: Clock,
        retention_s: float,
    ) -> None:
        self._batches = batches
        self._objects = objects
        self._open_lines = open_lines
        self._wall = clock.wall
        self._retention_s = retention_s

    async def close(self, batch_id: str) -> BatchRow:
        """End a batch of which nothing is under way; returns it as it ended.

        Raises `StorageError` when the files cannot be written.
        """
        while True:
            row = await asyncio.to_thread(self._prepare, batch_id)
            if row.status not in _ENDS:
                return row
            try:
                ended = await self._write_and_end(row)
            except InputGone:
                log.error("a batch lost its input", batch=batch_id)
                ended = await self._fail(row)
            # None: it was cancelled meanwhile, which changes what its files say.
            if ended is not None:
                await asyncio.to_thread(self._batches.drop_lines, batch_id)
                return ended

    def _prepare(self, batch_id: str) -> BatchRow:
        """Return the batch, ``finalizing`` from now on if all its lines have an outcome."""
        row = self._batches.find(batch_id)
        if row is None:
            raise StorageError(f"Batch {batch_id} is not in the database any more.")
        if row.status != "in_progress" or sum(self._batches.counts(batch_id)) < row.total:
            return row
        moved = self._batches.move(
            batch_id, before=["in_progress"], to="finalizing", now=self._wall()
        )
        # Not moved: it was cancelled just now.
        return moved or self._prepare(batch_id)

    async def _write_and_end(self, row: BatchRow) -> BatchRow | None:
        to, line_of = _ENDS[row.status]
        done = await asyncio.to_thread(self._batches.done, row.id)
        left = row.total - len(done.at)
        output = await self._write(row, False, self._recorded(row, ok=True), done.completed > 0)
        errors = self._errors(row, set(done.at), line_of)
        error = await self._write(row, True, errors, done.failed + left > 0)
        return await asyncio.to_thread(
            self._batches.end,
            row.id,
            before=row.status,
            to=to,
            now=self._wall(),
            completed=done.completed,
            failed=done.failed + left,
            output=output,
            error=error,
        )

    async def _fail(self, row: BatchRow) -> BatchRow | None:
        """End a batch whose input is gone with what it has."""
        done = await asyncio.to_thread(self._batches.done, row.id)
        output = await self._write(row, False, self._recorded(row, ok=True), done.completed > 0)
        error = await self._write(row, True, self._recorded(row, ok=False), done.failed > 0)
        return await asyncio.to_thread(
            self._batches.end,
            row.id,
            before=row.status,
            to="failed",
            now=self._wall(),
            completed=done.completed,
            failed=done.failed,
            output=output,
            error=error,
            errors=problems(
                [
                    {
                        "code": "internal_error",
                        "message": "The stored copy of the batch's input was lost on our side:"
                        f" {len(done.at)} of {row.total} lines have an outcome. Send the others"
                        " again.",
                        "line": None,
                        "param": None,
                    }
                ]
            ),
        )

    async def _write(
        self, row: BatchRow, is_error: bool, pieces: AsyncIterator[bytes], needed: bool
    ) -> File | None:
        """Write one of the files, if there are lines for it."""
        if not needed:
            return None
        kind = "errors" if is_error else "output"
        file_id = result_file_id(row.id, kind)
        size_bytes = await self._objects.put(object_name(file_id), pieces)
        now = self._wall()
        kept_s = self._retention_s
        if row.output_expires_s is not None:
            kept_s = min(kept_s, row.output_expires_s)
        return File(
            id=file_id,
            project_id=row.project_id,
            filename=f"{row.id}_{kind}.jsonl",
            purpose=PURPOSE,
            bytes=size_bytes,
            created_at=now,
            expires_at=now + kept_s,
            is_error=is_error,
        )

    async def _recorded(self, row: BatchRow, *, ok: bool) -> AsyncIterator[bytes]:
        """Yield the kept lines of one kind, in the order of the input."""
        after = -1
        while rows := await asyncio.to_thread(self._batches.payloads, row.id, ok=ok, after=after):
            after = rows[-1].at
            yield b"".join(b"%b\n" % one.payload for one in rows)

    async def _errors(
        self, row: BatchRow, done: set[int], line_of: _LineOf
    ) -> AsyncIterator[bytes]:
        async for piece in self._recorded(row, ok=False):
            yield piece
        for start in range(0, row.total, _CHUNK_LINES):
            some = range(start, min(start + _CHUNK_LINES, row.total))
            if left := [at for at in some if at not in done]:
                yield await asyncio.to_thread(self._unanswered, row.id, left, line_of)

    def _unanswered(self, batch_id: str, left: list[int], line_of: _LineOf) -> bytes:
        """Return the lines of the error file for those that have no outcome."""
        try:
            with self._open_lines(batch_id) as lines:
                return b"".join(line_of(batch_id, at, _id_of(lines, at)) + b"\n" for at in left)
        except (StorageError, IndexError) as error:
            raise InputGone from error


def _id_of(lines: Lines, at: int) -> str:
    """Return a line's ``custom_id``, empty where its stored copy was damaged."""
    try:
        return lines[at].custom_id
    except LineLost:
        return ""


def result_file_id(batch_id: str, kind: str) -> str:
    """Return the id of a batch's file, which is the same whenever it is made."""
    return PREFIX + blake2b(f"{batch_id}:{kind}".encode(), digest_size=12).hexdigest()


def problems(entries: list[dict[str, object]]) -> str:
    """Return the JSON of a batch's ``errors``."""
    return orjson.dumps({"object": "list", "data": entries}).decode()
