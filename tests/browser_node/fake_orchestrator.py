"""The orchestrator's end of protocol 1 for tests: real sockets and frames, scripted by the test."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import secrets
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import uvicorn
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from browser_node import protocol as p
from tests.servers import running

F = TypeVar("F", bound=p.Frame)


@dataclass
class Peer:
    """One node's connection as the orchestrator sees it."""

    websocket: WebSocket
    inbox: asyncio.Queue[p.NodeFrame | int] = field(default_factory=asyncio.Queue)
    over: asyncio.Event = field(default_factory=asyncio.Event)

    async def send(self, frame: p.Frame) -> None:
        await self.websocket.send_bytes(p.encode(frame))

    async def next(self, timeout_s: float = 20.0) -> p.NodeFrame | int:
        """Return the next frame, or the close code."""
        return await asyncio.wait_for(self.inbox.get(), timeout_s)

    async def expect(self, kind: type[F], timeout_s: float = 20.0) -> F:
        """Return the next frame of ``kind``, dropping capacity and pong frames before it."""
        while True:
            frame = await self.next(timeout_s)
            if isinstance(frame, kind):
                return frame
            assert isinstance(frame, p.Capacity | p.Pong), f"expected {kind.__name__}, got {frame}"

    async def welcome(self, node_id: str = "node_1") -> None:
        await self.send(p.Welcome(version=1, node_id=node_id, ticket=f"ticket-{node_id}"))

    async def close(self, code: int, reason: str = "") -> None:
        await self.websocket.close(code, reason)


@dataclass
class FakeOrchestrator:
    """Registers nodes, checks their signatures, and hands each greeted connection to the test."""

    build_dir: Path
    url: str = ""
    nonces: list[str] = field(default_factory=list)
    peers: asyncio.Queue[tuple[p.Hello, Peer]] = field(default_factory=asyncio.Queue)
    served: list[tuple[str, int]] = field(default_factory=list)
    refuse: JSONResponse | None = None
    # Names of model files that are sent wrong once, and that are not sent until `release` is set.
    spoil: set[str] = field(default_factory=set)
    hold: set[str] = field(default_factory=set)
    release: asyncio.Event = field(default_factory=asyncio.Event)

    async def accept(self, timeout_s: float = 30.0) -> tuple[p.Hello, Peer]:
        """Return the next node that said hello."""
        return await asyncio.wait_for(self.peers.get(), timeout_s)

    def routes(self) -> list[BaseRoute]:
        return [
            Route("/register", self._register, methods=["POST"]),
            Route("/models/{kind:str}/{name:str}", self._model),
            WebSocketRoute("/node/v1", self._node),
            WebSocketRoute("/worker/v1", self._node),
        ]

    async def _register(self, request: Request) -> Response:
        if self.refuse is not None:
            return self.refuse
        body = await request.json()
        assert set(body) == {"runtime", "device", "public_key"}
        assert len(base64.b64decode(body["public_key"])) == 65
        nonce = secrets.token_hex(8)
        self.nonces.append(nonce)
        reply = {
            "protocol": 1,
            "nonce": nonce,
            "nonce_expires_s": 60,
            "origin": self.url,
            "socket": "/node/v1",
            "recipes": [],
        }
        return JSONResponse(reply)

    async def _model(self, request: Request) -> Response:
        path = self.build_dir / "models" / request.path_params["kind"] / request.path_params["name"]
        if not path.is_file():
            return Response(status_code=404)
        if path.name in self.hold:
            await self.release.wait()
        self.served.append((request.url.path, path.stat().st_size))
        if path.name in self.spoil:
            self.spoil.discard(path.name)
            return Response(b"x" * path.stat().st_size)
        return sent(request, path, immutable=True)

    async def _node(self, websocket: WebSocket) -> None:
        assert p.SUBPROTOCOL in websocket.scope["subprotocols"]
        await websocket.accept(p.SUBPROTOCOL)
        peer = Peer(websocket)
        hello = p.decode_from_node(
            await websocket.receive_bytes(), limit_bytes=p.MAX_FRAME_BYTES_BEFORE_WELCOME
        )
        assert isinstance(hello, p.Hello)
        if websocket.url.path == "/node/v1":
            assert hello.nonce in self.nonces
            check_signature(hello, origin=self.url)
        self.peers.put_nowait((hello, peer))
        try:
            while True:
                peer.inbox.put_nowait(p.decode_from_node(await websocket.receive_bytes()))
        except WebSocketDisconnect as closed:
            peer.inbox.put_nowait(closed.code)
        except RuntimeError:
            # The test closed it: Starlette refuses to receive afterwards.
            peer.inbox.put_nowait(1000)
        finally:
            peer.over.set()

    @contextlib.asynccontextmanager
    async def running(self, *extra: BaseRoute, uds: Path | None = None) -> AsyncIterator[None]:
        app = Starlette(routes=[*extra, *self.routes()])
        config = uvicorn.Config(
            app, log_level="error", lifespan="off", ws="websockets-sansio", ws_max_size=1 << 20
        )
        server = uvicorn.Server(config)
        # Signals belong to the test's process.
        server.capture_signals = contextlib.nullcontext  # type: ignore[assignment]
        family = socket.AF_UNIX if uds else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as listener:
            listener.bind(str(uds) if uds else ("127.0.0.1", 0))
            if not uds:
                self.url = f"http://localhost:{listener.getsockname()[1]}"
            async with running(server, listener):
                try:
                    yield
                finally:
                    server.force_exit = True


def sent(request: Request, path: Path, *, immutable: bool) -> Response:
    """Return a file, brotli-encoded where there is a sibling and the client takes it."""
    cache = "public, max-age=31536000, immutable" if immutable else "no-cache"
    headers = {"cache-control": cache, "cross-origin-resource-policy": "same-origin"}
    kinds = {".mjs": "text/javascript", ".js": "text/javascript", ".wasm": "application/wasm"}
    kind = kinds.get(path.suffix, "application/octet-stream")
    encoded = path.with_name(path.name + ".br")
    if encoded.is_file() and "br" in request.headers.get("accept-encoding", ""):
        headers, path = {**headers, "content-encoding": "br"}, encoded
    # Read here: a file that is opened as the client leaves would be closed by nobody.
    return Response(path.read_bytes(), media_type=kind, headers=headers)


def check_signature(hello: p.Hello, *, origin: str) -> None:
    """Raise `InvalidSignature` unless the hello is signed for ``origin`` with its own key."""
    key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), hello.public_key)
    r, s = (int.from_bytes(half, "big") for half in (hello.signature[:32], hello.signature[32:]))
    message = p.signed_message(nonce=hello.nonce, origin=origin)
    key.verify(encode_dss_signature(r, s), message, ec.ECDSA(hashes.SHA256()))


def recipe(build_dir: Path, model_id: str) -> p.Recipe:
    """Return the recipe of a built model."""
    index = json.loads((build_dir / "index.json").read_text())
    digest = next(row["digest"] for row in index["models"] if row["id"] == model_id)
    return p.Recipe(model_id=model_id, version="1", digest=digest)
