"""The peer: a bare Starlette JSON echo on uvicorn as it comes, without its access log.

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
        config = uvicorn.Config(
            app, loop="uvloop", http="httptools", access_log=False, log_level="warning"
        )
        server = uvicorn.Server(config)
        print(listener.getsockname()[1], flush=True)
        await server.serve(sockets=[listener])


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve())
