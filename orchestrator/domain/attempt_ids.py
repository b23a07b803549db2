"""Ids of attempts: 64 random bits each, drawn for a thousand of them at once."""

from __future__ import annotations

import random
from typing import Final

from browser_node.protocol import AttemptId

_DIGITS: Final = 16
_BLOCK: Final = 1_000


class AttemptIds:
    """Called, it returns an id that was not returned before."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._digits = ""
        self._at = 0

    def __call__(self) -> AttemptId:
        start, end = self._at, self._at + _DIGITS
        if end > len(self._digits):
            bits = self._rng.getrandbits(4 * _DIGITS * _BLOCK)
            self._digits = f"{bits:0{_DIGITS * _BLOCK}x}"
            start, end = 0, _DIGITS
        self._at = end
        return AttemptId("att_" + self._digits[start:end])
