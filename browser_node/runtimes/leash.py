"""What ties a process to its parent on Linux; elsewhere both functions change nothing."""

from __future__ import annotations

import contextlib
import ctypes
import signal
import sys
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_DUMPABLE: Final = 4


def end_with_parent(number: signal.Signals) -> None:
    """Have the kernel send ``number`` when the parent dies, `kill -9` included."""
    _prctl(_PR_SET_PDEATHSIG, number)


def never_dump_core() -> None:
    """Keep this process's memory out of core files, also of those that are piped to a program."""
    _prctl(_PR_SET_DUMPABLE, 0)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(option, value, 0, 0, 0)
