"""One request as it passes through the API: what is learnt of it on the way ends in the log."""

from __future__ import annotations

from orchestrator.api.gate import Gate
from orchestrator.domain.model import Place, ProjectId, Rules
from orchestrator.storage.keys import Principal


class Exchange:
    """Filled in step by step; ``number`` is the random part that all ids of the request share."""

    __slots__ = (
        "_gate",
        "attempts",
        "endpoint",
        "held_bytes",
        "input_tokens",
        "model",
        "node_id",
        "number",
        "output_tokens",
        "place",
        "principal",
        "started_s",
        "ts",
    )

    def __init__(self, gate: Gate, *, number: str, endpoint: str, started_s: float, ts: float):
        self._gate = gate
        self.number = number
        self.endpoint = endpoint
        self.started_s = started_s
        self.ts = ts
        self.principal: Principal | None = None
        self.held_bytes = 0
        self.model: str | None = None
        self.place: Place | None = None
        self.input_tokens = 0
        self.output_tokens = 0
        self.attempts = 0
        self.node_id: str | None = None

    @property
    def request_id(self) -> str:
        return f"req_{self.number}"

    @property
    def project_id(self) -> ProjectId:
        return self._checked.project_id

    @property
    def rules(self) -> Rules:
        return self._checked.rules

    @property
    def _checked(self) -> Principal:
        assert self.principal is not None, "asked before the key was checked"  # noqa: S101
        return self.principal

    def hold(self, size_bytes: int) -> None:
        """Count bytes of the body; raises `errors.Overloaded`."""
        self._gate.hold(size_bytes)
        self.held_bytes += size_bytes
