"""The wire of a connection: what its requests write to, and which way it is held up just now."""

from __future__ import annotations

import asyncio
from typing import Any


class Wire:
    """A transport that drops what is written to it once it is closed.

    uvloop's raises then, and tells of the loss of the connection only afterwards.
    """

    def __init__(self, transport: Any) -> None:
        self.transport = transport
        # We do not read what comes.
        self.read_paused = False
        # For as long as there is no room for it: whoever else would like to read has to wait.
        self.crowded = False
        self.written_bytes = 0
        # What was written waits: more of it than should be kept.
        self.write_paused = False
        self._writable: asyncio.Event | None = None

    def write(self, raw: bytes) -> None:
        if not self.transport.is_closing():
            self.written_bytes += len(raw)
            self.transport.write(raw)

    def close(self) -> None:
        """End the connection once all is sent that was written."""
        self.transport.close()

    def pause_reading(self) -> None:
        if not self.read_paused:
            self.read_paused = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        if self.read_paused and not self.crowded:
            self.read_paused = False
            self.transport.resume_reading()

    def crowd(self) -> None:
        """Read nothing, whoever asks to, until there is room again (`uncrowd`)."""
        self.crowded = True
        self.pause_reading()

    def uncrowd(self) -> None:
        """Let `resume_reading` be heard again."""
        self.crowded = False

    def pause_writing(self) -> None:
        """Have `drain` wait: the transport keeps more than it should."""
        self.write_paused = True
        self._writable = asyncio.Event()

    def resume_writing(self) -> None:
        """Let those that `drain` go on."""
        self.write_paused = False
        if self._writable is not None:
            self._writable.set()
            self._writable = None

    async def drain(self) -> None:
        """Wait until more may be written, or until nobody is there to read it."""
        if self._writable is not None:
            await self._writable.wait()
