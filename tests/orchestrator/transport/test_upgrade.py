"""Requests that ask for another protocol: read as if they had not, but for a WebSocket's."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Final

import pytest
import websockets
from websockets.http11 import MAX_LINE_LENGTH, MAX_NUM_HEADERS

from orchestrator.transport.http import PIPELINE_MAX
from tests.orchestrator.transport.talkers import Client, client, stage

# What `curl --http2` sends.
H2C: Final = b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\n"
POST: Final = b"POST /echo HTTP/1.1\r\nhost: x\r\n" + H2C
SIZED: Final = POST + b"content-length: 9\r\n\r\nfirst one"
CHUNKED: Final = (
    POST + b"transfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n4\r\n one\r\n0\r\nx: y\r\n\r\n"
)
EMPTY: Final = b"GET /echo HTTP/1.1\r\nhost: x\r\n" + H2C + b"\r\n"
SECOND: Final = b"POST /echo HTTP/1.1\r\ncontent-length: 6\r\n\r\nsecond"
HANDSHAKE: Final = (
    b"GET /ws HTTP/1.1\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
    b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
# A masked text frame, "hi", with a mask of zeros.
FRAME: Final = b"\x81\x82\x00\x00\x00\x00hi"


async def said(talker: Client) -> bytes:
    """Return the body of the next answer, which must be 200."""
    head, body = await talker.answer()
    assert head.startswith(b"HTTP/1.1 200"), (head, body)
    return body


async def refusal(talker: Client) -> tuple[bytes, str]:
    head, body = await talker.answer()
    return head.split(b" ")[1], json.loads(body)["error"]["message"]


@pytest.mark.parametrize(
    ("ask", "body"), [(SIZED, b"first one"), (CHUNKED, b"first one"), (EMPTY, b"")]
)
@pytest.mark.parametrize("cut", ["nowhere", "line", "head", "headers", "body", "end"])
async def test_an_upgrade_not_taken_costs_a_request_nothing(
    ask: bytes, body: bytes, cut: str
) -> None:
    place = {
        "nowhere": 0,
        "line": 7,
        "head": ask.index(b"h2c") + 1,
        "headers": ask.index(b"\r\n\r\n") + 4,
        "body": min(ask.index(b"\r\n\r\n") + 7, len(ask)),
        "end": len(ask),
    }[cut]
    both = ask + SECOND
    async with stage() as at, client(at) as modern:
        for _ in range(2):
            await modern.send(both[:place])
            # Not a wait for anything: two pieces on the wire instead of one.
            await asyncio.sleep(0.02)
            await modern.send(both[place:])

            assert [await said(modern), await said(modern)] == [body, b"second"]
        assert at.paths == ["/echo"] * 4


async def test_a_long_body_behind_an_upgrade_not_taken_comes_whole() -> None:
    body = bytes(range(256)) * 8192
    async with stage() as at, client(at) as modern:
        await modern.send(POST + b"content-length: %d\r\n\r\n" % len(body) + body + SECOND)

        assert await said(modern) == body
        assert await said(modern) == b"second"


async def test_who_asks_for_an_upgrade_may_wait_to_be_told_to_go_on() -> None:
    async with stage() as at, client(at) as careful:
        await careful.send(POST + b"content-length: 4\r\nexpect: 100-continue\r\n\r\n")
        assert await careful.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await careful.send(b"body" + SECOND)

        assert [await said(careful), await said(careful)] == [b"body", b"second"]


async def test_many_that_ask_for_an_upgrade_are_answered_in_order_and_bounded_in_number() -> None:
    numbered = [POST + b"content-length: 3\r\n\r\n%03d" % n for n in range(PIPELINE_MAX)]
    async with stage() as at:
        async with client(at) as ahead:
            await ahead.send(b"GET /wait HTTP/1.1\r\n\r\n" + b"".join(numbered))
            at.released.set()
            bodies = [await said(ahead) for _ in range(PIPELINE_MAX + 1)]
        at.released.clear()
        async with client(at) as flooding:
            await flooding.send(b"GET /wait HTTP/1.1\r\n\r\n" + EMPTY * (PIPELINE_MAX + 2))
            at.released.set()
            answers = await flooding.reader.read()

    assert answers.count(b"HTTP/1.1 200 OK") == PIPELINE_MAX + 1
    assert bodies == [b"waited"] + [b"%03d" % n for n in range(PIPELINE_MAX)]


async def test_what_follows_a_last_request_does_not_cost_it_its_answer() -> None:
    async with stage() as at, client(at) as leaving:
        await leaving.send(SIZED.replace(b"Upgrade,", b"Upgrade, close,") + SECOND)

        assert await said(leaving) == b"first one"
        assert await leaving.ended()


async def test_a_request_within_a_body_is_not_one() -> None:
    hidden = b"GET /hidden HTTP/1.1\r\nhost: x\r\n\r\n"
    async with stage() as at, client(at) as sly:
        await sly.send(POST + b"content-length: %d\r\n\r\n" % len(hidden) + hidden + SECOND)
        await sly.send(POST + b"transfer-encoding: chunked\r\n\r\n%x\r\n" % len(hidden) + hidden)
        await sly.send(b"\r\n0\r\n\r\n")

        assert [await said(sly) for _ in range(3)] == [hidden, b"second", hidden]
        assert at.paths == ["/echo"] * 3


@pytest.mark.parametrize(
    "framing",
    [
        b"content-length: 4\r\ntransfer-encoding: chunked\r\n",
        b"content-length: 4\r\ncontent-length: 5\r\n",
        b"content-length: 4, 4\r\n",
        b"transfer-encoding: chunked, gzip\r\n",
        b"transfer-encoding: gzip\r\n",
        b"content-length: -1\r\n",
    ],
)
@pytest.mark.parametrize("wish", [H2C, b"connection: upgrade\r\nupgrade: websocket\r\n"])
async def test_a_body_whose_end_is_in_doubt_is_refused(framing: bytes, wish: bytes) -> None:
    async with stage() as at, client(at) as sly:
        await sly.send(b"POST /echo HTTP/1.1\r\n" + wish + framing + b"\r\n0\r\n\r\n" + EMPTY)

        assert (await refusal(sly))[0] == b"400"
        assert await sly.ended()


async def test_a_body_that_stops_behind_an_upgrade_ends_too() -> None:
    async with stage(idle_s=0.2) as at, client(at) as half:
        await half.send(POST + b"content-length: 100\r\n\r\n{")

        assert (await refusal(half))[0] == b"408"
        assert await half.ended()
        await at.gone.wait()


async def test_a_head_behind_an_upgrade_has_the_same_bounds() -> None:
    async with stage(headers_max_bytes=4096) as at, client(at) as endless:
        await endless.send(EMPTY + b"GET / HTTP/1.1\r\nx: ")
        assert await said(endless) == b""
        dripping = asyncio.create_task(endless.drip(b"b" * 500, every_s=0))

        assert (await refusal(endless))[0] == b"431"
        assert await endless.ended()
        await dripping


@pytest.mark.parametrize("wish", [b"", H2C])
async def test_a_connection_to_elsewhere_is_refused(wish: bytes) -> None:
    async with stage() as at, client(at) as lost:
        await lost.send(b"CONNECT example.org:443 HTTP/1.1\r\nhost: x\r\n" + wish + b"\r\n")

        assert await refusal(lost) == (
            b"400",
            "CONNECT is not answered: this server is not a proxy.",
        )
        assert await lost.ended()


# ── WebSockets ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("part", "instead"),
    [
        (b"GET", b"POST"),
        (b"HTTP/1.1", b"HTTP/1.0"),
        (b"upgrade: websocket", b"upgrade: h2c, websocket"),
        (b"upgrade: websocket", b"upgrade: h2c\r\nupgrade: websocket"),
        (b"upgrade: websocket", b"upgrade: websocket\r\nupgrade: h2c"),
        (b"sec-websocket-version: 13\r\n", b""),
        (b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n", b""),
        (b"bXBsZSBub25jZQ==", b"bXBsZQ=="),
        (b"version: 13", b"version: 8"),
    ],
)
async def test_what_opens_no_websocket_is_an_ordinary_request(part: bytes, instead: bytes) -> None:
    ask = HANDSHAKE.replace(part, instead).removesuffix(b"\r\n")
    async with stage() as at, client(at) as curious:
        await curious.send(ask + b"content-length: 0\r\n\r\n")

        assert await said(curious) == b""


@pytest.mark.parametrize(
    ("framing", "body"),
    [
        (b"content-length: 8\r\n\r\n", FRAME),
        (b"transfer-encoding: chunked\r\n\r\n", b"8\r\n" + FRAME + b"\r\n0\r\n\r\n"),
    ],
)
async def test_a_handshake_with_a_body_opens_no_websocket(framing: bytes, body: bytes) -> None:
    async with stage() as at, client(at) as odd:
        await odd.send(HANDSHAKE.removesuffix(b"\r\n") + framing + body + SECOND)

        assert [await said(odd), await said(odd)] == [FRAME, b"second"]


def with_a_field(bytes_long: int) -> bytes:
    """Return a handshake with a field whose line is so long, its end included."""
    return HANDSHAKE.removesuffix(b"\r\n") + b"x: %s\r\n\r\n" % (b"y" * (bytes_long - 5))


def with_a_request_line(bytes_long: int) -> bytes:
    rest = len(b"GET / HTTP/1.1\r\n")
    return HANDSHAKE.replace(b"/ws", b"/" + b"w" * (bytes_long - rest))


def with_fields(count: int) -> bytes:
    return HANDSHAKE.removesuffix(b"\r\n") + b"x: y\r\n" * (count - 4) + b"\r\n"


@pytest.mark.parametrize(
    ("of_size", "most"),
    [
        (with_a_field, MAX_LINE_LENGTH),
        (with_a_request_line, MAX_LINE_LENGTH),
        (with_fields, MAX_NUM_HEADERS),
    ],
)
async def test_a_handshake_too_long_for_a_websocket_is_answered_all_the_same(
    of_size: Callable[[int], bytes], most: int
) -> None:
    async with stage(headers_max=1000) as at:
        async with client(at) as fitting:
            await fitting.send(of_size(most))
            assert (await fitting.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101")
        async with client(at) as longer:
            await longer.send(of_size(most + 1))
            assert await said(longer) == b""


async def test_a_handshake_behind_an_answer_that_is_owed_is_answered_in_its_turn() -> None:
    async with stage() as at, client(at) as hasty:
        await hasty.send(b"GET /wait HTTP/1.1\r\n\r\n" + HANDSHAKE)
        at.released.set()

        assert [await said(hasty), await said(hasty)] == [b"waited", b""]


@pytest.mark.parametrize("before", [b"", SECOND, SIZED])
async def test_a_websocket_opens_on_a_connection_that_was_used_before(before: bytes) -> None:
    async with stage() as at, client(at) as kept:
        if before:
            await kept.send(before)
            await said(kept)
        await kept.send(HANDSHAKE)
        assert (await kept.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101")
        await kept.send(FRAME)

        assert await kept.reader.readexactly(4) == b"\x81\x02hi"


async def test_a_websocket_library_gets_in() -> None:
    async with stage() as at, websockets.connect(f"ws://127.0.0.1:{at.port}/ws") as node:
        await node.send("hello")

        assert await node.recv() == "hello"
