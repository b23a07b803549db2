"""Cheap statistics on answers: does a node say the same thing too often?

A *trait* stands for what a lazy liar would repeat: a classification's first label, a whole vector.
The same trait on unequal inputs in a row is held against how often the whole fleet says it: what
is less likely than one in ten thousand makes the node's next answers be audited. It is a reason to
look, never evidence.
"""

from __future__ import annotations

from typing import Final

from orchestrator.domain.model import Speed

LIKELIHOOD: Final = 1e-4
_KEPT: Final = 512
_HALVE_AT: Final = 10_000


class Traits:
    """How often each trait was said of one model by the whole fleet, the older the less."""

    __slots__ = ("_counts", "_total")

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        self._total = 0

    def suspicious(self, speed: Speed, trait: int, asked: int) -> bool:
        """Count an answer; True when its node repeats itself more than the fleet would explain.

        ``asked`` is a hash of the input: repeating an answer to the same question proves nothing.
        """
        counts, total = self._counts, self._total
        before = counts.get(trait, 0)
        if before or len(counts) < _KEPT:
            counts[trait] = before + 1
        self._total = total + 1
        if total + 1 >= _HALVE_AT:
            self._halve()
        if trait == speed.trait:
            speed.repeats += asked != speed.asked
        else:
            speed.trait = trait
            if speed.repeats:
                speed.repeats = 0
        speed.asked = asked
        if speed.repeats < 2:
            return False
        share = (before + 1) / (total + 2)
        return share**speed.repeats < LIKELIHOOD

    def _halve(self) -> None:
        self._total //= 2
        self._counts = {key: count // 2 for key, count in self._counts.items() if count > 1}
