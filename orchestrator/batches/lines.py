"""The lines of a batch's input file by position, through the index that its check left."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import msgspec

from orchestrator.batches.validate import RECORD
from orchestrator.errors import StorageError


class Line(msgspec.Struct, frozen=True):
    """``number`` is the line's in the file, from 1; ``body`` is JSON, byte for byte as it came."""

    number: int
    custom_id: str
    body: bytes


class LineLost(StorageError):
    """One line is not what was checked; the others may be. ``number`` is the line's in the file."""

    def __init__(self, number: int) -> None:
        super().__init__(
            f"Line {number} of the batch's input is not what it was when it was checked: the stored"
            " copy was damaged on our side. Send it again."
        )
        self.number = number


class _Fields(msgspec.Struct):
    # Of a key that is there twice the last counts, as for the check; the others may be anything.
    custom_id: msgspec.Raw
    body: msgspec.Raw


_decode: Final = msgspec.json.Decoder(_Fields).decode
_decode_text: Final = msgspec.json.Decoder(str).decode


class Lines:
    """A sequence read from disk, two short reads a line; it holds two files open until `close`.

    Reads from several threads at once are fine. Raises `StorageError` for files that cannot be
    read, or that are not those that were checked together, and `LineLost` for a single line.
    """

    def __init__(self, path: Path, index: Path) -> None:
        # Read, not mapped: a mapped file that becomes shorter ends the process.
        try:
            self._input = open(path, "rb", buffering=0)  # noqa: SIM115 (closed by `close`)
        except OSError as error:
            raise _unreadable("The input file", error) from error
        try:
            self._index = open(index, "rb", buffering=0)  # noqa: SIM115 (closed by `close`)
        except OSError as error:
            self._input.close()
            raise _unreadable("The index of the input file", error) from error
        try:
            self._length = self._measure()
        except BaseException:
            self.close()
            raise

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, at: int) -> Line:
        """Return the line at a position, from 0, blank lines not counted."""
        if not 0 <= at < self._length:
            raise IndexError(f"position {at} of {self._length} lines")
        try:
            offset, length, number = self._record(at)
            line = os.pread(self._input.fileno(), length, offset)
        except OSError as error:
            raise _unreadable("The input file", error) from error
        try:
            fields = _decode(line)
            custom_id = _decode_text(fields.custom_id)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise LineLost(number) from error
        return Line(number, custom_id, bytes(fields.body))

    def __iter__(self) -> Iterator[Line]:
        return (self[at] for at in range(self._length))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close both files; again is harmless."""
        self._input.close()
        self._index.close()

    def _measure(self) -> int:
        """Return how many lines there are, if the two files can belong together."""
        size_bytes = os.fstat(self._index.fileno()).st_size
        count, odd_bytes = divmod(size_bytes, RECORD.size)
        if odd_bytes or not count:
            raise _changed()
        offset, length, _ = self._record(count - 1)
        if offset + length > os.fstat(self._input.fileno()).st_size:
            raise _changed()
        return count

    def _record(self, at: int) -> tuple[int, int, int]:
        record = os.pread(self._index.fileno(), RECORD.size, at * RECORD.size)
        if len(record) < RECORD.size:
            raise _changed()
        offset, length, number = RECORD.unpack(record)
        return offset, length, number


def _unreadable(what: str, error: OSError) -> StorageError:
    return StorageError(f"{what} of the batch cannot be read: {error.strerror}")


def _changed() -> StorageError:
    return StorageError(
        "The input file of the batch and its index do not belong together: check the file again"
    )
