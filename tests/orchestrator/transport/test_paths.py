"""Which app is asked for a path."""

from __future__ import annotations

import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from orchestrator.transport.paths import Paths


def app(name: str) -> ASGIApp:
    """Return an app that says its name."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "named", "name": name})

    return answer


PATHS = Paths(
    {"/v1/files": app("files"), "/metrics": app("metrics")},
    prefixes=(("/v1/", app("api")), ("/console/", app("console"))),
    other=app("pages"),
    sockets={"/nodes": app("nodes")},
)


async def asked(kind: str, path: str) -> Message:
    sent: list[Message] = []

    async def receive() -> Message:
        raise AssertionError("nobody reads")

    async def send(message: Message) -> None:
        sent.append(message)

    await PATHS({"type": kind, "path": path}, receive, send)
    [message] = sent
    return message


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/v1/files", "files"),
        ("/v1/files/x", "api"),
        ("/v1/", "api"),
        ("/v1", "pages"),
        ("/metrics", "metrics"),
        ("/metrics/", "pages"),
        ("/console/fleet", "console"),
        ("/", "pages"),
        ("", "pages"),
        ("/nodes", "pages"),
    ],
)
async def test_a_request_goes_by_its_whole_path_and_then_by_how_it_begins(
    path: str, name: str
) -> None:
    assert await asked("http", path) == {"type": "named", "name": name}


async def test_a_socket_goes_by_its_whole_path_and_any_other_is_closed() -> None:
    assert await asked("websocket", "/nodes") == {"type": "named", "name": "nodes"}
    assert await asked("websocket", "/v1/files") == {"type": "websocket.close", "code": 4404}
