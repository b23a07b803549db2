"""A load generator that costs little: raw HTTP/1.1 over keep-alive sockets, in its own process.

Closed loop: each connection sends its next request when the answer to the last one is complete.

    python -m bench.load        reads one JSON `Order` a line, prints one JSON `Outcome` each
"""

from __future__ import annotations

import asyncio
import itertools
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from typing import cast

import msgspec
import uvloop

from bench.processes import first_line


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What to send: ``bodies`` in turn by POST to ``path``, for ``seconds`` at most.

    ``requests`` ends it earlier; ``seconds`` alone is then only a bound.
    """

    port: int
    path: str
    bodies: tuple[str, ...]
    headers: dict[str, str] = {}
    connections: int = 1
    seconds: float = 2.0
    requests: int | None = None


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What came back. ``places`` counts `x-inference-type`; latencies are of all answers."""

    requests: int
    seconds: float
    statuses: dict[str, int]
    places: dict[str, int]
    p50_ms: float
    p99_ms: float
    max_ms: float


class Tally:
    """What all connections of an order have seen; ``done`` is set when the last of them ends."""

    def __init__(self, order: Order) -> None:
        self.until = time.perf_counter() + order.seconds
        self.left = order.requests if order.requests is not None else sys.maxsize
        self.latencies_s: list[float] = []
        self.statuses: Counter[str] = Counter()
        self.places: Counter[str] = Counter()
        self.open = order.connections
        self.done = asyncio.Event()

    def wants_more(self, now: float) -> bool:
        self.left -= 1
        return self.left >= 0 and now < self.until


class Client(asyncio.Protocol):
    """One connection."""

    def __init__(self, requests: Iterator[bytes], tally: Tally) -> None:
        self._requests = requests
        self._tally = tally
        self._transport: asyncio.Transport | None = None
        self._sent_at = 0.0
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._send()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        answer = split_answer(self._buffer)
        if answer is None:
            return
        status, place, self._buffer = answer
        tally = self._tally
        tally.statuses[status] += 1
        if place:
            tally.places[place] += 1
        tally.latencies_s.append(time.perf_counter() - self._sent_at)
        self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None:
            self._tally.statuses[type(exc).__name__] += 1
        self._tally.open -= 1
        if not self._tally.open:
            self._tally.done.set()

    def _send(self) -> None:
        assert self._transport is not None
        now = time.perf_counter()
        if self._tally.wants_more(now):
            self._sent_at = now
            self._transport.write(next(self._requests))
        else:
            self._transport.close()


def give(process: subprocess.Popen[str], order: Order) -> Outcome:
    """Have a ``bench.load`` process carry out ``order``."""
    assert process.stdin is not None
    process.stdin.write(msgspec.json.encode(order).decode() + "\n")
    process.stdin.flush()
    return msgspec.json.decode(first_line(process), type=Outcome)


def split_answer(data: bytes) -> tuple[str, str, bytes] | None:
    """Split one answer off: (status, x-inference-type, rest), or None while it is incomplete."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return None
    head = data[:end].lower()
    length = int(_value(head, b"content-length") or 0)
    if len(data) < end + 4 + length:
        return None
    place = _value(head, b"x-inference-type").decode()
    return head[9:12].decode(), place, data[end + 4 + length :]


def _value(head: bytes, name: bytes) -> bytes:
    at = head.find(b"\r\n" + name + b":")
    if at < 0:
        return b""
    start = at + len(name) + 3
    end = head.find(b"\r\n", start)
    return (head[start:] if end < 0 else head[start:end]).strip()


def encode_request(order: Order, text: str) -> bytes:
    """Return the bytes of one request."""
    body = text.encode()
    headers = {
        "host": f"127.0.0.1:{order.port}",
        "content-type": "application/json",
        "content-length": str(len(body)),
        **order.headers,
    }
    lines = [
        f"POST {order.path} HTTP/1.1",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def carry_out(order: Order) -> Outcome:
    """Send until the time is up or the requests are; answers under way are waited for."""
    loop = asyncio.get_running_loop()
    # All connections draw from one supply.
    requests = itertools.cycle([encode_request(order, body) for body in order.bodies])
    tally = Tally(order)
    started = time.perf_counter()
    for _ in range(order.connections):
        await loop.create_connection(lambda: Client(requests, tally), "127.0.0.1", order.port)
    await asyncio.wait_for(tally.done.wait(), order.seconds + 60)
    ordered = sorted(tally.latencies_s)
    return Outcome(
        requests=tally.statuses.total(),
        seconds=time.perf_counter() - started,
        statuses=dict(tally.statuses),
        places=dict(tally.places),
        p50_ms=quantile(ordered, 0.5) * 1000,
        p99_ms=quantile(ordered, 0.99) * 1000,
        max_ms=quantile(ordered, 1.0) * 1000,
    )


def quantile(ordered: list[float], share: float) -> float:
    """Return the value below which ``share`` of the ascending values lie; 0 when there are none."""
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)] if ordered else 0.0


def main() -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        for line in sys.stdin:
            outcome = runner.run(carry_out(msgspec.json.decode(line, type=Order)))
            print(msgspec.json.encode(outcome).decode(), flush=True)


if __name__ == "__main__":
    main()
