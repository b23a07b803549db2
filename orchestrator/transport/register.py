"""`POST /register`: a node says what it is and learns what it is to load and what it must sign."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final

import msgspec
import orjson
from msgspec import Meta
from starlette.types import Receive, Scope, Send

from browser_node import protocol as p
from browser_node.models import Manifest
from browser_node.protocol import ModelDigest
from orchestrator.transport.caps import SocketCaps
from orchestrator.transport.credentials import Nonces
from orchestrator.transport.headers import header
from orchestrator.transport.origins import Origins, origin_of

MAX_BODY_BYTES: Final = p.MAX_FRAME_BYTES_BEFORE_WELCOME
SOCKET_PATH: Final = "/node/v1"


class Registration(msgspec.Struct, frozen=True):
    """The body; more fields than these are ignored, so that a newer node can say more."""

    runtime: p.Runtime
    device: p.Device
    public_key: Annotated[str, Meta(max_length=128)] = ""


class Register:
    def __init__(
        self,
        *,
        nonces: Nonces,
        models: Mapping[ModelDigest, Manifest],
        origins: Origins,
        caps: SocketCaps,
    ) -> None:
        self._nonces = nonces
        self._caps = caps
        self._models = models
        self._origins = origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] != "POST":
            body = _error("method_not_allowed", "Register with POST.")
            await _answer(send, 405, body, [(b"allow", b"POST")])
            return
        if not admitted(scope, self._origins):
            body = _error("origin_not_allowed", "Nodes of another origin may not register here.")
            await _answer(send, 403, body)
            return
        raw = await _read(receive)
        if raw is None:
            message = f"A registration has at most {MAX_BODY_BYTES} bytes."
            await _answer(send, 413, _error("body_too_large", message))
            return
        try:
            registration = msgspec.json.decode(raw, type=Registration)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            await _answer(send, 400, _error("invalid_registration", f"{error}."))
            return
        memory_mb = registration.device.memory_mb
        recipes = [
            {
                "model_id": manifest.id,
                "version": manifest.version,
                "digest": digest,
                "size_bytes": manifest.size_bytes,
            }
            for digest, manifest in self._models.items()
            if memory_mb is None or memory_mb >= manifest.min_memory_mb
        ]
        if not recipes:
            message = f"No model here runs in {memory_mb} MB of memory."
            await _answer(send, 403, _error("no_model_fits", message))
            return
        # The origin as the node itself names it: a browser says it, also through a proxy that
        # rewrites the Host; a native client connected to the Host it names.
        host = header(scope, b"host") or ""
        origin = header(scope, b"origin") or origin_of(scope.get("scheme", "http"), host)
        client = scope.get("client")
        nonce = self._nonces.issue(origin, self._caps.who(client[0] if client else "local"))
        if nonce is None:
            message = "Too many nodes of this network are registering: try again in a minute."
            await _answer(send, 429, _error("too_many_registrations", message))
            return
        body = orjson.dumps(
            {
                "protocol": p.VERSION,
                "nonce": nonce,
                "nonce_expires_s": p.NONCE_LIFETIME_S,
                "origin": origin,
                "socket": SOCKET_PATH,
                "recipes": recipes,
            }
        )
        await _answer(send, 200, body)


def admitted(scope: Scope, origins: Origins) -> bool:
    """Whether the request's Origin is this server's own, or absent as native clients leave it."""
    origin, host = header(scope, b"origin"), header(scope, b"host")
    return origins.admits(origin, scheme=scope.get("scheme", "http"), host=host)


async def _read(receive: Receive) -> bytes | None:
    """Return the body, or None when it is too long."""
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return body
        part: bytes = message.get("body", b"")
        body += part
        if len(body) > MAX_BODY_BYTES:
            return None
        if not message.get("more_body", False):
            return body


async def _answer(
    send: Send, status: int, body: bytes, headers: list[tuple[bytes, bytes]] | None = None
) -> None:
    base = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": base + (headers or [])})
    await send({"type": "http.response.body", "body": body})


def _error(code: str, message: str) -> bytes:
    return orjson.dumps({"error": {"code": code, "message": message}})
