"""The same server behind its own certificate: what is read, answered, refused and closed."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
from websockets.asyncio.client import connect

from tests.certificates import self_signed
from tests.orchestrator.transport.talkers import Client, Stage, stage, until

ASK: Final = b"GET / HTTP/1.1\r\n\r\n"


@dataclass(frozen=True)
class Certificate:
    """Our own, for the loopback address, and a client's trust in it."""

    chain: Path
    key: Path

    def trusted(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.chain)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return Certificate(*self_signed(tmp_path_factory.mktemp("tls")))


@contextlib.asynccontextmanager
async def behind(certificate: Certificate, **options: float) -> AsyncIterator[Stage]:
    async with stage(tls_cert=certificate.chain, tls_key=certificate.key, **options) as at:
        yield at


@contextlib.asynccontextmanager
async def client(at: Stage, certificate: Certificate) -> AsyncIterator[Client]:
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", at.port, ssl=certificate.trusted(), limit=1 << 16
    )
    try:
        yield Client(reader, writer)
    finally:
        writer.transport.abort()


async def test_requests_sent_ahead_and_large_bodies_are_answered(certificate: Certificate) -> None:
    body = b"x" * 5_000_000
    posted = b"POST / HTTP/1.1\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
    async with behind(certificate) as at, client(at, certificate) as asking:
        sending = asyncio.create_task(asking.send(ASK * 3 + posted + ASK))
        bodies = [(await asking.answer())[1] for _ in range(5)]
        await sending

    assert bodies == [b"", b"", b"", body, b""]


async def test_a_refusal_is_said_and_the_connection_closed(certificate: Certificate) -> None:
    async with behind(certificate) as at, client(at, certificate) as confused:
        await confused.send(b"GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n")

        assert b" 400 " in (await confused.answer())[0]
        assert await confused.ended()


async def test_who_leaves_is_noticed(certificate: Certificate) -> None:
    async with behind(certificate) as at:
        async with client(at, certificate) as leaving:
            await leaving.send(b"GET /listen HTTP/1.1\r\n\r\n")
            await until(lambda: at.paths == ["/listen"])
        await at.gone.wait()
        await until(lambda: not at.connections())


async def test_a_reader_that_stops_is_cut_off(certificate: Certificate) -> None:
    async with behind(certificate, idle_s=0.2) as at, client(at, certificate) as stopping:
        await stopping.send(b"GET /endless HTTP/1.1\r\n\r\n")
        await at.gone.wait()


async def test_who_speaks_no_tls_is_let_go(certificate: Certificate) -> None:
    async with behind(certificate) as at:
        reader, writer = await asyncio.open_connection("127.0.0.1", at.port)
        writer.write(ASK)

        assert b"HTTP" not in await reader.read()
        writer.close()
        assert at.paths == []


async def test_a_websocket_opens(certificate: Certificate) -> None:
    async with (
        behind(certificate) as at,
        connect(f"wss://127.0.0.1:{at.port}/", ssl=certificate.trusted()) as socket,
    ):
        await socket.send("said")

        assert await socket.recv() == "said"
