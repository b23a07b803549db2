"""PURE: what became of a line: whether it is run again, and what it says in which of the files.

| answer | what follows |
|---|---|
| 2xx | a line of the output file |
| 503 (no one can take it, or did in time), 429 | again after a pause of the batch: it was no try |
| 408, 409, other 5xx | again, after a wait that doubles; after the last try ``internal_error`` |
| 400, 420 (too long), 404, 401 (the key is gone) | a line of the error file |

No limit applies to a line that runs, and its size was checked with the file: there are no codes for
that. The older codes of the public documentation are kept as a mark in front of the message.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

import orjson

from orchestrator.errors import (
    ApiError,
    ContextLengthExceeded,
    DeadlineExceeded,
    NoCapacity,
    Overloaded,
    ShuttingDown,
)

# A line can wait in the queue until its deadline: it need not be the line that is slow.
_NOBODY_TRIED: Final = (NoCapacity, Overloaded, ShuttingDown, DeadlineExceeded)
# NEL, LINE SEPARATOR, PARAGRAPH SEPARATOR: in JSON they stand raw inside strings only.
_LINE_ENDS: Final = tuple(
    (char.encode(), b"\\u%04x" % ord(char)) for char in ("\x85", "\u2028", "\u2029")
)


@dataclass(frozen=True, slots=True)
class LineOutcome:
    """What one try of a line led to: the ``body`` of an answer, or an ``error``."""

    request_id: str
    status: int = 200
    body: bytes = b""
    error: ApiError | None = None

    @property
    def nobody_tried(self) -> bool:
        """Whether the line met no one who could take it: that says nothing about the line."""
        error = self.error
        return isinstance(error, _NOBODY_TRIED) or (error is not None and error.status == 429)

    @property
    def worth_another_try(self) -> bool:
        error = self.error
        return error is not None and (error.status in {408, 409} or error.status >= 500)


class KeyUnavailable(ApiError):
    """The key that a batch was made with is no longer good."""

    status = 401
    type = "authentication_error"
    default_code = "invalid_api_key"


def output_line(batch_id: str, at: int, custom_id: str, outcome: LineOutcome) -> bytes:
    """Return a line of the output file, without a line feed; the body stays as it was answered."""
    return b"".join(
        (
            _start(batch_id, at, custom_id),
            b',"response":{"status_code":%d,"request_id":' % outcome.status,
            orjson.dumps(outcome.request_id),
            b',"body":',
            # Between the tokens of a JSON document only: inside of a string there are no raw ones.
            _one_line(outcome.body.replace(b"\n", b" ").replace(b"\r", b" ")),
            b'},"error":null}',
        )
    )


def error_line(batch_id: str, at: int, custom_id: str, error: ApiError, *, tries: int) -> bytes:
    """Return a line of the error file for a line that was tried so often, without a line feed."""
    code, message = _told(error, tries)
    return _failed(batch_id, at, custom_id, code=code, message=message, param=error.param)


def cancelled_line(batch_id: str, at: int, custom_id: str) -> bytes:
    return _failed(
        batch_id,
        at,
        custom_id,
        code="batch_cancelled",
        message="The batch was cancelled before this line was answered.",
    )


def expired_line(batch_id: str, at: int, custom_id: str) -> bytes:
    return _failed(
        batch_id,
        at,
        custom_id,
        code="batch_expired",
        message="The batch's completion window ended before this line was answered.",
    )


def _told(error: ApiError, tries: int) -> tuple[str, str]:
    """Return the code and the message of an error line."""
    if isinstance(error, KeyUnavailable):
        return "authentication_error", f"[legacy:api_key_unavailable] {error.message}"
    if isinstance(error, ContextLengthExceeded) or error.code == "context_length_exceeded":
        return "context_length_exceeded", f"[legacy:http_400] {error.message}"
    if error.status in {408, 409} or error.status >= 500:
        return "internal_error", (
            f"[legacy:retries_exhausted] The line failed after {tries} attempts; the last one"
            f" ended with status {error.status}: {error.message}"
        )
    code = "not_found_error" if error.status == 404 else "invalid_request_error"
    return code, f"[legacy:http_{error.status}] {error.message}"


def _failed(
    batch_id: str, at: int, custom_id: str, *, code: str, message: str, param: str | None = None
) -> bytes:
    error = _one_line(orjson.dumps({"code": code, "message": message, "param": param}))
    return b"".join((_start(batch_id, at, custom_id), b',"response":null,"error":', error, b"}"))


def _start(batch_id: str, at: int, custom_id: str) -> bytes:
    # Made from what it names, so that files written twice are the same.
    number = blake2b(f"{batch_id}:{at}".encode(), digest_size=12).hexdigest()
    start = b'{"id":"batch_req_%s","custom_id":' % number.encode()
    return start + _one_line(orjson.dumps(custom_id))


def _one_line(raw: bytes) -> bytes:
    """Return JSON without the characters that Unicode ends a line with, as many readers do."""
    for char, escaped in _LINE_ENDS:
        if char in raw:
            raw = raw.replace(char, escaped)
    return raw
