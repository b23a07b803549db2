"""What a node has committed to and may have to show: the evidence of its latest answers.

A result carries the SHA-256 of its evidence, so that what is shown later is what it rested on; one
answer in twenty is asked for. Kept in memory, for a while, and shown once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from browser_node.protocol import (
    EVIDENCE_KEPT_BYTES,
    EVIDENCE_KEPT_S,
    Result,
    Shown,
    commitment_to,
)


class _Kept(NamedTuple):
    evidence: bytes
    since_s: float


class Commitments:
    """Evidence by attempt id, oldest first; ``now`` is monotonic time in seconds."""

    def __init__(self) -> None:
        self._kept: dict[str, _Kept] = {}
        self._bytes = 0

    @property
    def size_bytes(self) -> int:
        """How much evidence is kept."""
        return self._bytes

    @property
    def drop_at(self) -> float:
        """When the oldest need not be kept any more; infinite if there is none."""
        for kept in self._kept.values():
            return kept.since_s + EVIDENCE_KEPT_S
        return math.inf

    def commit(self, result: Result, *, now: float) -> Result:
        """Return ``result`` with a commitment in place of its evidence, which is kept."""
        evidence = result.evidence
        if not evidence:
            return result
        self._kept[result.attempt_id] = _Kept(evidence, now)
        self._bytes += len(evidence)
        self.drop_old(now)
        return msgspec.structs.replace(result, evidence=b"", commitment=commitment_to(evidence))

    def show(self, attempt_ids: Iterable[str], *, now: float) -> list[Shown]:
        """Return what the results of ``attempt_ids`` rested on, and forget it."""
        self.drop_old(now)
        return [Shown(attempt_id=one, evidence=self._take(one)) for one in attempt_ids]

    def clear(self) -> None:
        """Forget everything: nobody can ask for it any more."""
        self._kept.clear()
        self._bytes = 0

    def drop_old(self, now: float) -> None:
        """Forget what is too old, and what is too much; not the latest, however large it is."""
        while self._kept and (
            self.drop_at <= now or (self._bytes > EVIDENCE_KEPT_BYTES and len(self._kept) > 1)
        ):
            self._take(next(iter(self._kept)))

    def _take(self, attempt_id: str) -> bytes | None:
        kept = self._kept.pop(attempt_id, None)
        if kept is None:
            return None
        self._bytes -= len(kept.evidence)
        return kept.evidence
