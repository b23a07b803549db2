"""The request log: one row an authenticated request, appended without blocking.

Neither prompts nor outputs nor keys are in it: counts, times and ids only.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from orchestrator.domain.model import KeyId, Place, ProjectId
from orchestrator.storage.schema import requests
from orchestrator.storage.writer import Insert, Writer

_INSERT: Final = Insert(requests.name, tuple(requests.columns.keys()))


class RequestRow(NamedTuple):
    """One request, in the order of the table's columns. ``ts`` is when it came (Unix seconds).

    Of a request of many jobs ``attempts`` is the sum and ``node_id`` is there only if one node
    answered all. ``status`` is 499 when the client left before the answer.
    """

    id: str
    project_id: ProjectId
    key_id: KeyId
    ts: float
    model: str | None
    endpoint: str
    status: int
    latency_ms: float
    place: Place | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    attempts: int = 0
    node_id: str | None = None
    error_code: str | None = None


class RequestLog:
    """Where every endpoint puts its row."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    @property
    def queued(self) -> int:
        return self._writer.queued

    @property
    def dropped(self) -> int:
        return self._writer.dropped

    def append(self, row: RequestRow) -> None:
        self._writer.append(_INSERT, row)
