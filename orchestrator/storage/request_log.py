"""The request log: one row an authenticated request, appended without blocking.

Of refusals that no limit bounds it gets one a second and key (`api.recorder`).

Neither prompts nor outputs nor keys are in it: counts, times and ids only.
"""

from __future__ import annotations

from typing import Final

from orchestrator.domain.model import KeyId, Place, ProjectId
from orchestrator.storage.schema import requests
from orchestrator.storage.writer import Insert, Writer

_COLUMNS: Final = tuple(requests.columns.keys())
_FAILED: Final = Insert(requests.name, _COLUMNS)
# Without the error's code: the driver takes longer over one None than over all other values.
_ANSWERED: Final = Insert(requests.name, _COLUMNS[:-1])


RequestRow = tuple[
    str,  # id
    ProjectId,
    KeyId,
    float,  # ts: when it came (Unix seconds)
    str | None,  # model
    str,  # endpoint
    int,  # status: 499 when the client left before the answer
    float,  # latency_ms
    Place | None,
    int,  # input_tokens
    int,  # output_tokens
    int,  # attempts: of a request of many jobs, their sum
    str | None,  # node_id: only if one node answered all jobs
    str | None,  # error_code
]
"""One request, in the order of the table's columns. A plain tuple: one is made an answer."""


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
        if row[-1] is None:
            self._writer.append(_ANSWERED, row[:-1])
        else:
            self._writer.append(_FAILED, row)
