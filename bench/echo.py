"""The peer: a bare Starlette JSON echo on the options that the orchestrator's own server has.

python -m bench.echo        prints its port, then serves until it is told to end
"""

from __future__ import annotations

import asyncio

import uvicorn
import uvloop
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from orchestrator.settings import Settings
from orchestrator.transport import listen


async def echo(request: Request) -> JSONResponse:
    return JSONResponse(await request.json())


async def serve() -> None:
    settings = Settings(host="127.0.0.1", port=0)
    with listen.bind(settings) as listener:
        app = Starlette(routes=[Route("/echo", echo, methods=["POST"])])
        # The very configuration of the orchestrator, signal handling apart.
        server = uvicorn.Server(listen.public_server(app, settings).config)
        print(listener.getsockname()[1], flush=True)
        await server.serve(sockets=[listener])


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve())
