"""The lock of a data directory: one server each, and a message that names the one that has it."""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import DataDirLocked


@dataclass
class DataDirLock:
    """Held until `release`, or until the process ends in whatever way: the kernel lets go of it."""

    path: Path
    descriptor: int | None

    def release(self) -> None:
        """Let go of the directory; again is harmless."""
        # The file stays: removing it would let two processes lock two files of the same name.
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None


def lock_data_dir(data_dir: Path) -> DataDirLock:
    """Lock ``data_dir`` or raise `DataDirLocked` with the holder's pid."""
    path = data_dir / "lock"
    # Not inherited by child processes, which would keep the lock beyond our end.
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
        os.close(descriptor)
        raise DataDirLocked(
            f"{data_dir} is in use by another zerogpu server (process {holder}): stop that one, or"
            " choose another directory with --data-dir"
        ) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return DataDirLock(path, descriptor)
