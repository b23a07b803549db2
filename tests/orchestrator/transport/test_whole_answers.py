"""Answers sent in one step: the same on the wire as those sent in two, and refused for the same."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
from collections.abc import AsyncIterator, Sequence
from typing import Final

import pytest
from starlette.types import Receive, Scope, Send

from orchestrator.api.asgi import send_body
from orchestrator.settings import Settings
from orchestrator.transport.cycle import WHOLE_ANSWER
from orchestrator.transport.listen import public_server
from tests.servers import running

Header = tuple[bytes, bytes]

PLAIN: Final[Sequence[Header]] = [(b"x-request-id", b"req_1"), (b"retry-after", b"1")]
LINES: Final = b"x-more: 1\r\nx-last: a: b\r\n"
BODY: Final = b'{"status":"ok"}'
CLOSE: Final = b"connection: close\r\n"
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


class Answering:
    """An app with one answer for everybody, sent in one step or, ``in_two``, in plain ASGI."""

    def __init__(
        self, status: int, headers: Sequence[Header], body: bytes, *, in_two: bool
    ) -> None:
        self._answer = (status, body, headers)
        self._in_two = in_two

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive()).get("more_body"):
            pass
        assert WHOLE_ANSWER in scope["extensions"]
        scope_ = None if self._in_two else scope
        await send_body(send, *self._answer, lines=LINES, scope=scope_)


@contextlib.asynccontextmanager
async def serving(app: Answering) -> AsyncIterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        async with running(public_server(app, Settings.from_env({})), listener):
            yield listener.getsockname()[1]


async def heard(app: Answering, asked: bytes) -> bytes:
    """Ask and return all that comes until the server closes, but for the time."""
    async with serving(app) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(asked)
        answered = await asyncio.wait_for(reader.read(), 10)
        writer.close()
        await writer.wait_closed()
    return re.sub(rb"\r\ndate: [^\r]+", b"\r\ndate: now", answered)


async def heard_both_ways(
    asked: bytes, *, status: int = 200, headers: Sequence[Header] = PLAIN
) -> tuple[bytes, bytes]:
    return (
        await heard(Answering(status, headers, BODY, in_two=False), asked),
        await heard(Answering(status, headers, BODY, in_two=True), asked),
    )


def parts(answered: bytes) -> tuple[bytes, list[bytes], bytes]:
    """Return an answer up to its status line, its headers in any order, and its body."""
    before = CONTINUE if answered.startswith(CONTINUE) else b""
    head, _, rest = answered.removeprefix(before).partition(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    return before + first, sorted(lines), rest


def asking(method: bytes = b"GET", version: bytes = b"1.1", more: bytes = CLOSE) -> bytes:
    return b"%s / HTTP/%s\r\nhost: x\r\n%s\r\n" % (method, version, more)


@pytest.mark.parametrize("status", [200, 404, 503])
@pytest.mark.parametrize(
    "asked",
    [
        asking(),
        asking(b"HEAD"),
        asking(version=b"1.0", more=b""),
        asking(b"POST", more=b"content-length: 2\r\n" + CLOSE) + b"hi",
        asking(b"POST", more=b"expect: 100-continue\r\ncontent-length: 2\r\n" + CLOSE) + b"hi",
    ],
)
async def test_an_answer_in_one_step_is_the_answer_in_two(asked: bytes, status: int) -> None:
    one, two = await heard_both_ways(asked, status=status)

    assert parts(one) == parts(two)
    assert {b"x-request-id: req_1", b"x-more: 1", b"x-last: a: b"} < set(parts(one)[1])
    assert b"connection: close" in one
    assert b"HTTP/1.1 %d " % status in one


async def test_answers_to_requests_sent_ahead_are_whole_and_in_order() -> None:
    one, two = await heard_both_ways(asking(more=b"") * 2 + asking())

    assert one.count(b"HTTP/1.1 200 OK\r\n") == two.count(b"HTTP/1.1 200 OK\r\n") == 3
    assert one.count(BODY) == 3
    # Only the last of them ends the connection.
    assert one.count(b"connection: close") == 1


@pytest.mark.parametrize("control", [b"\r", b"\n", b"\0", b"\x7f", b"\r\nset-cookie: a=b"])
async def test_a_header_cannot_be_smuggled_into_an_answer(control: bytes) -> None:
    for headers in ([(b"x-a", b"b" + control)], [(b"x-a" + control, b"b")]):
        assert await heard_both_ways(asking(), headers=headers) == (b"", b"")


@pytest.mark.parametrize(
    "odd",
    [
        (b"x-a", b"tab\tand \xe9"),
        (b"X-Loud", b"is said softly"),
        (b"connection", b"close"),
        (b"content-language", b""),
    ],
)
async def test_odd_headers_are_sent_as_they_were(odd: Header) -> None:
    one, two = await heard_both_ways(asking(), headers=[*PLAIN, odd])

    assert parts(one) == parts(two)
    assert b"\r\n%s: %s\r\n" % (odd[0].lower(), odd[1]) in one


async def test_a_second_answer_to_one_request_is_not_sent() -> None:
    class Twice(Answering):
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            await super().__call__(scope, receive, send)
            await super().__call__(scope, receive, send)

    answered = await heard(Twice(200, PLAIN, BODY, in_two=False), asking(more=b""))

    assert answered.count(b"HTTP/1.1") == 1
