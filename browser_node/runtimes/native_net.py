"""The native node's network: `websockets`, and HTTP by the standard library in threads."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from websockets.asyncio.client import ClientConnection, connect, unix_connect
from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.typing import Subprotocol

from browser_node.protocol import MAX_FRAME_BYTES, SUBPROTOCOL
from browser_node.runtimes.seams import NetworkError, SocketClosed

T = TypeVar("T")

HTTP_TIMEOUT_S: Final = 15.0
_MAX_REPLY_BYTES: Final = 1 << 20
_ABNORMAL: Final = 1006


async def in_thread(work: Callable[[], T]) -> T:
    """Run ``work`` in a thread of its own that does not outlive the process.

    A pool's threads are joined at exit, and a download that hangs would hold up the goodbye.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def succeed(result: T) -> None:
        if not done.cancelled():
            done.set_result(result)

    def fail(error: Exception) -> None:
        if not done.cancelled():
            done.set_exception(error)

    def run() -> None:
        # The loop may be closed by the time a slow answer comes: then nobody waits for it.
        with contextlib.suppress(RuntimeError):
            try:
                result = work()
            except Exception as error:
                loop.call_soon_threadsafe(fail, error)
            else:
                loop.call_soon_threadsafe(succeed, result)

    threading.Thread(target=run, daemon=True, name="http").start()
    return await done


def get(url: str, *, limit_bytes: int) -> bytes:
    """Return at most one byte more than ``limit_bytes`` of ``url``; raises `NetworkError`."""
    status, body = _request(urllib.request.Request(url), limit_bytes + 1)  # noqa: S310
    if status != 200:
        raise NetworkError(f"{url} was answered with {status}")
    return body


def _request(request: urllib.request.Request, limit_bytes: int) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(request, timeout=HTTP_TIMEOUT_S) as reply:  # noqa: S310
            return reply.status, reply.read(limit_bytes)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read(limit_bytes)
    except OSError as error:
        raise NetworkError(f"{request.full_url} could not be reached: {error}") from error


class WebNetwork:
    """An orchestrator at an http or https URL."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise ValueError(f"{url!r} is not a URL such as https://example.org")
        self.origin = f"{parts.scheme}://{parts.netloc}"
        self.host = parts.netloc

    async def register(self, request_json: bytes) -> tuple[int, bytes]:
        request = urllib.request.Request(  # noqa: S310
            f"{self.origin}/register",
            data=request_json,
            headers={"content-type": "application/json"},
            method="POST",
        )
        return await in_thread(lambda: _request(request, _MAX_REPLY_BYTES))

    async def connect(self, path: str) -> WebSocket:
        return await _open(connect(self.origin.replace("http", "ws", 1) + path, **_OPTIONS))


class WorkerNetwork:
    """The private socket of the orchestrator on this machine."""

    host = "localhost"

    def __init__(self, socket_path: str, secret: str) -> None:
        self._socket_path = socket_path
        self._secret = secret

    async def register(self, request_json: bytes) -> tuple[int, bytes]:
        raise NetworkError("the CPU worker does not register")

    async def connect(self, path: str) -> WebSocket:
        headers = {"authorization": f"Bearer {self._secret}"}
        uri = f"ws://{self.host}{path}"
        return await _open(
            unix_connect(self._socket_path, uri, additional_headers=headers, **_OPTIONS)
        )


# Liveness is the application's: no pings of the WebSocket's own, and no compression to pay for.
_OPTIONS: Final[dict[str, Any]] = {
    "subprotocols": [Subprotocol(SUBPROTOCOL)],
    "compression": None,
    "max_size": MAX_FRAME_BYTES,
    "ping_interval": None,
    "open_timeout": 10.0,
    "close_timeout": 1.0,
}


async def _open(opening: connect) -> WebSocket:
    try:
        return WebSocket(await opening)
    except (OSError, TimeoutError, WebSocketException) as error:
        raise NetworkError(f"the connection could not be opened: {error}") from error


class WebSocket:
    """A `websockets` connection behind the driver's seam."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection

    async def receive(self) -> bytes:
        try:
            message = await self._connection.recv()
        except ConnectionClosed as closed:
            raise _closed(closed) from closed
        # Text is no frame of this protocol; the decoder says so to the session.
        return message if isinstance(message, bytes) else b""

    async def send(self, message: bytes) -> None:
        try:
            await self._connection.send(message)
        except ConnectionClosed as closed:
            raise _closed(closed) from closed

    async def close(self, code: int, reason: str) -> None:
        await self._connection.close(code, reason.encode()[:120].decode(errors="ignore"))


def _closed(closed: ConnectionClosed) -> SocketClosed:
    frame = closed.rcvd or closed.sent
    return SocketClosed(frame.code, frame.reason) if frame else SocketClosed(_ABNORMAL, "")


class FileKeys:
    """A P-256 key pair in a file that only its owner can read."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            _write_new_key(path)
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ValueError(f"{path} does not hold a P-256 key")
        self._key = key
        self.public_key = key.public_key().public_bytes(
            serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
        )

    async def sign(self, message: bytes) -> bytes:
        r, s = decode_dss_signature(self._key.sign(message, ec.ECDSA(hashes.SHA256())))
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")


class NoKeys:
    """What a node has that its transport vouches for: nothing to sign with."""

    public_key = b""

    async def sign(self, message: bytes) -> bytes:
        return b""


def _write_new_key(path: Path) -> None:
    pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(pem)
