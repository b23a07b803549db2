"""What an event of a streamed chat completion costs the server.

Three servers in turn: Starlette's `StreamingResponse` with `json.dumps`, as one would write it; our
API with an engine of its own that says a word, so that what streams is all there is; and our whole
server, where each word is a frame of a stub node that the scheduler and the engine pass on. CPU is
that of the server's process, user and system, divided by the events that arrived; requests are long
enough for their own cost to be small.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import tempfile
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import msgspec
import uvloop

from bench.fuzz_valid import SUMMARY
from bench.processes import Pinning, cpu_seconds, first_line, module
from bench.report import Figure, Section, Table
from bench.sse_server import PIECE
from bench.stub import TRUSTING, UNLIMITED, Models, StubNode, built_models
from browser_node import protocol as p
from browser_node.protocol import ModelDigest
from e2e.server import Server, serving

STARLETTE: Final = "Starlette's StreamingResponse, json.dumps"
API: Final = "our API"
NODES: Final = "our server, words from nodes"
TARGET_US: Final = 10.0
_STREAMS: Final = 8
# Of a node's words: each is passed on before the next one comes. A lease lasts 2 s at least.
_PACE_S: Final = 0.003
_PATH: Final = "/v1/chat/completions"
_TEXT: Final = "The ferry leaves at noon. Gusts reach the coast tonight."


class Sample(msgspec.Struct, frozen=True):
    """One round of one server."""

    cpu_us: float
    events: int
    per_s: float


class Target(msgspec.Struct, frozen=True):
    name: str
    pid: int
    port: int
    key: str


class Speaker:
    """Answers jobs that are to be streamed word by word, all at the same pace."""

    def __init__(self, models: Models, count: int) -> None:
        self._models = models
        self._count = count

    def __call__(self, node: StubNode, frame: p.Jobs) -> None:
        for item in frame.items:
            self._say(node, item, 0)

    def _say(self, node: StubNode, item: p.JobItem, seq: int) -> None:
        if not item.stream or seq == self._count:
            # Only its text is ours: of what a node may answer the vectors have to be right.
            answer = self._models.answer(ModelDigest(item.digest), item.input)
            result = p.Result(
                attempt_id=item.attempt_id,
                output=(PIECE * self._count).encode(),
                evidence=answer.evidence,
                compute_s=0.001,
                tokens=item.tokens,
            )
            node.send(p.Results(items=(result,)))
            return
        node.send(p.Delta(attempt_id=item.attempt_id, seq=seq, text=PIECE))
        asyncio.get_running_loop().call_later(_PACE_S, self._say, node, item, seq + 1)


def measure(*, rounds: int, words: int, times: int) -> Section:
    """Have each server say so many ``words`` in each of 8 streams at once, ``rounds`` times.

    Those that need no nodes do it ``times`` a round: CPU time comes in steps of 10 ms.
    """
    pinning = Pinning()
    with (
        tempfile.TemporaryDirectory() as folder,
        module("bench.sse_server", "starlette", f"{folder}/a", str(words)) as starlette,
        module("bench.sse_server", "ours", f"{folder}/b", str(words)) as ours,
        serving(Path(folder) / "data", "--no-cpu-worker", env=TRUSTING | UNLIMITED) as server,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        targets = []
        for name, process in ((STARLETTE, starlette), (API, ours)):
            port, key = first_line(process).split()
            targets.append(Target(name, process.pid, int(port), key))
        targets.append(Target(NODES, server.pid, urlsplit(server.url).port or 0, server.api_key))
        for target in targets:
            pinning.pin_server(target.pid)
        samples = runner.run(_measure(server, targets, rounds, words, times))
    return report(samples, words=words)


async def _measure(
    server: Server, targets: list[Target], rounds: int, words: int, times: int
) -> dict[str, list[Sample]]:
    models = built_models()
    worker = await StubNode(models, slots=0).join_as_worker(server.data_dir)
    speaker = Speaker(models, words)
    # One for each stream: a node that is slow to answer gets one job at a time.
    nodes = [await StubNode(models, on_jobs=speaker).join(server.url) for _ in range(_STREAMS)]
    samples: dict[str, list[Sample]] = {target.name: [] for target in targets}
    for target in targets:
        await _sample(target, 1)
    for number in range(rounds):
        for target in targets if number % 2 == 0 else reversed(targets):
            count = 1 if target.name == NODES else times
            samples[target.name].append(await _sample(target, _STREAMS, count))
    for node in (*nodes, worker):
        await node.leave()
    return samples


async def _sample(target: Target, streams: int, times: int = 1) -> Sample:
    loop = asyncio.get_running_loop()
    started, before = loop.time(), cpu_seconds(target.pid)
    events = 0
    for _ in range(times):
        events += sum(await asyncio.gather(*(_read(target) for _ in range(streams))))
    cpu_s, seconds = cpu_seconds(target.pid) - before, loop.time() - started
    return Sample(cpu_us=cpu_s / events * 1e6, events=events, per_s=events / seconds)


async def _read(target: Target) -> int:
    """Return how many events one stream had; raises `RuntimeError` if it did not end well."""
    said = [{"role": "user", "content": _TEXT}]
    body = json.dumps({"model": SUMMARY, "messages": said, "stream": True}).encode()
    lines = (
        f"POST {_PATH} HTTP/1.1\r\nhost: 127.0.0.1:{target.port}\r\nconnection: close\r\n"
        f"content-type: application/json\r\nx-api-key: {target.key}\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", target.port)
    try:
        writer.write(lines.encode() + body)
        raw = await reader.read(-1)
    finally:
        writer.close()
    if not raw.startswith(b"HTTP/1.1 200") or b"[DONE]" not in raw[-60:]:
        raise RuntimeError(f"{target.name} answered {raw[:300]!r} … {raw[-200:]!r}")
    return raw.count(b"data: ")


def report(samples: dict[str, list[Sample]], *, words: int) -> Section:
    """Return medians over the rounds; ratios are of those of one round."""
    medians = {name: statistics.median(s.cpu_us for s in kept) for name, kept in samples.items()}
    rows = []
    for name, kept in samples.items():
        per_s = statistics.median(sample.per_s for sample in kept)
        rows.append((name, f"{medians[name]:.1f}", f"{kept[0].events:,}", f"{per_s:,.0f}"))
    figures = [
        Figure(f"CPU of an event: {name}", medians[name], "µs", target)
        for name, target in ((API, TARGET_US), (NODES, None))
    ]
    pairs = zip(samples[API], samples[STARLETTE], strict=True)
    ratio = statistics.median(ours.cpu_us / theirs.cpu_us for ours, theirs in pairs)
    figures.append(Figure("CPU of an event of our API ÷ Starlette's", ratio, "×"))
    columns = ("server", "CPU µs/event", "events a round", "events/s")
    note = (
        f"{_STREAMS} streams at once of {words} words. Nodes say one every"
        f" {_PACE_S * 1000:.0f} ms in each stream, the others speak as fast as they can."
    )
    return Section("sse", "Streamed events", figures, [Table(columns, rows)], note)
