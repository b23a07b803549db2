"""The text of one answer on its way to a customer, whichever attempts it comes from.

What the customer has cannot be taken back: an attempt that takes over repeats it, and what it
repeats is left out. One that begins otherwise breaks the stream off (`errors.InternalError`).
"""

from __future__ import annotations

from browser_node.protocol import AttemptId
from orchestrator import errors


class StreamedText:
    """Pieces in, pieces out: those that wait when the customer is ready are joined into one."""

    def __init__(self) -> None:
        self._attempt: AttemptId | None = None
        self._taken: list[str] = []
        self._waiting: list[str] = []
        # What the attempt must repeat, and how much of it has been.
        self._before = ""
        self._repeated = 0
        self._broken = False

    def add(self, attempt_id: AttemptId, text: str) -> None:
        """Put the next piece of an attempt behind those before it, or begin anew with another."""
        if attempt_id != self._attempt:
            self._attempt = attempt_id
            # What nobody has seen yet need not be repeated.
            self._waiting.clear()
            self._before, self._repeated = "".join(self._taken), 0
            self._broken = False
        if self._repeated < len(self._before):
            known = text[: len(self._before) - self._repeated]
            self._broken |= not self._before.startswith(known, self._repeated)
            self._repeated += len(known)
            text = text[len(known) :]
        if text:
            self._waiting.append(text)

    def take(self) -> str:
        """Return what has come since the last time, maybe nothing."""
        if self._broken:
            raise _interrupted()
        return self._took("".join(self._waiting))

    def finish(self, output: bytes) -> str:
        """Return what is left of the answer where pieces of it came, and nothing where none did."""
        if self._attempt is None:
            return ""
        taken = "".join(self._taken)
        text = output.decode(errors="replace")
        if not text.startswith(taken):
            raise _interrupted()
        return self._took(text[len(taken) :])

    def _took(self, piece: str) -> str:
        self._waiting.clear()
        if piece:
            self._taken.append(piece)
        return piece


def _interrupted() -> errors.InternalError:
    return errors.InternalError(
        "The answer broke off: the node that was writing it was lost, and no other continued it"
        " with the same words. Send the request again.",
        code="stream_interrupted",
    )
