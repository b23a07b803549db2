"""The load generator counts what it gets, and stops when it should."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from bench.load import Order, carry_out, encode_request, quantile, split_answer

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Inference-Type: edge\r\n\r\nok"
BUSY = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n"


@contextlib.asynccontextmanager
async def answering(*answers: bytes) -> AsyncIterator[tuple[int, list[bytes]]]:
    """Run a server that gives ``answers`` in turn; yields its port and the bodies it was sent."""
    bodies: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
                bodies.append(await reader.readexactly(length))
                writer.write(answers[(len(bodies) - 1) % len(answers)])
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1], bodies


@pytest.mark.parametrize("cut", [0, 10, len(ANSWER) - 3, len(ANSWER) - 1])
def test_an_answer_that_is_not_complete_is_waited_for(cut: int) -> None:
    assert split_answer(ANSWER[:cut]) is None


def test_what_follows_an_answer_is_kept() -> None:
    assert split_answer(ANSWER + BUSY) == ("200", "edge", BUSY)
    assert split_answer(BUSY) == ("503", "", b"")


def test_a_request_counts_its_body_in_bytes() -> None:
    order = Order(port=80, path="/p", bodies=(), headers={"x-api-key": "k"})

    head, _, body = encode_request(order, "é").partition(b"\r\n\r\n")

    assert body == "é".encode()
    assert b"content-length: 2" in head
    assert b"x-api-key: k" in head


async def test_an_order_of_so_many_requests_sends_that_many_in_turn() -> None:
    async with answering(ANSWER, BUSY) as (port, bodies):
        order = Order(port=port, path="/", bodies=("a", "b"), connections=3, requests=10)
        outcome = await carry_out(order)

    assert len(bodies) == outcome.requests == 10
    assert sorted(bodies) == [b"a"] * 5 + [b"b"] * 5
    assert outcome.statuses == {"200": 5, "503": 5}
    assert outcome.places == {"edge": 5}
    assert 0 < outcome.p50_ms <= outcome.p99_ms <= outcome.max_ms


async def test_an_order_ends_when_its_time_is_up() -> None:
    async with answering(ANSWER) as (port, _):
        outcome = await carry_out(Order(port=port, path="/", bodies=("a",), seconds=0.05))

    assert outcome.requests > 0
    assert 0.05 <= outcome.seconds < 5


def test_quantiles_of_nothing_are_zero() -> None:
    assert quantile([], 0.5) == 0
    assert quantile([1.0, 2.0, 3.0], 0.5) == 2
    assert quantile([1.0, 2.0, 3.0], 1.0) == 3
