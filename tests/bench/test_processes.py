"""What is read from the process table, and the proxy that counts bytes."""

from __future__ import annotations

import asyncio
import os
import sys
import time
import urllib.request

import pytest

from bench.meter import metering
from bench.processes import (
    command_line,
    cpu_seconds,
    descendants,
    first_line,
    main_cpu_seconds,
    module,
    thread_cpu_seconds,
    unique_mb,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def test_work_shows_as_cpu_time_and_memory_of_its_process() -> None:
    before = cpu_seconds(os.getpid())
    while cpu_seconds(os.getpid()) == before:
        sum(range(10_000))

    assert cpu_seconds(os.getpid()) > before
    assert 0 < main_cpu_seconds(os.getpid()) <= cpu_seconds(os.getpid())
    assert cpu_seconds(os.getpid()) == pytest.approx(time.process_time(), abs=0.1)
    assert thread_cpu_seconds(os.getpid(), "") > 0
    assert unique_mb(os.getpid()) > 1


def test_a_module_is_a_descendant_until_its_block_ends() -> None:
    with module("bench.echo") as echo:
        assert int(first_line(echo)) > 0
        assert echo.pid in descendants(os.getpid())
        assert "bench.echo" in command_line(echo.pid)

    assert echo.returncode is not None
    assert command_line(echo.pid) == []


def test_a_module_that_says_nothing_is_an_error() -> None:
    with module("bench.stub", "--help") as stub:
        assert first_line(stub).startswith("Usage")
    with module("bench.no_such_module") as none, pytest.raises(RuntimeError, match="ended with 1"):
        first_line(none)


async def test_the_meter_counts_what_the_browser_receives() -> None:
    body = b"x" * 100_000

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n" + body)
        await writer.drain()
        writer.close()

    def get(port: int) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10) as answer:
            read: bytes = answer.read()
        return read

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        with metering(server.sockets[0].getsockname()[1]) as meter:
            assert await asyncio.to_thread(get, meter.port) == body
            assert meter.http_bytes == len(body) + 43
            assert (meter.requests, meter.socket_bytes) == (1, 0)
            meter.reset()
            assert meter.http_bytes == 0
