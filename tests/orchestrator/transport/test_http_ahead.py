"""Requests sent ahead, and what comes where nobody looks for it: behind a body, a refusal."""

from __future__ import annotations

import asyncio
import socket
from typing import Final

import pytest
from starlette.types import Receive, Scope, Send

from orchestrator.settings import Settings
from orchestrator.transport.http import PIPELINE_FULL, PIPELINE_MAX, READ_PACE_BYTES
from orchestrator.transport.listen import public_server
from tests.orchestrator.transport.talkers import answer, client, stage, until
from tests.servers import running

ASK: Final = b"GET / HTTP/1.1\r\n\r\n"
WAIT: Final = b"GET /wait HTTP/1.1\r\n\r\n"
CHUNKED: Final = b"transfer-encoding: chunked\r\n\r\n"
SOCKET: Final = (
    b"GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
    b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


@pytest.mark.parametrize("ahead", [PIPELINE_FULL - 1, PIPELINE_FULL, PIPELINE_MAX])
async def test_requests_sent_ahead_are_answered_in_order(ahead: int) -> None:
    async with stage() as at, client(at) as eager:
        await eager.send(
            WAIT
            + b"".join(
                b"POST / HTTP/1.1\r\ncontent-length: 3\r\n\r\n%03d" % n for n in range(ahead)
            )
        )
        at.released.set()
        bodies = [(await eager.answer())[1] for _ in range(ahead + 1)]

    assert bodies == [b"waited"] + [b"%03d" % n for n in range(ahead)]


async def test_who_keeps_a_hundred_requests_ahead_is_answered_all_of_them() -> None:
    async with stage() as at, client(at) as eager:
        # Of whatever size the pieces are in which the system hands them over.
        for _ in range(5):
            await eager.send(ASK * 20)
        for _ in range(20):
            for _ in range(20):
                assert await eager.answer()
            await eager.send(ASK * 20)
        for _ in range(100):
            assert await eager.answer()


async def test_beyond_the_most_requests_ahead_the_first_are_answered_and_told_to_close() -> None:
    async with stage() as at, client(at) as flooding:
        await flooding.send(WAIT + ASK * (PIPELINE_MAX + 50))
        at.released.set()
        said = await flooding.reader.read()

    answers = said.split(b"HTTP/1.1 200 OK\r\n")[1:]
    assert len(answers) == PIPELINE_MAX + 1
    assert [b"connection: close" in one for one in answers] == [False] * PIPELINE_MAX + [True]
    assert at.paths == ["/wait"] + ["/"] * PIPELINE_MAX


async def test_large_bodies_ahead_wait_at_the_client_until_it_is_their_turn() -> None:
    posted = b"POST / HTTP/1.1\r\ncontent-length: 1000000\r\n\r\n" + b"x" * 1_000_000
    async with stage() as at, client(at) as eager:
        sending = asyncio.create_task(eager.send(WAIT + posted * 4))
        await until(lambda: any(one.wire.crowded for one in at.connections()))
        [connection] = at.connections()
        # Whoever else asks for more.
        connection.wire.resume_reading()
        assert connection.wire.read_paused
        at.released.set()
        bodies = [(await eager.answer())[1] for _ in range(5)]
        await sending

    assert [len(body) for body in bodies] == [6, *[1_000_000] * 4]


async def test_who_leaves_is_noticed_though_another_request_of_his_waits() -> None:
    async with stage() as at:
        async with client(at) as leaving:
            await leaving.send(b"GET /listen HTTP/1.1\r\n\r\n" + ASK)
        await at.gone.wait()

    assert at.paths == ["/listen"]


async def test_trailers_are_nobodys_headers() -> None:
    seen: list[list[tuple[bytes, bytes]]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive())["more_body"]:
            pass
        seen.append(scope["headers"])
        await answer(send, b"")

    trailers = b"authorization: other\r\nhost: other\r\n" + b"x: y\r\n" * 5_000
    with socket.create_server(("127.0.0.1", 0)) as listener:
        async with running(public_server(app, Settings.from_env({})), listener):
            reader, writer = await asyncio.open_connection(*listener.getsockname())
            writer.write(
                b"POST / HTTP/1.1\r\nhost: x\r\n" + CHUNKED + b"0\r\n" + trailers + b"\r\n"
            )
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"GET / HTTP/1.1\r\nhost: y\r\nconnection: close\r\n\r\n")
            await reader.read()
            writer.close()
            await writer.wait_closed()

    assert seen == [
        [(b"host", b"x"), (b"transfer-encoding", b"chunked")],
        [(b"host", b"y"), (b"connection", b"close")],
    ]


