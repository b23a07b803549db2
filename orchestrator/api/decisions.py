"""``GET /v1/requests/{request_id}/decisions``: why a request's jobs went where they went."""

from __future__ import annotations

import re
from typing import Final

import orjson
from msgspec import to_builtins

from orchestrator.api.exchange import Exchange
from orchestrator.api.inference import Answers
from orchestrator.domain.decisions import KEPT
from orchestrator.errors import NotFound

_REQUEST_ID: Final = re.compile(r"req_([0-9a-f]{24})")


class DecisionsRoute:
    """Shows a project its own placements, as long as the engine remembers them."""

    def __init__(self, engine: Answers) -> None:
        self._engine = engine

    async def read(self, exchange: Exchange, body: bytes) -> bytes:
        """Return the placements of a request, oldest first; raises `NotFound` where there are none.

        Those of another project are answered like those of no one.
        """
        request_id = exchange.name
        named = _REQUEST_ID.fullmatch(request_id)
        rows = self._engine.decisions_of(named[1]) if named else []
        own = [row for row in rows if row.project_id == exchange.project_id]
        if not own:
            raise NotFound(
                f"No placement of a request {request_id[:64]!r} of this project is kept: only the"
                f" server's last {KEPT:,} are. Ask soon after the answer, by its x-request-id.",
                code="request_not_found",
                param="request_id",
            )
        return orjson.dumps({"object": "list", "data": to_builtins(own)})
