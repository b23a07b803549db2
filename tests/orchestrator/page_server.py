"""A real server of the pages, the console and the API's document, with a fleet the test moves."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import uvicorn
from starlette.types import Receive, Scope, Send

from orchestrator.api import openapi
from orchestrator.api.endpoints import ENDPOINTS
from orchestrator.api.numbers import Numbers
from orchestrator.clock import Clock
from orchestrator.console.app import build_console
from orchestrator.settings import Settings
from orchestrator.transport.headers import HostCheck
from orchestrator.transport.origins import Origins
from orchestrator.transport.pages import build_pages
from tests.orchestrator.page_desk import FakeEngine, open_desk
from tests.orchestrator.page_fakes import FakeFleet, FakeSignIn
from tests.servers import running

REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass
class Served:
    """A running server. ``requests`` are the paths asked for, in order."""

    url: str
    fleet: FakeFleet
    engine: FakeEngine
    sign_in: FakeSignIn
    shutdown: asyncio.Event
    server: uvicorn.Server
    requests: list[str] = field(default_factory=list)
    stopped: asyncio.Event = field(default_factory=asyncio.Event)

    def link(self, token: str = "link-1") -> str:
        self.sign_in.links.add(token)
        return f"{self.url}/console/sign-in?token={token}"


@contextlib.asynccontextmanager
async def serve(
    *, build_dir: Path, static_dir: Path = REPOSITORY / "static", fleet: FakeFleet | None = None,
    interval_s: float = 0.05, port: int = 0,
) -> AsyncIterator[Served]:  # fmt: skip
    """Serve until the block ends; every open stream must have ended by then."""
    fleet, sign_in, shutdown = fleet or FakeFleet(), FakeSignIn(), asyncio.Event()
    settings = Settings(build_dir=build_dir, static_dir=static_dir)
    clock = Clock()
    with (
        tempfile.TemporaryDirectory() as folder,
        open_desk(Path(folder), fleet, clock) as (engine, control),
    ):
        console = build_console(
            settings, sign_in=sign_in, fleet_source=fleet.snapshot, control=control, clock=clock,
            shutdown=shutdown, stream_interval_s=interval_s,
        )  # fmt: skip
        pages = build_pages(
            settings, totals_source=fleet.counted, signed_in=console.signed_in, clock=clock
        )
        document = openapi.Document(ENDPOINTS, url=settings.url, number=Numbers(clock.wall).next)
        requests: list[str] = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "http":
                requests.append(scope["path"])
            path = str(scope.get("path", ""))
            if path in openapi.PATHS:
                await document(scope, receive, send)
            else:
                await (console if path.startswith("/console/") else pages)(scope, receive, send)

        config = uvicorn.Config(
            HostCheck(app, origins=Origins.of(settings)),
            interface="asgi3", log_level="warning", access_log=False, lifespan="off", ws="none",
        )  # fmt: skip
        server = uvicorn.Server(config)
        # Listening before the server runs: the first request waits in the kernel.
        listener = socket.create_server(("127.0.0.1", port))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        served = Served(url, fleet, engine, sign_in, shutdown, server, requests)
        async with running(server, listener) as serving:
            serving.add_done_callback(lambda _: served.stopped.set())
            try:
                yield served
            finally:
                shutdown.set()
