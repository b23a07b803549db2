"""The pieces of answers that one node may send: asked for, in order, and of a bounded size.

expected    until the node answers or fails; a delta that comes then breaks the protocol
taken back  one may still be on its way: it is checked and dropped
"""

from __future__ import annotations

from typing import Final

import msgspec

from browser_node import protocol as p
from browser_node.protocol import AttemptId, CloseCode, ProtocolError

# No result could hold more.
MAX_BYTES: Final = p.MAX_FRAME_BYTES
# What a frame has beside its text: a flood of tiny ones ends, too.
OVERHEAD_BYTES: Final = 64
# A node never holds more attempts than this.
TAKEN_BACK_KEPT: Final = p.MAX_ITEMS


class _Progress(msgspec.Struct):
    seq: int = 0
    size_bytes: int = 0


class Deltas:
    """How far the streamed attempts of one connection have come."""

    def __init__(self) -> None:
        self._expected: dict[AttemptId, _Progress] = {}
        self._taken_back: dict[AttemptId, _Progress] = {}

    def expect(self, attempt_id: AttemptId) -> None:
        self._expected[attempt_id] = _Progress()

    def ended(self, attempt_id: AttemptId) -> None:
        """The node answered or failed: nothing may follow."""
        if self._expected:
            self._expected.pop(attempt_id, None)
        if self._taken_back:
            self._taken_back.pop(attempt_id, None)

    def taken_back(self, attempt_id: AttemptId) -> None:
        progress = self._expected.pop(attempt_id, None)
        if progress is not None:
            self._taken_back[attempt_id] = progress
            if len(self._taken_back) > TAKEN_BACK_KEPT:
                del self._taken_back[next(iter(self._taken_back))]

    def receive(self, frame: p.Delta) -> bool:
        """Take the next piece of an attempt; whether the attempt is still the node's.

        Raises `ProtocolError` for one that was not asked for, out of order or too much.
        """
        attempt_id = AttemptId(frame.attempt_id)
        expected = self._expected.get(attempt_id)
        progress = expected or self._taken_back.get(attempt_id)
        if progress is None:
            raise ProtocolError(f"delta for {attempt_id}, which is not to be streamed")
        if frame.seq != progress.seq:
            raise ProtocolError(
                f"delta {frame.seq} of {attempt_id} where {progress.seq} was due",
                CloseCode.OUT_OF_ORDER,
            )
        progress.seq += 1
        progress.size_bytes += OVERHEAD_BYTES + len(frame.text.encode())
        if progress.size_bytes > MAX_BYTES:
            raise ProtocolError(
                f"the deltas of {attempt_id} exceed {MAX_BYTES} bytes", CloseCode.TOO_BIG
            )
        return expected is not None
