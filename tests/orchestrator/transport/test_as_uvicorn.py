"""Our connections beside uvicorn's own: the same bytes and application, the same answers."""

from __future__ import annotations

import asyncio
import gc
import re
import socket
from collections.abc import Sequence
from typing import Final

import pytest
from starlette.types import Message, Receive, Scope, Send
from websockets.server import ServerProtocol

from orchestrator.settings import Settings
from orchestrator.transport.cycle import Cycle
from orchestrator.transport.frames import FrameSocket
from orchestrator.transport.http import HttpConnection
from orchestrator.transport.listen import Server, private_server, public_server
from tests.orchestrator.transport.talkers import client, stage
from tests.servers import running

# What is as it is by intention: ours have an extension.
COMPARED: Final = (
    "type", "asgi", "http_version", "method", "scheme", "root_path", "path", "raw_path",
    "query_string", "headers", "state",
)  # fmt: skip
GET: Final = b"GET /a HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
HEAD: Final = GET.replace(b"GET", b"HEAD")
KEPT: Final = b"GET /kept HTTP/1.1\r\nhost: x\r\n\r\n"
SOCKET: Final = (
    b"GET %b HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
    b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


class Scripted:
    """An app that reads its request and sends ``script``; an exception in it is raised."""

    def __init__(self, script: Sequence[Message | Exception], *, reads: bool = True) -> None:
        self._script = script
        self._reads = reads
        self.seen: list[object] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.seen.append({name: scope[name] for name in COMPARED})
        body, more = b"", self._reads
        while more:
            message = await receive()
            body += message["body"]
            more = message["more_body"]
        self.seen.append(body)
        for part in self._script:
            if isinstance(part, Exception):
                raise part
            try:
                await send(dict(part))
            except Exception as error:
                self.seen.append(type(error))
                raise


def start(status: int = 200, *headers: tuple[bytes, bytes]) -> Message:
    return {"type": "http.response.start", "status": status, "headers": headers}


def body(piece: bytes = b"", *, more: bool = False) -> Message:
    return {"type": "http.response.body", "body": piece, "more_body": more}


LENGTH: Final = (b"content-length", b"4")
PLAIN: Final = (start(200, LENGTH), body(b"said"))


async def answered(server: Server, asked: bytes) -> bytes:
    """Ask and return all that comes until the server closes, but for the time."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        async with running(server, listener), asyncio.timeout(10):
            reader, writer = await asyncio.open_connection(*listener.getsockname())
            writer.write(asked)
            said = await reader.read()
            writer.close()
            await writer.wait_closed()
    return re.sub(rb"\r\ndate: [^\r]+", b"\r\ndate: now", said)


async def both(
    asked: bytes, script: Sequence[Message | Exception], *, reads: bool = True
) -> tuple[bytes, list[object]]:
    """Return what both answer and what both applications saw, having checked that it is one."""
    ours, theirs = Scripted(script, reads=reads), Scripted(script, reads=reads)
    said = await answered(public_server(ours, Settings.from_env({})), asked)

    assert said == await answered(private_server(theirs), asked)
    assert ours.seen == theirs.seen
    return said, ours.seen


@pytest.mark.parametrize(
    "asked",
    [
        GET,
        HEAD,
        KEPT + GET,
        KEPT * 3 + HEAD,
        b"\r\n" + GET,
        GET.replace(b"/a", b"/%C3%A9%2F?q=%20&&x"),
        GET.replace(b"/a", b"http://y/a?b"),
        GET.replace(b"host", b"HoSt").replace(b"close", b"foo , CLOSE"),
        GET.replace(b"host", b"x-a: 1\r\nX-A:2\r\nx-empty:\r\nhost"),
        b"POST / HTTP/1.1\r\ncontent-length: 2\r\n\r\nhi" + GET,
        b"POST / HTTP/1.1\r\nexpect: 100-Continue\r\ncontent-length: 2\r\n\r\nhi" + GET,
        b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n3;x\r\n ho\r\n0\r\n\r\n"
        + GET,
        b"POST / HTTP/1.1\r\ncontent-length: 200000\r\n\r\n" + b"x" * 200_000 + GET,
        b"GET / HTTP/1.0\r\n\r\n",
        b"POST / HTTP/1.0\r\ncontent-length: 2\r\n\r\nhi",
    ],
)
async def test_a_request_is_read_as_uvicorn_reads_it(asked: bytes) -> None:
    said, seen = await both(asked, PLAIN)

    assert said.count(b" 200 OK\r\n") == len(seen) // 2


@pytest.mark.parametrize("asked", [GET, HEAD, KEPT + GET])
@pytest.mark.parametrize(
    "script",
    [
        [start(), body()],
        [start(), body(b"one", more=True), body(more=True), body(b"two", more=True), body()],
        [start(200, LENGTH), body(b"sa", more=True), body(b"id")],
        [start(200, LENGTH, LENGTH), body(b"said")],
        [start(200, (b"Transfer-Encoding", b"Chunked")), body(b"said")],
        [start(200, (b"transfer-encoding", b"chunked"), LENGTH), body(b"said")],
        [start(200, (b"Connection", b"Close"), LENGTH), body(b"said")],
        [start(200, (b"connection", b"keep-alive"), LENGTH), body(b"said")],
        [start(200, (b"X-Loud", b"tab\t\xe9 ")), body(b"said")],
        [start(204), body()],
        [start(304), body()],
        [start(299), body(b"no phrase")],
        [{"type": "http.response.start", "status": 200}, {"type": "http.response.body"}],
    ],
)
async def test_an_answer_is_said_as_uvicorn_says_it(
    asked: bytes, script: Sequence[Message | Exception]
) -> None:
    said, _ = await both(asked, script)

    assert said.count(b"HTTP/1.1 ") >= 1


@pytest.mark.parametrize("reads", [True, False])
@pytest.mark.parametrize(
    "script",
    [
        [],
        [ValueError("before")],
        [start()],
        [start(), ValueError("after the head")],
        [start(), body(b"one", more=True), ValueError("in the middle")],
        [*PLAIN, ValueError("after all")],
        [*PLAIN, body()],
        [body()],
        [start(), start()],
        [start(200, LENGTH), body(b"too long")],
        [start(200, LENGTH), body(b"no")],
        [start(204), body(b"none may come")],
        [start(600), body()],
        [start(200, (b"x a", b"b")), body()],
        [start(200, (b"x-a", b"b\r\nset-cookie: c")), body()],
        [start(200, (b"content-length", b"many")), body()],
    ],
)
async def test_what_an_application_gets_wrong_ends_as_it_does_with_uvicorn(
    script: Sequence[Message | Exception], reads: bool
) -> None:
    await both(KEPT + GET, script, reads=reads)


async def test_who_leaves_with_requests_sent_ahead_is_missed_by_the_one_that_runs() -> None:
    async with stage() as at:
        async with client(at) as leaving:
            # uvicorn would tell the last one, which never runs.
            ask = b"POST /echo HTTP/1.1\r\ncontent-length: 9\r\n\r\n"
            await leaving.send(b"GET /endless HTTP/1.1\r\n\r\n" + ask)
            await leaving.reader.readexactly(100)
        await at.gone.wait()

    assert at.paths == ["/endless"]


def alive() -> list[object]:
    kinds = Cycle | HttpConnection | FrameSocket | ServerProtocol
    return [one for one in gc.get_objects() if isinstance(one, kinds)]


async def test_nothing_of_a_request_or_a_connection_is_left_to_the_collector() -> None:
    gc.collect()
    # Those of other tests that have failures in what was logged.
    before = alive()
    gc.disable()
    try:
        async with stage() as at:
            async with client(at) as kept:
                await kept.send(KEPT * 3)
                for _ in range(3):
                    await kept.answer()
                await kept.send(b"GET /broken HTTP/1.1\r\n\r\n" + KEPT)
                await kept.reader.read()
            async with client(at) as leaving:
                await leaving.send(b"GET /wait HTTP/1.1\r\n\r\n" + KEPT * 2)
            async with client(at) as refused:
                await refused.send(b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 10_000 + b"\r\n")
                await refused.reader.read()
            for path in (b"/", b"/closed"):
                async with client(at) as opening:
                    await opening.send(KEPT)
                    await opening.answer()
                    await opening.send(SOCKET % path)
                    await opening.reader.readuntil(b"\r\n\r\n")
            at.released.set()
        assert [one for one in alive() if one not in before] == []
    finally:
        gc.enable()
