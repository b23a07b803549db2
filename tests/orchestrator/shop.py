"""One API on a socket in a thread of its own, for clients that wait: SDKs and other programs."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.storage.keys import NewKey
from tests.orchestrator.fakes import Backend, backend_in, serving


@dataclass
class Shop:
    """The backend may be touched from its own loop only: `call`."""

    backend: Backend
    loop: asyncio.AbstractEventLoop
    url: str
    key: NewKey

    def call(self, function: Any, *arguments: object) -> None:
        self.loop.call_soon_threadsafe(function, *arguments)

    @property
    def api_key(self) -> str:
        return self.key.api_key

    @property
    def sdk_options(self) -> dict[str, Any]:
        """Return what an OpenAI client is made with, as the documentation says."""
        names = {"x-api-key": self.api_key, "x-project-id": self.key.project_id}
        return {
            "base_url": f"{self.url}/v1",
            "api_key": "unused",
            "default_headers": names,
            "max_retries": 0,
            "timeout": 30,
        }


@contextlib.contextmanager
def open_shop(folder: Path, **settings: object) -> Iterator[Shop]:
    """Serve until the block ends."""
    opened: Future[Shop] = Future()
    closing = asyncio.Event()

    async def serve() -> None:
        with backend_in(folder, **settings) as backend:
            key = backend.new_key()
            async with serving(backend) as url:
                opened.set_result(Shop(backend, asyncio.get_running_loop(), url, key))
                await closing.wait()

    def run() -> None:
        try:
            asyncio.run(serve())
        except BaseException as error:
            if opened.done():
                raise
            opened.set_exception(error)

    thread = threading.Thread(target=run, name="shop")
    thread.start()
    try:
        shop = opened.result(30)
        yield shop
    finally:
        if opened.done() and opened.exception() is None:
            opened.result().call(closing.set)
        thread.join(30)
