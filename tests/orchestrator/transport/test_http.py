"""Connections that would never end, and those that must not be ended, over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
import socket
from collections.abc import Iterator
from typing import Final

import pytest
import websockets

from orchestrator.settings import Settings
from orchestrator.transport.bounds import IDLE_S
from orchestrator.transport.http import LOOK_EVERY_S
from orchestrator.transport.listen import bind
from tests.orchestrator.transport.talkers import client, stage

SOON_S: Final = 0.2
ASK: Final = b"GET /echo HTTP/1.1\r\nhost: x\r\n\r\n"


def error(answered: tuple[bytes, bytes]) -> tuple[bytes, str]:
    """Return the status and code of a refusal, having checked its form."""
    head, body = answered
    assert b"\r\nconnection: close" in head
    assert b"\r\nx-request-id: req_" in head
    told = json.loads(body)["error"]
    assert told["message"].endswith(".")
    return head.split(b" ")[1], told["code"]


# ── heads ────────────────────────────────────────────────────────────────────────────────────────


async def test_a_connection_that_asks_nothing_is_closed_without_a_word() -> None:
    async with stage(headers_timeout_s=SOON_S) as at, client(at) as idle:
        assert await idle.ended()
        assert at.paths == []


@pytest.mark.parametrize("piece", [b"x-a: b\r\n", b"y", b"\r\n"])
async def test_a_head_that_comes_too_slowly_is_given_up(piece: bytes) -> None:
    async with stage(headers_timeout_s=SOON_S) as at, client(at) as slow:
        if piece != b"\r\n":
            await slow.send(b"GET /echo HTTP/1.1\r\nhost: x\r\nx-")
        dripping = asyncio.create_task(slow.drip(piece))
        if piece != b"\r\n":
            assert error(await slow.answer()) == (b"408", "request_timeout")
        assert await slow.ended()
        await dripping
        assert at.paths == []


async def test_a_second_head_on_a_connection_has_no_longer_than_the_first() -> None:
    async with stage(headers_timeout_s=SOON_S) as at, client(at) as slow:
        await slow.send(ASK)
        await slow.answer()
        await slow.send(b"GET /echo HTTP/1.1\r\n")

        assert error(await slow.answer()) == (b"408", "request_timeout")
        assert await slow.ended()


async def test_an_empty_line_after_an_answer_does_not_keep_the_connection() -> None:
    async with stage(idle_s=SOON_S) as at, client(at) as slow:
        await slow.send(ASK)
        await slow.answer()
        await slow.send(b"\r\n")

        assert await slow.ended()


@pytest.mark.parametrize(
    ("start", "piece"),
    [
        (b"GET /", b"a" * 500),
        (b"GET / HTTP/1.1\r\n", b"x-a: b\r\n" * 60),
        (b"GET / HTTP/1.1\r\nx-a: ", b"b" * 500),
        (b"GET / HTTP/1.1\r\nx-a", b"a" * 500),
        (b"", b"\r\n" * 250),
        (b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\nx-a: ", b"b" * 500),
        (b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n1;", b"b" * 500),
    ],
)
async def test_heads_and_trailers_without_an_end_are_cut_off(start: bytes, piece: bytes) -> None:
    async with stage(headers_max_bytes=4096) as at, client(at) as endless:
        await endless.send(start)
        dripping = asyncio.create_task(endless.drip(piece, every_s=0))

        assert error(await endless.answer()) == (b"431", "headers_too_large")
        assert await endless.ended()
        await dripping


async def test_who_sends_far_too_much_before_reading_can_still_read_why_it_was_refused() -> None:
    async with stage() as at, client(at) as greedy:
        await greedy.send(b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 1_500_000)

        assert error(await greedy.answer()) == (b"431", "headers_too_large")


async def test_ten_thousand_headers_are_refused_and_the_allowed_number_is_not() -> None:
    async with stage(headers_max_bytes=1 << 20) as at:
        async with client(at) as many:
            await many.send(b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 10_000 + b"\r\n")
            refused = await many.answer()
        async with client(at) as allowed:
            await allowed.send(b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 100 + b"\r\n")
            head, _ = await allowed.answer()

    assert error(refused) == (b"431", "headers_too_large")
    assert b"10,000 header fields" in refused[1]
    assert head.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("upgrade", [b"", b"connection: upgrade\r\nupgrade: websocket\r\n"])
async def test_two_hosts_are_refused_whichever_of_them_is_ours(upgrade: bytes) -> None:
    async with stage() as at, client(at) as torn:
        await torn.send(b"GET /echo HTTP/1.1\r\nhost: x\r\n" + upgrade + b"Host: y\r\n\r\n")

        answered = await torn.answer()
        assert error(answered)[0] == b"400"
        assert b"more than one Host" in answered[1]
        assert await torn.ended()
        assert at.paths == []


async def test_a_long_head_is_refused_whether_it_comes_in_one_piece_or_in_two() -> None:
    long = b"GET /%s HTTP/1.1\r\nx: %s\r\n\r\n" % (b"a" * 20_000, b"b" * 20_000)
    async with stage() as at:
        async with client(at) as whole:
            await whole.send(long)
            at_once = await whole.answer()
        async with client(at) as halves:
            await halves.send(long[:30_000])
            # Not a wait for anything: two pieces on the wire instead of one.
            await asyncio.sleep(0.05)
            await halves.send(long[30_000:])
            in_two = await halves.answer()
        async with client(at) as shorter:
            await shorter.send(long.replace(b"b" * 10_000, b""))
            fine, _ = await shorter.answer()
        assert len(at.paths) == 1

    assert error(at_once) == error(in_two) == (b"431", "headers_too_large")
    assert fine.startswith(b"HTTP/1.1 200")


async def test_heads_on_one_connection_are_not_counted_together() -> None:
    halves = b"GET /%s HTTP/1.1\r\nx: " % (b"a" * 1500), b"%s\r\n\r\n" % (b"b" * 1500)
    async with stage(headers_max_bytes=4096) as at, client(at) as steady:
        for _ in range(8):
            await steady.send(halves[0])
            await asyncio.sleep(0.02)  # a piece of its own on the wire
            await steady.send(halves[1])
            head, _ = await steady.answer()
            assert head.startswith(b"HTTP/1.1 200")


async def test_a_body_longer_than_any_head_is_none_of_its_bounds_business() -> None:
    body = b"z" * 3_000_000
    ask = b"POST /echo HTTP/1.1\r\ncontent-length: %d\r\n\r\n" % len(body)
    async with stage() as at, client(at) as long:
        for _ in range(2):
            await long.send(ask + body + ASK)
            assert (await long.answer())[1] == body
            assert (await long.answer())[1] == b""


async def test_what_is_not_http_is_told_so_in_json() -> None:
    async with stage() as at, client(at) as confused:
        await confused.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")

        assert error(await confused.answer()) == (b"400", "invalid_request_error")
        assert await confused.ended()


@pytest.mark.parametrize(
    "refused",
    [
        b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 200,
        b"GET http://[/ HTTP/1.1\r\n",
        b"CONNECT example.org:443 HTTP/1.1\r\n",
    ],
)
async def test_a_refusal_is_not_said_in_place_of_an_answer_that_is_owed(refused: bytes) -> None:
    async with stage() as at, client(at) as ahead:
        await ahead.send(b"GET /wait HTTP/1.1\r\n\r\n" + refused + b"\r\n")
        at.released.set()
        head, body = await ahead.answer()

        assert (b"connection: close" in head, body) == (True, b"waited")
        assert await ahead.ended()


# ── bodies ───────────────────────────────────────────────────────────────────────────────────────


async def test_a_body_that_stops_half_way_ends_and_the_application_hears_of_it() -> None:
    async with stage(idle_s=SOON_S) as at, client(at) as half:
        await half.send(b"POST /echo HTTP/1.1\r\ncontent-length: 100\r\n\r\n{")

        assert error(await half.answer()) == (b"408", "request_timeout")
        assert await half.ended()
        await at.gone.wait()


async def test_an_application_that_answers_late_is_not_heard_after_a_refusal(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with stage(idle_s=SOON_S) as at, client(at) as half:
        await half.send(b"POST /wait HTTP/1.1\r\ncontent-length: 100\r\n\r\n{")
        assert error(await half.answer()) == (b"408", "request_timeout")
        at.released.set()

        assert await half.ended()
    # It was told in time that nobody listens: nothing went wrong.
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


async def test_a_body_that_drips_ends_too() -> None:
    async with stage(idle_s=SOON_S) as at, client(at) as drop:
        await drop.send(b"POST /echo HTTP/1.1\r\ncontent-length: 1000000\r\n\r\n{")
        dripping = asyncio.create_task(drop.drip(b" "))

        assert error(await drop.answer()) == (b"408", "request_timeout")
        assert await drop.ended()
        await dripping


async def test_what_is_left_of_a_body_after_its_answer_is_not_read_for_ever() -> None:
    async with stage(idle_s=SOON_S) as at, client(at) as late:
        await late.send(b"POST /early HTTP/1.1\r\ncontent-length: 1000000\r\n\r\n{")
        assert (await late.answer())[1] == b"early"
        dripping = asyncio.create_task(late.drip(b" "))

        assert await late.ended()
        await dripping


# ── readers ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("path", [b"/endless", b"/big"])
async def test_a_reader_that_stops_is_cut_off_and_the_application_hears_of_it(path: bytes) -> None:
    async with stage(idle_s=SOON_S) as at, client(at, receive_bytes=4096) as deaf:
        await deaf.send(b"GET %s HTTP/1.1\r\n\r\n" % path)
        await deaf.reader.readexactly(100)

        await at.gone.wait()


async def test_an_answer_that_is_broken_off_ends_its_connection_and_is_no_error_of_ours(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with stage() as at, client(at) as reader:
        await reader.send(b"GET /broken HTTP/1.1\r\nhost: x\r\n\r\n")
        whole = await reader.reader.read()

    assert whole.endswith(b"\r\n\r\nhalf")
    assert caplog.records == []


async def test_a_slow_reader_that_goes_on_gets_all_of_it() -> None:
    async with stage(idle_s=0.5) as at, client(at, receive_bytes=65_536) as slow:
        await slow.send(b"GET /big HTTP/1.1\r\n\r\n")
        head = await slow.reader.readuntil(b"\r\n\r\n")
        left = 32 << 20
        while left:
            piece = await slow.reader.readexactly(min(left, 1 << 20))
            left -= len(piece)
            await asyncio.sleep(0.03)  # the pace of this reader

    assert head.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    ("path", "read_bytes", "times"),
    # A megabyte at once takes this reader longer than the time in which nothing may be read.
    [(b"/endless", 256 << 10, 40), (b"/endless-file", 64 << 10, 60)],
)
async def test_a_slow_reader_of_a_stream_without_an_end_is_not_taken_for_one_that_stopped(
    path: bytes, read_bytes: int, times: int
) -> None:
    async with stage(idle_s=0.3) as at, client(at, receive_bytes=65_536) as slow:
        await slow.send(b"GET %s HTTP/1.1\r\n\r\n" % path)
        for _ in range(times):
            await slow.reader.readexactly(read_bytes)
            await asyncio.sleep(0.03)  # the pace of this reader

        assert not at.gone.is_set()


def test_the_system_gives_up_no_reader_before_we_do() -> None:
    with bind(Settings(host="127.0.0.1", port=0)) as listener:
        given_ms = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)

    # It counts the time in which a peer's window is shut, whatever the peer acknowledges.
    assert given_ms > 1000 * (IDLE_S + LOOK_EVERY_S)


# ── others ───────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def many_descriptors() -> Iterator[int]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4096 if hard == resource.RLIM_INFINITY else min(4096, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    yield min(1000, (wanted - 500) // 2)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_a_thousand_idle_connections_keep_nobody_waiting_and_all_end(
    many_descriptors: int,
) -> None:
    async with stage(headers_timeout_s=3.0) as at, contextlib.AsyncExitStack() as stack:
        idle = [await stack.enter_async_context(client(at)) for _ in range(many_descriptors)]
        other = await stack.enter_async_context(client(at))
        await other.send(b"POST /echo HTTP/1.1\r\ncontent-length: 2\r\n\r\nhi")

        assert (await other.answer())[1] == b"hi"
        assert all(not one.reader.at_eof() for one in idle)
        assert all(await asyncio.gather(*(one.ended() for one in idle)))


async def test_a_connection_between_two_requests_may_wait() -> None:
    async with stage(headers_timeout_s=SOON_S) as at, client(at) as kept, client(at) as silent:
        await kept.send(ASK)
        await kept.answer()
        assert await silent.ended()
        await kept.send(ASK)

        assert (await kept.answer())[0].startswith(b"HTTP/1.1 200")


async def test_a_connection_that_asks_nothing_more_is_closed_and_one_that_does_is_not() -> None:
    async with (
        stage(headers_timeout_s=SOON_S, keep_alive_s=2 * SOON_S) as at,
        client(at) as kept,
        client(at) as busy,
    ):
        await kept.send(ASK)
        await kept.answer()
        left = asyncio.create_task(kept.ended())
        while not left.done():
            await busy.send(ASK)
            await busy.answer()
            await asyncio.sleep(SOON_S / 4)  # the pace of this client

        assert left.result()
        assert not busy.reader.at_eof()


async def test_an_answer_may_take_longer_than_its_head() -> None:
    async with stage(headers_timeout_s=SOON_S) as at, client(at) as asking, client(at) as silent:
        await asking.send(b"GET /wait HTTP/1.1\r\n\r\n")
        assert await silent.ended()
        at.released.set()

        assert (await asking.answer())[1] == b"waited"


async def test_a_websocket_outlives_the_bounds_of_its_head() -> None:
    async with (
        stage(headers_timeout_s=SOON_S, idle_s=SOON_S) as at,
        client(at) as silent,
        websockets.connect(f"ws://127.0.0.1:{at.port}/ws") as node,
    ):
        assert await silent.ended()
        await node.send("still here")

        assert await node.recv() == "still here"


async def test_a_websocket_handshake_has_the_same_bounds() -> None:
    async with stage() as at, client(at) as greedy:
        await greedy.send(
            b"GET /ws HTTP/1.1\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
            + b"x: y\r\n" * 200
            + b"\r\n"
        )

        assert error(await greedy.answer()) == (b"431", "headers_too_large")
