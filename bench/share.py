"""How two nodes of unequal speed share what comes at once: stub nodes that take their time."""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import tempfile
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import msgspec
import uvloop

from bench.load import Order, Outcome, give
from bench.processes import module
from bench.report import Figure, Section, Table
from bench.stub import TRUSTING, StubNode, built_models
from browser_node import protocol as p
from e2e.server import Server, serving

FAST_TOKENS_PER_S: Final = 4000.0
SLOW_TOKENS_PER_S: Final = 1000.0
_TEXT: Final = (
    "A cold front crosses the coast tonight with gusts up to ninety kilometres an hour, and "
    "fishermen were told to stay in port until Thursday noon. This is report number {}."
)
_TRIES: Final = 200


class Paced:
    """Answers jobs one after the other, each after the time that its tokens take."""

    def __init__(self, tokens_per_s: float) -> None:
        self._tokens_per_s = tokens_per_s
        self._free_at = 0.0
        self.tokens = 0
        self.jobs = 0

    def __call__(self, node: StubNode, frame: p.Jobs) -> None:
        loop = asyncio.get_running_loop()
        for item in frame.items:
            self.tokens += item.tokens
            self.jobs += 1
            self._free_at = max(loop.time(), self._free_at) + item.tokens / self._tokens_per_s
            loop.call_at(self._free_at, node.answer, item)


class Shared(msgspec.Struct, frozen=True):
    """One run: jobs of the fast and the slow node, time taken, and the least it could take."""

    fast: int
    slow: int
    seconds: float
    least_s: float

    @property
    def fast_share(self) -> float:
        return self.fast / (self.fast + self.slow)


def measure(*, requests: int, runs: int) -> Section:
    """Send ``requests`` at once, ``runs`` times."""
    shared = []
    for _ in range(runs):
        with (
            tempfile.TemporaryDirectory() as folder,
            serving(Path(folder) / "data", "--no-cpu-worker", env=TRUSTING) as server,
            asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
        ):
            shared.append(runner.run(_share(server, requests)))
    return report(shared, requests=requests)


async def _share(server: Server, requests: int) -> Shared:
    models = built_models()
    fast, slow = Paced(FAST_TOKENS_PER_S), Paced(SLOW_TOKENS_PER_S)
    nodes = [await StubNode(models, slots=0).join_as_worker(server.data_dir)]
    for pace, speed in ((fast, FAST_TOKENS_PER_S), (slow, SLOW_TOKENS_PER_S)):
        node = StubNode(models, tokens_per_s=speed, on_jobs=pace)
        nodes.append(await node.join(server.url))
    with module("bench.load") as load:
        # Until the slow one has had a job as well, its last `ready` may be on its way.
        for _ in range(_TRIES):
            await _send(load, _order(server, 8))
            if slow.jobs:
                break
        else:
            raise RuntimeError(f"the slow node got no job in {8 * _TRIES} requests")
        before = fast.jobs, slow.jobs, fast.tokens + slow.tokens
        outcome = await _send(load, _order(server, requests))
    for node in nodes:
        await node.leave()
    if outcome.places != {"edge": requests}:
        raise RuntimeError(f"answered {outcome.statuses} from {outcome.places}")
    tokens = fast.tokens + slow.tokens - before[2]
    return Shared(
        fast=fast.jobs - before[0],
        slow=slow.jobs - before[1],
        seconds=outcome.seconds,
        least_s=tokens / (FAST_TOKENS_PER_S + SLOW_TOKENS_PER_S),
    )


async def _send(load: subprocess.Popen[str], order: Order) -> Outcome:
    # The nodes live on this loop: the waiting is done in a thread.
    return await asyncio.to_thread(give, load, order)


def _order(server: Server, requests: int) -> Order:
    texts = (_TEXT.format(number) for number in range(requests))
    return Order(
        port=urlsplit(server.url).port or 0,
        path="/v1/embeddings",
        bodies=tuple(json.dumps({"model": "all-minilm-l6-v2", "input": text}) for text in texts),
        headers={"x-api-key": server.api_key},
        connections=requests,
        seconds=30,
        requests=requests,
    )


def report(shared: list[Shared], *, requests: int) -> Section:
    speeds = FAST_TOKENS_PER_S / (FAST_TOKENS_PER_S + SLOW_TOKENS_PER_S)
    rows = [
        (
            str(run.fast),
            str(run.slow),
            f"{run.fast_share:.0%}",
            f"{run.seconds:.2f}",
            f"{run.least_s:.2f}",
        )
        for run in shared
    ]
    off = statistics.median(abs(run.fast_share - speeds) for run in shared)
    longer = statistics.median(run.seconds / run.least_s for run in shared)
    figures = [
        Figure(f"fast node's share, off from {speeds:.0%}", off * 100, "points"),
        Figure("time taken ÷ least possible", longer, "×"),
    ]
    columns = ("fast", "slow", "fast share", "seconds", "least possible")
    note = (
        f"{requests} requests at once over nodes of {FAST_TOKENS_PER_S:.0f} and"
        f" {SLOW_TOKENS_PER_S:.0f} tokens/s."
    )
    return Section("share", "Sharing by speed", figures, [Table(columns, rows)], note)
