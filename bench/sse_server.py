"""What streams, in a process of its own: our chat route, or Starlette's way of writing the same.

python -m bench.sse_server ours DIR EVENTS     our API, with an engine in place of the nodes
python -m bench.sse_server starlette DIR EVENTS
    prints its port and an API key, then serves until it is told to end
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from pathlib import Path
from typing import Final

import uvicorn
import uvloop
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from bench.fuzz_valid import SUMMARY
from browser_node.protocol import NodeId
from orchestrator.api import build_api
from orchestrator.clock import Clock
from orchestrator.domain.fleet import DecisionRow
from orchestrator.domain.model import Answered, NewJob
from orchestrator.settings import Settings
from orchestrator.storage import keys
from orchestrator.storage.catalogue import load_catalogue
from orchestrator.storage.database import open_database
from orchestrator.storage.keyring import Keyring
from orchestrator.storage.objects import open_objects
from orchestrator.storage.request_log import RequestLog
from orchestrator.storage.writer import Writer
from orchestrator.transport import listen

PIECE: Final = "harbour "


class Saying:
    """An engine that says the same word ``count`` times, letting all others have a turn between."""

    def __init__(self, count: int) -> None:
        self._count = count

    async def stream(self, job: NewJob) -> AsyncGenerator[str | Answered]:
        for _ in range(self._count):
            yield PIECE
            await asyncio.sleep(0)
        yield self._answered(job)

    async def answer(self, jobs: Sequence[NewJob]) -> list[Answered]:
        return [self._answered(job) for job in jobs]

    def decisions_of(self, number: str) -> list[DecisionRow]:
        """Return nothing: nothing is placed."""
        return []

    def _answered(self, job: NewJob) -> Answered:
        output = (PIECE * self._count).encode()
        return Answered(
            job_id=job.job_id,
            output=output,
            place="edge",
            node_id=NodeId("node_1"),
            attempts=1,
            compute_s=0.001,
        )


def ours(settings: Settings, count: int) -> tuple[ASGIApp, str]:
    """Return the API and a key of it."""
    database = open_database(settings.data_dir)
    pepper = keys.load_pepper(database)
    writer = Writer(database, queue_max=settings.log_queue_max, flush_s=settings.log_flush_s)
    keyring = Keyring(
        pepper,
        lambda digest: keys.find_key(database, digest),
        monotonic=Clock().monotonic,
        ttl_s=settings.key_cache_ttl_s,
        max_entries=settings.key_cache_max,
    )
    api = build_api(
        settings,
        database=database,
        objects=open_objects(settings),
        keys=keyring,
        catalogue=load_catalogue(settings.build_dir),
        engine=Saying(count),
        log=RequestLog(writer),
        clock=Clock(),
        ready=lambda: True,
        rng=random.Random(1),
        supply=lambda: 0,
    )
    key = keys.create_key(database, pepper, name="bench", now=Clock().wall())
    return api.app, key.api_key


def starlettes(count: int) -> ASGIApp:
    """Return an app that streams the same chunks as one would write them down."""

    async def chunks() -> AsyncIterator[str]:
        for _ in range(count):
            choice = {"index": 0, "delta": {"content": PIECE}, "finish_reason": None}
            chunk = {
                "id": "chatcmpl-1a1ff7d02653075c9414598a",
                "object": "chat.completion.chunk",
                "created": 1795287745,
                "model": SUMMARY,
                "choices": [{**choice, "logprobs": None}],
                "service_tier": "default",
                "system_fingerprint": None,
            }
            yield f"data: {json.dumps(chunk)}\n\n"
            await asyncio.sleep(0)
        yield "data: [DONE]\n\n"

    async def chat(request: Request) -> StreamingResponse:
        await request.json()
        return StreamingResponse(chunks(), media_type="text/event-stream")

    return Starlette(routes=[Route("/v1/chat/completions", chat, methods=["POST"])])


async def serve(kind: str, folder: Path, count: int) -> None:
    settings = Settings(host="127.0.0.1", port=0, data_dir=folder)
    with listen.bind(settings) as listener:
        app, key = ours(settings, count) if kind == "ours" else (starlettes(count), "none")
        # The very configuration of the orchestrator, signal handling apart.
        server = uvicorn.Server(listen.public_server(app, settings).config)
        print(listener.getsockname()[1], key, flush=True)
        await server.serve(sockets=[listener])


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])))
