"""A customer who asks at a steady rate, whatever becomes of the answers, and checks each of them.

    python -m bench.swarm_customer      reads one JSON `Order` a line, prints one `Outcome` each

Open loop: a slow answer does not put off the next request, so nothing hides a stall.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import sys
import time
from collections import deque
from typing import Final, cast

import msgspec
import orjson
import uvloop

from bench.load import split_answer
from bench.stub import vector_of
from bench.swarm_nodes import MODEL_ID, TEXT
from orchestrator.domain.passages import PASSAGES

# More lines than that help nobody: the server's queue of new connections would be full of them.
_LINES_MAX: Final = 1000
_SENTENCES: Final = [sentence for passage in PASSAGES for sentence in passage]


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """Ask for embeddings of texts ``first``, ``first + 1``, … ``per_s`` times a second.

    What is not answered ``patience_s`` after the last request counts as not answered.
    """

    port: int
    api_key: str
    per_s: float
    seconds: float
    first: int = 0
    dimensions: int = 384
    patience_s: float = 40.0


class Asked(msgspec.Struct, array_like=True):
    """One request, due at ``sent_at``; without an answer ``status`` says why, or is empty."""

    number: int
    sent_at: float
    answered_at: float = 0.0
    status: str = ""
    place: str = ""
    is_right: bool = False


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """``strays`` are answers that came where no request was open: something answered twice."""

    asked: list[Asked]
    strays: int


class Line(asyncio.Protocol):
    """A keep-alive connection: one request at a time."""

    def __init__(self, customer: Customer) -> None:
        self._customer = customer
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._is_closing = False
        self.asked: Asked | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def ask(self, asked: Asked, request: bytes) -> None:
        assert self._transport is not None
        self.asked = asked
        self._transport.write(request)

    def close(self) -> None:
        assert self._transport is not None
        self._is_closing = True
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (answer := split_body(self._buffer)) is not None:
            status, place, body, self._buffer = answer
            asked, self.asked = self.asked, None
            if asked is None:
                self._customer.strays += 1
                continue
            asked.answered_at = time.monotonic()
            asked.status, asked.place = status, place
            asked.is_right = status == "200" and self._customer.is_right(asked.number, body)
            self._customer.answered(self)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.asked is not None and not self._is_closing:
            self.asked.status = "closed" if exc is None else type(exc).__name__
        self._customer.lost(self)


class Customer:
    """Carries out one order."""

    def __init__(self, order: Order) -> None:
        self._order = order
        # In turn, not last in first out: the server closes a line that is not used for a while.
        self._free: deque[Line] = deque()
        self._unsent: deque[Asked] = deque()
        self._lines: set[Line] = set()
        self._opening: set[asyncio.Task[None]] = set()
        self._waiting = 0
        self._settled = asyncio.Event()
        self._gone = asyncio.Event()
        self.asked: list[Asked] = []
        self.strays = 0

    async def run(self) -> Outcome:
        order = self._order
        started_at = time.monotonic()
        for at in range(round(order.per_s * order.seconds)):
            await asyncio.sleep(max(started_at + at / order.per_s - time.monotonic(), 0.0))
            self._send(order.first + at)
        if self._waiting:
            self._settled.clear()
            with contextlib.suppress(TimeoutError):  # what is missing shows in the outcome
                await asyncio.wait_for(self._settled.wait(), order.patience_s)
        await self._close()
        return Outcome(asked=self.asked, strays=self.strays)

    async def _close(self) -> None:
        await asyncio.gather(*self._opening)
        for line in self._lines:
            line.close()
        if self._lines:
            self._gone.clear()
            await self._gone.wait()

    def _send(self, number: int) -> None:
        asked = Asked(number, time.monotonic())
        self.asked.append(asked)
        self._waiting += 1
        if self._free:
            self._free.popleft().ask(asked, self._request(number))
        elif len(self._lines) + len(self._opening) < _LINES_MAX:
            task = asyncio.ensure_future(self._open(asked))
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)
        else:
            self._unsent.append(asked)

    async def _open(self, asked: Asked) -> None:
        loop = asyncio.get_running_loop()
        try:
            _, line = await loop.create_connection(
                lambda: Line(self), "127.0.0.1", self._order.port
            )
        except OSError as error:
            asked.status = type(error).__name__
            self._settle()
            return
        self._lines.add(line)
        line.ask(asked, self._request(asked.number))

    def answered(self, line: Line) -> None:
        if self._unsent:
            asked = self._unsent.popleft()
            line.ask(asked, self._request(asked.number))
        else:
            self._free.append(line)
        self._settle()

    def lost(self, line: Line) -> None:
        self._lines.discard(line)
        if not self._lines:
            self._gone.set()
        if line.asked is not None:
            self._settle()
        elif line in self._free:
            self._free.remove(line)

    def _settle(self) -> None:
        self._waiting -= 1
        if not self._waiting:
            self._settled.set()

    def is_right(self, number: int, body: bytes) -> bool:
        """Whether ``body`` holds the one vector of text ``number`` and no other."""
        try:
            rows = orjson.loads(body)["data"]
            vectors = [base64.b64decode(row["embedding"]) for row in rows]
        except (ValueError, KeyError, TypeError):
            return False
        return vectors == [vector_of(text_of(number), self._order.dimensions)]

    def _request(self, number: int) -> bytes:
        order = self._order
        body = json.dumps(
            {
                "model": MODEL_ID,
                "input": text_of(number),
                "encoding_format": "base64",
            }
        ).encode()
        head = (
            "POST /v1/embeddings HTTP/1.1\r\n"
            f"host: 127.0.0.1:{order.port}\r\n"
            f"x-api-key: {order.api_key}\r\n"
            "content-type: application/json\r\n"
            f"content-length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


def split_body(data: bytes) -> tuple[str, str, bytes, bytes] | None:
    """Split one answer off: (status, x-inference-type, body, rest), or None while incomplete."""
    answer = split_answer(data)
    if answer is None:
        return None
    status, place, rest = answer
    end = len(data) - len(rest)
    return status, place, data[data.index(b"\r\n\r\n") + 4 : end], rest


def text_of(number: int) -> str:
    """Return text ``number``: different from every other, some 40 to 120 tokens long."""
    text = TEXT.format(number=number)
    length = 200 + number * 37 % 300
    for sentence in itertools.islice(itertools.cycle(_SENTENCES), number % len(_SENTENCES), None):
        if len(text) >= length:
            break
        text += f"{sentence} "
    return text.strip()


def main() -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        for line in sys.stdin:
            order = msgspec.json.decode(line, type=Order)
            outcome = runner.run(Customer(order).run())
            print(msgspec.json.encode(outcome).decode(), flush=True)


if __name__ == "__main__":
    main()
