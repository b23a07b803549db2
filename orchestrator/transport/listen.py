"""The listening sockets and the uvicorn servers on them, without uvicorn's own signal handling."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import structlog
import uvicorn
from starlette.types import ASGIApp

from browser_node import protocol as p
from orchestrator.errors import OperatorError
from orchestrator.settings import Settings
from orchestrator.transport.bounds import IDLE_S, KEEP_ALIVE_S, Bounds
from orchestrator.transport.frames import FrameSocket
from orchestrator.transport.http import bounded_http

# `sun_path` holds 108 bytes on Linux and 104 elsewhere.
MAX_UNIX_PATH_BYTES: Final = 100
BACKLOG: Final = 2048
# Of a peer that is gone. It counts for one whose window is shut as well, which may only be slow to
# read and is ours to judge: we must come first.
UNREAD_TIMEOUT_MS: Final = int(2000 * IDLE_S)
# What the system takes beyond what the peer's window has room for. Of megabytes, nothing would tell
# for minutes that a slow reader is reading.
UNSENT_MAX_BYTES: Final = 128 << 10
# Beside sockets: the database, the worker, log files and what libraries open.
SPARE_DESCRIPTORS: Final = 256
# When all is finished that will be: for answers that are still being read.
CLOSE_S: Final = 5

log = structlog.get_logger("server")


class Server(uvicorn.Server):
    """A uvicorn server that leaves signals to the application's own order of shutting down."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def bind(settings: Settings) -> socket.socket:
    """Bind the public address; raises `OperatorError` with what to do."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except OSError as error:
        listener.close()
        raise OperatorError(
            f"cannot listen on {settings.host}:{settings.port}: {error.strerror}; "
            "choose another with --host and --port"
        ) from error
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        # A peer that acknowledges nothing is given up: closing a socket waits for what is unsent.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNREAD_TIMEOUT_MS)
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_MAX_BYTES)
    listener.listen(BACKLOG)
    listener.set_inheritable(False)
    return listener


def bind_unix(folder: Path) -> tuple[socket.socket, Path]:
    """Bind a Unix socket that only this user can open; returns it with its path."""
    path = folder / "worker.sock"
    if len(os.fsencode(path)) > MAX_UNIX_PATH_BYTES:
        path = Path(tempfile.mkdtemp(prefix="zerogpu-")) / "worker.sock"
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # The mode is set before anybody can connect: nothing listens yet.
    listener.bind(str(path))
    path.chmod(0o600)
    listener.listen(16)
    return listener, path


def public_server(
    app: ASGIApp,
    settings: Settings,
    *,
    idle_s: float = IDLE_S,
    keep_alive_s: float = KEEP_ALIVE_S,
) -> Server:
    """Return the server of the public address.

    ``idle_s`` ends a body or a reader that stops, ``keep_alive_s`` a connection between requests.
    """
    return _server(
        app,
        http=bounded_http(
            Bounds(
                headers_timeout_s=settings.headers_timeout_s,
                headers_max=settings.headers_max,
                headers_max_bytes=settings.headers_max_bytes,
                idle_s=idle_s,
                keep_alive_s=keep_alive_s,
            )
        ),
        proxy_headers=bool(settings.forwarded_allow_ips),
        forwarded_allow_ips=list(settings.forwarded_allow_ips),
        ssl_certfile=settings.tls_cert,
        ssl_keyfile=settings.tls_key,
        timeout_graceful_shutdown=CLOSE_S,
        backlog=BACKLOG,
    )


def private_server(app: ASGIApp) -> Server:
    """Return the server of the CPU worker's Unix socket."""
    return _server(app, http="httptools", proxy_headers=False, timeout_graceful_shutdown=1)


def _server(app: ASGIApp, **options: Any) -> Server:
    config = uvicorn.Config(
        app,
        interface="asgi3",
        loop="uvloop",
        ws=FrameSocket,
        ws_per_message_deflate=False,
        ws_max_size=p.MAX_FRAME_BYTES,
        # Liveness is the application's pong: a browser answers protocol pings for a tab whose
        # worker is stopped.
        ws_ping_interval=None,
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        **options,
    )
    return Server(config)


def raise_descriptor_limit(sockets_max: int) -> None:
    """Allow as many open files as ``sockets_max`` sockets need, or say that it is not possible."""
    wanted = sockets_max + SPARE_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= wanted or soft == resource.RLIM_INFINITY:
        return
    reachable = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, reachable), hard))
    if reachable < wanted:
        log.warning(
            "fewer sockets than configured",
            sockets_max=sockets_max,
            descriptor_limit=reachable,
            remedy="raise the limit (ulimit -n) or lower ZEROGPU_SOCKETS_MAX",
        )
