"""Jobs that wait: for the edge and for the CPU worker, fair between projects.

There is one queue for each lane, model and demand on the nodes, so that a project whose region has
nobody holds up no other. In a queue, projects share by weight within a class (interactive, batch):
start-time fair queueing (Goyal, Vin, Cheng 1996), a job's cost being its tokens. The queues for the
CPU worker have one clock, as it is one and the same for all: projects share it whatever the model.

    start = max(virtual time, the project's last finish);  finish = start + cost / weight

The least start goes next, so nobody starves within a class. Which class goes next is said in
`turns`.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator, Mapping
from typing import Final, Literal, NamedTuple

from browser_node.protocol import ModelDigest
from orchestrator.domain.model import Job, JobId, Priority, ProjectId, Verify

# What a job costs beside its tokens: a thousand one-word jobs are not free.
_COST_TOKENS: Final = 8

Lane = Literal["edge", "cloud"]


class Key(NamedTuple):
    """Jobs with the same key can run on the same nodes."""

    lane: Lane
    digest: ModelDigest
    region: str
    verify: Verify


class _Entry:
    """One waiting; ``job`` is None once it has left."""

    __slots__ = ("job", "number", "queue", "since", "start")

    def __init__(self, job: Job, queue: FairQueue, start: float, number: int, since: float) -> None:
        self.job: Job | None = job
        self.queue = queue
        self.start = start
        self.number = number
        self.since = since

    def __lt__(self, other: _Entry) -> bool:
        return (self.start, self.number) < (other.start, other.number)


class Share:
    """What a project has waiting by one clock."""

    __slots__ = ("cost", "jobs", "served", "tokens", "weight")

    def __init__(self, served: float) -> None:
        # The finish of the last that had its turn.
        self.served = served
        self.jobs = 0
        self.tokens = 0
        self.cost = 0
        self.weight = 1.0


class Clock:
    """Virtual time of those that wait for the same, and what they have waiting."""

    __slots__ = ("finish", "shares", "virtual")

    def __init__(self) -> None:
        self.virtual = 0.0
        self.finish: dict[ProjectId, float] = {}
        self.shares: dict[ProjectId, Share] = {}

    def enters(self, job: Job) -> float:
        """Take a job into account; returns its start."""
        spec = job.spec
        share = self.shares.get(spec.project_id)
        if share is None:
            share = self.shares[spec.project_id] = Share(self.finish.get(spec.project_id, 0.0))
        share.jobs += 1
        share.tokens += spec.tokens
        share.cost += spec.tokens + _COST_TOKENS
        share.weight = spec.rules.weight
        if job.attempts:
            return -1.0
        start = max(self.virtual, self.finish.get(spec.project_id, 0.0))
        self.finish[spec.project_id] = start + (spec.tokens + _COST_TOKENS) / spec.rules.weight
        return start

    def leaves(self, job: Job, start: float, *, served: bool) -> None:
        spec = job.spec
        share = self.shares[spec.project_id]
        share.jobs -= 1
        share.tokens -= spec.tokens
        share.cost -= spec.tokens + _COST_TOKENS
        if served and start >= 0.0:
            self.virtual = max(self.virtual, start)
            finish = start + (spec.tokens + _COST_TOKENS) / spec.rules.weight
            share.served = max(share.served, finish)
        if not share.jobs:
            # What left without its turn has cost nothing.
            self.finish[spec.project_id] = share.served
            del self.shares[spec.project_id]
        if not self.shares:
            # Nobody waits: the past says nothing about the next to come.
            self.finish.clear()

    def tokens_before(self, job: Job, own_tokens: int) -> float:
        """Return the tokens of those that wait and go before the last of ``own_tokens`` more.

        ``job``'s project has its own before it, and of each other what its weight gives it until
        then.
        """
        spec = job.spec
        share = self.shares.get(spec.project_id)
        tokens, cost = (0, 0) if share is None else (share.tokens, share.cost)
        per_weight = (cost + own_tokens + _COST_TOKENS) / spec.rules.weight
        return tokens + sum(
            other.tokens * min(1.0, other.weight * per_weight / other.cost)
            for project_id, other in self.shares.items()
            if project_id != spec.project_id
        )


class _Class:
    """One priority class of one queue."""

    __slots__ = ("clock", "heap", "size", "tokens")

    def __init__(self, clock: Clock) -> None:
        self.heap: list[_Entry] = []
        self.clock = clock
        self.size = 0
        self.tokens = 0

    def head(self) -> _Entry | None:
        while self.heap and self.heap[0].job is None:
            heapq.heappop(self.heap)
        return self.heap[0] if self.heap else None

    def first(self, count: int) -> list[_Entry]:
        """Return the next ``count`` entries, however many wait behind them."""
        found: list[_Entry] = []
        while self.heap and len(found) < count:
            entry = heapq.heappop(self.heap)
            if entry.job is not None:
                found.append(entry)
        for entry in found:
            heapq.heappush(self.heap, entry)
        return found


class FairQueue:
    __slots__ = ("classes", "key")

    def __init__(self, key: Key, clocks: Mapping[Priority, Clock]) -> None:
        self.key = key
        self.classes: dict[Priority, _Class] = {
            priority: _Class(clock) for priority, clock in clocks.items()
        }

    def __len__(self) -> int:
        return self.classes["interactive"].size + self.classes["batch"].size


class Queues:
    """All queues; a job is in at most one, and knows its place there (``Job.waits_in``)."""

    def __init__(self) -> None:
        self.all: dict[Key, FairQueue] = {}
        self.size = 0
        self.lanes: dict[Lane, int] = {"edge": 0, "cloud": 0}
        self.by_project: dict[ProjectId, int] = {}
        # Of those that wait for the CPU worker.
        self.cloud: dict[Priority, Clock] = _clocks()
        self._numbers = itertools.count()

    def push(self, lane: Lane, job: Job, now: float) -> None:
        """Let ``job`` wait; one that has lost an attempt goes before those that had none."""
        spec = job.spec
        key = Key(lane, spec.digest, spec.rules.region, spec.rules.verify)
        queue = self.all.get(key)
        if queue is None:
            clocks = self.cloud if lane == "cloud" else _clocks()
            queue = self.all[key] = FairQueue(key, clocks)
        of = queue.classes[spec.priority]
        entry = _Entry(job, queue, of.clock.enters(job), next(self._numbers), now)
        heapq.heappush(of.heap, entry)
        job.waits_in = entry
        of.size += 1
        of.tokens += spec.tokens
        self.size += 1
        self.lanes[lane] += 1
        self.by_project[spec.project_id] = self.by_project.get(spec.project_id, 0) + 1

    def remove(self, job: Job, *, served: bool = False) -> None:
        """Take ``job`` out, wherever it waits; ``served`` when its turn had come."""
        entry = job.waits_in
        if not isinstance(entry, _Entry):
            return
        job.waits_in = entry.job = None
        spec, queue = job.spec, entry.queue
        of = queue.classes[spec.priority]
        of.size -= 1
        of.tokens -= spec.tokens
        self.size -= 1
        self.lanes[queue.key.lane] -= 1
        self.by_project[spec.project_id] -= 1
        if not self.by_project[spec.project_id]:
            del self.by_project[spec.project_id]
        of.clock.leaves(job, entry.start, served=served)
        if not len(queue):
            del self.all[queue.key]
        elif len(of.heap) > 2 * of.size + 64:
            # Jobs that ended elsewhere leave their entries behind.
            of.heap = [entry for entry in of.heap if entry.job is not None]
            heapq.heapify(of.heap)

    def waits(self, job: Job, lane: Lane) -> bool:
        """Whether ``job`` is in a queue of that lane."""
        return isinstance(job.waits_in, _Entry) and job.waits_in.queue.key.lane == lane

    def waiting(self, lane: Lane) -> Iterator[FairQueue]:
        """Yield the queues of a lane; they may change meanwhile."""
        return iter([queue for key, queue in self.all.items() if key.lane == lane])

    def ids(self) -> set[JobId]:
        """Return every job that waits (for checks, not for the hot path)."""
        return {
            entry.job.spec.job_id
            for queue in self.all.values()
            for of in queue.classes.values()
            for entry in of.heap
            if entry.job is not None
        }


def _clocks() -> dict[Priority, Clock]:
    return {"interactive": Clock(), "batch": Clock()}