async def test_a_head_that_begins_behind_another_request_has_the_same_bound() -> None:
    async with stage(headers_max_bytes=4_096) as at, client(at) as long:
        await long.send(ASK + b"GET /too-long HTTP/1.1\r\n" + b"x: %b\r\n" % (b"y" * 95) * 50)
        await long.answer()
        await long.send(b"\r\n")

        assert b" 431 " in (await long.answer())[0]
    assert at.paths == ["/"]


async def test_a_head_may_begin_behind_a_body_that_is_longer_than_any_head() -> None:
    body = b"x" * 20_000
    async with stage(headers_max_bytes=4_096) as at, client(at) as mixed:
        posted = b"POST / HTTP/1.1\r\ncontent-length: 20000\r\n\r\n" + body
        await mixed.send(posted + b"GET /second HTTP/1.1\r\nx-long: " + b"y" * 1_000)
        assert (await mixed.answer())[1] == body
        await mixed.send(b"y" * 1_000 + b"\r\n\r\n")

        assert (await mixed.answer())[1] == b""
    assert at.paths == ["/", "/second"]


async def test_a_body_refused_behind_its_answer_gets_no_second_one() -> None:
    async with stage() as at, client(at) as broken:
        await broken.send(b"POST /early HTTP/1.1\r\n" + CHUNKED + b"5\r\nabcde\r\n")
        assert (await broken.answer())[1] == b"early"
        await broken.send(b"ZZ\r\n")

        assert await broken.ended()


async def test_a_page_can_read_why_its_request_was_refused() -> None:
    async with stage() as at, client(at) as confused:
        await confused.send(b"GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n")
        head, _ = await confused.answer()

    fields = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:-2])
    assert fields.keys() > {b"date", b"x-request-id", b"content-length", b"connection"}
    assert fields[b"access-control-allow-origin"] == b"*"
    assert fields[b"cache-control"] == b"no-store"


async def test_nobody_is_told_to_go_on_with_a_body_that_was_refused(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with stage() as at, client(at) as confused:
        await confused.send(b"POST / HTTP/1.1\r\nexpect: 100-continue\r\n" + CHUNKED + b"ZZ\r\n")
        said = await confused.reader.read()
        await at.gone.wait()

    assert said.startswith(b"HTTP/1.1 400 ")
    assert b" 100 " not in said
    assert not caplog.records


async def test_who_is_refused_while_nobody_reads_can_still_read_why() -> None:
    async with stage() as at, client(at) as wordy:
        held = b"186a0\r\n" + b"x" * 100_000 + b"\r\n"
        await wordy.send(b"POST /wait HTTP/1.1\r\n" + CHUNKED + held + b"ZZ\r\n")
        await wordy.send(b"x" * (8 << 20))

        assert b" 400 " in (await wordy.answer())[0]


async def test_a_websocket_waits_for_the_client_to_read_what_was_answered_before_it() -> None:
    async with stage() as at, client(at) as behind:
        await behind.send(b"GET /big HTTP/1.1\r\n\r\n")
        await at.gone.wait()
        await behind.send(SOCKET)
        await at.opening.wait()
        for _ in range(100):
            # What can be sent at once is sent in one of these turns.
            await asyncio.sleep(0)
        before = at.opened.is_set()
        await behind.answer()
        await behind.reader.readuntil(b"\r\n\r\n")
        await at.opened.wait()

    assert not before


async def test_a_reader_that_keeps_pace_with_a_writer_has_not_stopped() -> None:
    async with stage(keep_alive_s=600.0) as at, client(at) as steady:
        await steady.send(b"GET /big HTTP/1.1\r\n\r\n")
        await at.gone.wait()
        [connection] = at.connections()
        wire, now = connection.wire, connection.loop.time()
        waits = wire.transport.get_write_buffer_size()
        connection.look(now)
        await steady.reader.readexactly(READ_PACE_BYTES * 8)
        # The system takes the next piece when it can: it tells nobody.
        await until(lambda: wire.transport.get_write_buffer_size() < waits - READ_PACE_BYTES * 4)
        wire.write(b"x" * (waits - wire.transport.get_write_buffer_size()))

        connection.look(now + 61.0)
        closed = wire.transport.is_closing()
        connection.look(now + 122.0)

    assert (closed, wire.transport.is_closing()) == (False, True)


async def test_a_head_that_stops_half_way_does_not_cost_the_request_before_it_its_answer() -> None:
    async with stage() as at, client(at) as half:
        await half.send(WAIT + b"GET /half HTTP/1.1\r\n")
        await until(lambda: "/wait" in at.paths)
        [connection] = at.connections()
        now = connection.loop.time()
        connection.look(now)
        connection.look(now + 61.0)
        at.released.set()
        head, body = await half.answer()

        assert (b"connection: close" in head, body) == (True, b"waited")
        assert await half.ended()
