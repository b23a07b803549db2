"""What a customer waits when there is no node, or when the node that has the job goes away."""

from __future__ import annotations

import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import msgspec
import uvloop

from bench.load import Order, Outcome, encode_request, give, split_answer
from bench.processes import module
from bench.report import Figure, Section, Table
from bench.stub import TRUSTING, Models, StubNode, built_models
from browser_node import protocol as p
from e2e.server import Server, serving

TARGET_REFUSAL_MS: Final = 100.0
_BODY: Final = json.dumps({"model": "all-minilm-l6-v2", "input": "A ferry left late."})
_TRIES: Final = 50
_ANSWER_TIMEOUT_S: Final = 30.0


class Case(msgspec.Struct, frozen=True):
    """How a node goes, who is there to take over, and how often it is tried."""

    name: str
    place: str
    spare_nodes: int
    leave: Callable[[StubNode], None]
    times: int


def measure(*, requests: int, times: int, silences: int) -> Section:
    """Time ``requests`` refusals, ``times`` departures of each kind and ``silences`` of a node."""
    with tempfile.TemporaryDirectory() as folder:
        with (
            serving(Path(folder) / "empty", "--no-cpu-worker") as server,
            module("bench.load") as load,
        ):
            order = Order(
                port=urlsplit(server.url).port or 0,
                path="/v1/embeddings",
                bodies=(_BODY,),
                headers={"x-api-key": server.api_key},
                seconds=30,
                requests=requests,
            )
            refusals = give(load, order)
            if set(refusals.statuses) != {"503"}:
                raise RuntimeError(f"an empty fleet answered {refusals.statuses}")
        with serving(Path(folder) / "fleet", "--no-cpu-worker", env=TRUSTING) as server:
            cases = [
                Case("crash, another node takes over", "edge", 1, _crash, times),
                Case("crash, the CPU worker takes over", "cloud", 0, _crash, times),
                Case("goodbye, the CPU worker takes over", "cloud", 0, _say_goodbye, times),
                Case("silence, the CPU worker takes over", "cloud", 0, _say_nothing, silences),
            ]
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                waits = runner.run(_reroutes(server, cases))
    return report(refusals, waits)


def _crash(node: StubNode) -> None:
    assert node.wire is not None
    node.wire.drop()


def _say_goodbye(node: StubNode) -> None:
    node.send(p.Bye(reason="The tab was closed."))


def _say_nothing(node: StubNode) -> None:
    """Keep the socket open and the job unanswered: the lease decides."""


async def _reroutes(server: Server, cases: list[Case]) -> dict[str, list[float]]:
    models = built_models()
    worker = await StubNode(models, slots=64).join_as_worker(server.data_dir)
    waits = {}
    for case in cases:
        # Far away, so that the first choice is always the node that will go.
        spares = [
            await StubNode(models, pong_after_s=0.3).join(server.url)
            for _ in range(case.spare_nodes)
        ]
        waits[case.name] = [await _reroute(server, models, case) for _ in range(case.times)]
        for node in spares:
            await node.leave()
    await worker.leave()
    return waits


async def _reroute(server: Server, models: Models, case: Case) -> float:
    """Return the seconds from a node's going, with a job in hand, to the customer's answer."""
    left_at = 0.0

    def leave(node: StubNode, frame: p.Jobs) -> None:
        nonlocal left_at
        left_at = time.perf_counter()
        case.leave(node)

    node = await StubNode(models, on_jobs=leave).join(server.url)
    for _ in range(_TRIES):  # its last `ready` may still be on its way
        place = await _ask(server)
        answered_at = time.perf_counter()
        if left_at:
            break
    else:
        raise RuntimeError(f"the node got no job in {_TRIES} requests")
    if place != case.place:
        raise RuntimeError(f"{case.name}: the answer came from {place}")
    await node.leave()
    return answered_at - left_at


async def _ask(server: Server) -> str:
    """Send one request and return where its answer was made."""
    parts = urlsplit(server.url)
    port = parts.port or 0
    order = Order(
        port=port, path="/v1/embeddings", bodies=(), headers={"x-api-key": server.api_key}
    )
    reader, writer = await asyncio.open_connection(parts.hostname, port)
    try:
        writer.write(encode_request(order, _BODY))
        data = b""
        async with asyncio.timeout(_ANSWER_TIMEOUT_S):
            while (answer := split_answer(data)) is None:
                data += await reader.read(1 << 16)
    finally:
        writer.close()
    status, place, _ = answer
    if status != "200":
        raise RuntimeError(f"the customer was answered {status}")
    return place


def report(refusals: Outcome, waits: dict[str, list[float]]) -> Section:
    rows = [
        (
            "503 without node and worker",
            str(refusals.requests),
            f"{refusals.p50_ms:.2f}",
            f"{refusals.max_ms:.2f}",
        )
    ]
    figures = [
        Figure("slowest 503 without node and worker", refusals.max_ms, "ms", TARGET_REFUSAL_MS)
    ]
    for name, seconds in waits.items():
        median_ms, most_ms = statistics.median(seconds) * 1000, max(seconds) * 1000
        rows.append((name, str(len(seconds)), f"{median_ms:.2f}", f"{most_ms:.2f}"))
        figures.append(Figure(f"{name}: median wait for the answer", median_ms, "ms"))
    columns = ("case", "times", "median ms", "slowest ms")
    note = "From the node's going to the customer's answer; stub nodes compute nothing."
    return Section("fallback", "Fallback", figures, [Table(columns, rows)], note)
