"""What a placement and a node cost the scheduler: CPU time and memory, at two sizes of fleet."""

from __future__ import annotations

import gc
import hashlib
import itertools
import random
import statistics
import time
import tracemalloc
from typing import Final

import msgspec

from bench.fleet import truth
from browser_node.protocol import Answer, AttemptId, NodeId
from orchestrator.domain import effects as fx
from orchestrator.domain import events as ev
from orchestrator.domain.model import JobId, ModelSpec, NewJob, ProjectId
from orchestrator.domain.scheduler import Scheduler
from orchestrator.domain.trust import Identity, RuntimeClass, Standing

_RUNTIME: Final = RuntimeClass("browser/wasm")
_REGIONS: Final = ("EU-DE", "EU-FR", "NA-US", "AS-JP", "SA-BR")
_WORKER: Final = NodeId("worker")
# Jobs under way while one is placed: some nodes have work, most are free, as in a healthy fleet.
_UNDER_WAY: Final = 200
_GAP_S: Final = 0.001


class Cost(msgspec.Struct, frozen=True):
    """Microseconds are medians; ``placing`` is the submission alone, ``finishing`` its result."""

    nodes: int
    placing_us: float
    placing_p99_us: float
    finishing_us: float
    bytes_per_node: float


def measure(nodes: int, *, jobs: int, seed: int = 1) -> Cost:
    """Return what ``jobs`` placements cost among ``nodes`` trusted nodes that are ready."""
    bench = _Bench(seed)
    bench.join_all(nodes)
    placing, finishing = bench.time(jobs)
    return Cost(
        nodes=nodes,
        placing_us=statistics.median(placing) * 1e6,
        placing_p99_us=statistics.quantiles(placing, n=100)[98] * 1e6,
        finishing_us=statistics.median(finishing) * 1e6,
        bytes_per_node=memory_per_node(nodes, seed=seed),
    )


def memory_per_node(nodes: int, *, seed: int = 1) -> float:
    """Return the bytes that the scheduler holds for each of ``nodes``, its indexes included."""
    bench = _Bench(seed)
    gc.collect()
    tracemalloc.start()
    try:
        bench.join_all(nodes)
        gc.collect()
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return held / nodes


class _Bench:
    """A scheduler and just enough of an engine: what it asks for is answered at once."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)
        numbers = itertools.count()
        self._models = [
            ModelSpec(
                digest=digest,
                model_id=manifest.id,
                size_bytes=24_000_000,
                min_memory_mb=256,
            )
            for digest, manifest in truth.manifests().items()
        ]
        self.scheduler = Scheduler(
            models={spec.digest: spec for spec in self._models},
            rng=self._rng,
            new_attempt_id=lambda: AttemptId(f"a{next(numbers)}"),
        )
        self._now = 0.0
        self._out: list[tuple[NodeId, AttemptId]] = []
        self._join(_WORKER, trusted=True)

    def join_all(self, nodes: int) -> None:
        for number in range(nodes):
            self._join(NodeId(f"node-{number:08}"), trusted=False)

    def _join(self, node_id: NodeId, *, trusted: bool) -> None:
        identity = Identity("" if trusted else hashlib.sha256(node_id.encode()).hexdigest())
        joined = ev.NodeJoined(
            node_id,
            trusted,
            memory_mb=8_192,
            identity=identity,
            runtime=_RUNTIME,
            network=identity[:16],
            region=self._rng.choice(_REGIONS),
            distance_km=self._rng.uniform(10, 10_000),
        )
        self.handle(joined)
        if not trusted:
            record = Standing(identity, _RUNTIME, consecutive=100, real=100, agreed=100)
            self.handle(ev.StandingRecalled(identity, _RUNTIME, record))
        self.handle(ev.CapacityChanged(node_id, 512 if trusted else 8, "active", ""))
        for spec in self._models[: None if trusted else 1]:
            speed = self._rng.lognormvariate(7.2, 0.5)
            self.handle(ev.ModelReady(node_id, spec.digest, speed))
        self.handle(ev.NodeHeard(node_id, rtt_s=self._rng.uniform(0.01, 0.3)))

    def handle(self, event: ev.Event) -> float:
        """Apply an event and return the scheduler's seconds; note what was sent to nodes."""
        began = time.perf_counter()
        effects = self.scheduler.handle(event, now=self._now)
        took_s = time.perf_counter() - began
        for effect in effects:
            match effect:
                case fx.SendJobs():
                    self._out += [(effect.node_id, AttemptId(i.attempt_id)) for i in effect.items]
                case fx.Compare():
                    self.handle(ev.Judged(effect.check_id, agrees=True))
                case _:
                    pass
        return took_s

    def time(self, jobs: int) -> tuple[list[float], list[float]]:
        """Return the seconds of each placement and of each result, with others under way."""
        placing: list[float] = []
        finishing: list[float] = []
        answer = Answer(output=bytes(4), evidence=b"")
        gc.collect()
        for number in range(jobs + _UNDER_WAY):
            self._now += _GAP_S
            job = NewJob(
                job_id=JobId(f"{number}.0"),
                digest=self._models[0].digest,
                input="a ferry",
                tokens=self._rng.randint(8, 128),
                project_id=ProjectId("project"),
            )
            took_s = self.handle(ev.JobsSubmitted((job,)))
            if number >= _UNDER_WAY:
                placing.append(took_s)
            while len(self._out) > _UNDER_WAY:
                node_id, attempt_id = self._out.pop(0)
                result = ev.Finished(attempt_id, answer.output, compute_s=0.05, trait=number)
                finishing.append(self.handle(ev.AttemptsFinished(node_id, (result,))))
            due = self.scheduler.next_wakeup()
            if due is not None and due <= self._now:
                self.handle(ev.Tick())
        return placing, finishing
