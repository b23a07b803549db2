"""Request numbers: unique, and in the order of time, so that the log's index grows at one end.

A number is 24 hex digits: milliseconds since the epoch (11 digits, until the year 2527), then 52
random bits. An index over random ids costs the log's writer two and a half times as much.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

_RANDOM_DIGITS: Final = 13
_BLOCK: Final = 128


class Numbers:
    """A source of request numbers; asking the system for each would cost a switch of threads."""

    __slots__ = ("_at", "_ms", "_random", "_time", "_wall")

    def __init__(self, wall: Callable[[], float]) -> None:
        self._wall = wall
        self._random = ""
        self._at = 0
        # The last millisecond and its digits: a busy server has many requests in one.
        self._ms = -1
        self._time = ""

    def next(self) -> str:
        """Return a number that was never returned before."""
        return self.at(self._wall())

    def at(self, ts: float) -> str:
        """Return such a number for what came at ``ts`` (Unix time): the clock was read already."""
        start, end = self._at, self._at + _RANDOM_DIGITS
        if end > len(self._random):
            self._random = os.urandom(_BLOCK * _RANDOM_DIGITS).hex()
            start, end = 0, _RANDOM_DIGITS
        self._at = end
        ms = int(ts * 1000)
        if ms != self._ms:
            self._ms, self._time = ms, f"{ms:011x}"
        return self._time + self._random[start:end]
