"""Answers that are the same for everybody until the next start: kept whole, with an ETag."""

from __future__ import annotations

import hashlib

from orchestrator.api.exchange import Exchange
from orchestrator.api.reply import JSON, Answer


class Cached:
    """``fresh_s``: for so long a client may use it without asking again (RFC 9111)."""

    def __init__(self, body: bytes, *, fresh_s: int, content_type: bytes = JSON) -> None:
        self._etag = b'"%b"' % hashlib.sha256(body).hexdigest()[:32].encode()
        headers = (
            (b"etag", self._etag),
            # Keys tell projects apart, and a shared cache could not.
            (b"cache-control", b"private, max-age=%d" % fresh_s),
            # Also where none came: a copy kept for a page of ours must not be given to another's.
            (b"vary", b"origin, x-api-key, authorization"),
        )
        self._whole = Answer(200, body, headers, content_type)
        self._unchanged = Answer(304, b"", headers, content_type)

    def answer(self, exchange: Exchange) -> Answer:
        """Return the whole answer, or 304 to a client that has it."""
        return self._unchanged if has(exchange, self._etag) else self._whole


def has(exchange: Exchange, etag: bytes) -> bool:
    """Whether the client has what ``etag`` names already (RFC 9110 §13.1.2)."""
    named = exchange.headers.get(b"if-none-match", b"")
    known = {one.strip().removeprefix(b"W/") for one in named.split(b",")}
    return etag in known or named.strip() == b"*"
