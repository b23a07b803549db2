"""What the driver asks of a runtime: network, keys, model store, ONNX sessions, clock."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Protocol

from browser_node.models import FilePart, Manifest, ModelFile
from browser_node.protocol import JobItem, ModelDigest, Recipe
from browser_node.work import Encoder, Head, Outcome


class NetworkError(Exception):
    """Nobody was reached, or the other side broke off: trying again may help."""


class SocketClosed(Exception):
    """The WebSocket is closed; ``code`` and ``reason`` are the peer's, or ours."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"closed with {code} {reason}".rstrip())
        self.code = code
        self.reason = reason


class Socket(Protocol):
    """An open WebSocket of binary messages."""

    async def receive(self) -> bytes:
        """Return the next message; raises `SocketClosed`."""

    async def send(self, message: bytes) -> None:
        """Send a message, in order; raises `SocketClosed`."""

    async def close(self, code: int, reason: str) -> None:
        """Close after what was sent; returns when closed or after a moment."""


class Network(Protocol):
    """The way to one orchestrator at ``host``, the name and port of its address."""

    host: str

    async def register(self, request_json: bytes) -> tuple[int, bytes]:
        """POST to ``/register``; return the HTTP status and the body; raises `NetworkError`."""

    async def connect(self, path: str) -> Socket:
        """Open the WebSocket at ``path``; raises `NetworkError`."""


class Keys(Protocol):
    """The node's P-256 key pair."""

    async def sign(self, message: bytes) -> bytes:
        """Return the ECDSA/SHA-256 signature as r‖s, 64 bytes."""


class ModelStore(Protocol):
    """Model files on this device, filled from the network part by part."""

    async def manifest(self, digest: ModelDigest) -> Manifest:
        """Return a checked manifest, from here or the network; raises as `fetch` does."""

    async def known(self) -> list[ModelDigest]:
        """Return the digests of the manifests that are here."""

    async def has(self, part: FilePart) -> bool:
        """Whether the part is here in full size."""

    async def fetch(self, part: FilePart) -> None:
        """Download the part, verify it and keep it; raises `ManifestError`, `NetworkError`."""

    async def keep_only(self, recipes: Iterable[Recipe]) -> None:
        """Remove the models that are not among ``recipes``."""

    async def read(self, file: ModelFile) -> bytes:
        """Return a small file's bytes; forgets a part that does not verify: `ManifestError`."""


class Onnx(Protocol):
    """Makes ONNX sessions of files in the store."""

    async def encoder(self, file: ModelFile) -> Encoder:
        """Return a session of the backbone; raises `ManifestError` for files that do not verify."""

    async def head(self, file: ModelFile) -> Head:
        """Return a session of a head; raises `ManifestError` for files that do not verify."""

    async def release(self, session: Encoder | Head) -> None:
        """Free the memory of a session that nothing runs or will run any more."""


class Isolation(Protocol):
    """Computes attempts that may take a process down, each outside this one."""

    async def run(self, item: JobItem) -> Outcome:
        """Return the outcome, whatever becomes of the process that computes it."""


class Clock(Protocol):
    """Monotonic time and waiting."""

    def monotonic(self) -> float: ...

    async def sleep(self, seconds: float) -> None: ...

    async def wait(self, event: asyncio.Event, seconds: float | None) -> None:
        """Return when ``event`` is set or ``seconds`` have passed, whichever is first."""


class Log(Protocol):
    """Takes events with fields."""

    def __call__(self, event: str, **fields: object) -> None: ...
