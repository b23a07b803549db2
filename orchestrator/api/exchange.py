"""One request as it passes through the API: what is learnt of it on the way ends in the log."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from starlette.types import Receive

from orchestrator.api.gate import Gate
from orchestrator.domain.model import Place, Priority, ProjectId, Rules
from orchestrator.storage.idempotent import Scope
from orchestrator.storage.keys import Principal

_NO_HEADERS: Final[Mapping[bytes, bytes]] = MappingProxyType({})


async def _nothing_comes() -> dict[str, object]:
    return {"type": "http.disconnect"}


class Billed(NamedTuple):
    """What earlier attempts at a request with an Idempotency-Key have cost."""

    input_tokens: int = 0
    output_tokens: int = 0


NOTHING_BILLED: Final = Billed()


class Exchange:
    """Filled in step by step; ``number`` is the random part that all ids of the request share.

    ``name`` is what stands in the path for its placeholder, ``query`` the raw query string,
    ``receive`` where a body that nobody has read yet comes from. A line of a batch is an exchange
    too: its ``priority`` is batch, and ``deadline_s`` is longer than a request's. ``scope`` is
    there where an Idempotency-Key came, and ``billed`` is paid for already of the tokens.
    """

    def __init__(
        self,
        gate: Gate,
        number: str,
        endpoint: str,
        started_s: float,
        ts: float,
        headers: Mapping[bytes, bytes] = _NO_HEADERS,
        query: bytes = b"",
        receive: Receive = _nothing_comes,
    ) -> None:
        self.gate = gate
        self.number = number
        self.endpoint = endpoint
        self.started_s = started_s
        self.ts = ts
        self.headers = headers
        self.query = query
        self.receive = receive
        self.name = ""
        self.principal: Principal | None = None
        self.scope: Scope | None = None
        self.priority: Priority = "interactive"
        self.deadline_s: float | None = None
        self.held_bytes = 0
        self.model: str | None = None
        self.place: Place | None = None
        self.input_tokens = 0
        self.output_tokens = 0
        self.billed = NOTHING_BILLED
        self.attempts = 0
        self.node_id: str | None = None
        # As much of the one text as its model was given.
        self.read = ""

    def __repr__(self) -> str:
        # Nothing of the headers: the key is among them.
        return f"<Exchange {self.request_id}>"

    @property
    def request_id(self) -> str:
        return f"req_{self.number}"

    @property
    def project_id(self) -> ProjectId:
        return self.checked.project_id

    @property
    def rules(self) -> Rules:
        return self.checked.rules

    @property
    def checked(self) -> Principal:
        """Whose request it is, once the key was checked."""
        assert self.principal is not None, "asked before the key was checked"  # noqa: S101
        return self.principal

    def hold(self, size_bytes: int) -> None:
        """Count bytes of the body; raises `errors.Overloaded`."""
        self.gate.hold(size_bytes)
        self.held_bytes += size_bytes
