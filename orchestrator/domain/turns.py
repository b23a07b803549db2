"""Whose turn it is among those that wait, when something has room: requests, then batches.

A request waits for the edge or for the CPU worker, in the lane where it is expected to start. A
batch job takes whichever has room in the background first, whatever its lane; the queues of
batches, one for each model and demand, take turns. What waits and what runs in the background
counts for nothing where a request's time is forecast, since it makes way.

So that nobody starves, a batch job that has waited `AGEING_S` goes before the tenth request that
has waited too.
"""

from __future__ import annotations

import heapq
from collections import deque
from typing import TYPE_CHECKING, Final

from browser_node.protocol import ModelDigest
from orchestrator.domain.board import Board
from orchestrator.domain.index import ahead_tokens
from orchestrator.domain.model import Job
from orchestrator.domain.queues import FairQueue, Key, Queues

if TYPE_CHECKING:
    from orchestrator.domain.placing import Placing

AGEING_S: Final = 10.0
BATCH_TURN: Final = 10
# So many of a queue are tried when its head cannot be placed.
LOOK_AHEAD: Final = 4


class Turns:
    def __init__(self, board: Board, placing: Placing) -> None:
        self._board = board
        self._placing = placing
        self._requests_in_a_row = 0
        self._last_batch: Key | None = None

    def assign(self, now: float) -> None:
        """Give queued jobs to whatever has room now, in turn."""
        queues = self._board.queues
        if self._batch_is_due(now):
            self._assign_batches(now, most=1)
        for queue in queues.waiting("edge"):
            while queue.classes["interactive"].size and self._assign_edge(queue, now):
                self._requests_in_a_row += 1
        self._assign_requests_to_worker(now)
        self._assign_batches(now)

    # ── requests ─────────────────────────────────────────────────────────────────────────────────

    def _assign_edge(self, queue: FairQueue, now: float) -> bool:
        """Start or move on one of the first jobs; False when all stay."""
        board, placing = self._board, self._placing
        fleet = board.index.fleets[queue.key.digest]
        jobs = _first(queue, LOOK_AHEAD)
        for next_ in jobs if len(fleet.open["trusted", ""]) else ():
            found = placing.start_on_edge(next_, now, limit_s=next_.deadline_at - now)
            if found is None:
                return True
            if "busy" in found.skipped:
                return False
        if not jobs or len(fleet.busy) or fleet.late:
            return False
        job = jobs[0]
        if not placing.worker_will_come(job) and placing.edge_could_come(job, now):
            return False
        # Its nodes are gone: whatever else there is must take it.
        board.queues.remove(job)
        job.cloud_only = placing.worker_will_come(job)
        placing.place(job, now)
        return not board.queues.waits(job, "edge")

    def _assign_requests_to_worker(self, now: float) -> None:
        """Start those that wait for the CPU worker: of all queues' heads the one whose turn it is.

        What is shorter, or of a quicker model, does not take the room that a head waits for.
        """
        heads = [
            (head, queue)
            for queue in self._board.queues.waiting("cloud")
            if (head := queue.classes["interactive"].head()) is not None
        ]
        heapq.heapify(heads)
        kept = False
        while heads:
            entry, queue = heads[0]
            if not queue.classes["interactive"].size or not self._assign_cloud(
                queue, now, kept=kept
            ):
                kept = kept or (entry.job is not None and self._placing.has_worker(entry.job))
                heapq.heappop(heads)
                continue
            self._requests_in_a_row += 1
            head = queue.classes["interactive"].head()
            if head is None:
                heapq.heappop(heads)
            else:
                heapq.heapreplace(heads, (head, queue))

    def _assign_cloud(self, queue: FairQueue, now: float, *, kept: bool) -> bool:
        """Start or move on the first job; False when it stays. ``kept``: the room is another's."""
        placing = self._placing
        [job] = _first(queue, 1)
        if not kept and placing.try_worker(job, now):
            return True
        if placing.may_run_on_edge(job) and placing.start_on_edge(job, now) is None:
            return True
        if placing.worker_will_come(job):
            return False
        self._board.queues.remove(job)
        placing.place(job, now)
        return True

    # ── batches ──────────────────────────────────────────────────────────────────────────────────

    def _batch_is_due(self, now: float) -> bool:
        """Whether enough requests have gone before a batch job that has waited for long."""
        if self._requests_in_a_row < BATCH_TURN - 1:
            return False
        heads = (queue.classes["batch"].head() for queue in self._board.queues.all.values())
        return any(head is not None and now - head.since >= AGEING_S for head in heads)

    def _assign_batches(self, now: float, *, most: int | None = None) -> None:
        """Start batch jobs, or ``most`` of them, one of each queue in turn."""
        queues = deque(
            queue for queue in self._board.queues.all.values() if queue.classes["batch"].size
        )
        keys = [queue.key for queue in queues]
        if self._last_batch in keys:
            queues.rotate(-1 - keys.index(self._last_batch))
        while queues and most != 0:
            queue = queues.popleft()
            if not self._assign_batch(queue, now):
                continue
            self._last_batch = queue.key
            self._requests_in_a_row = 0
            most = None if most is None else most - 1
            if queue.classes["batch"].size:
                queues.append(queue)

    def _assign_batch(self, queue: FairQueue, now: float) -> bool:
        """Start one of the first batch jobs, or end it where nobody ever could; False if all stay.

        The first of all may have lost an attempt: then others may run where it may not any more.
        """
        placing = self._placing
        head = queue.classes["batch"].head()
        job = None if head is None else head.job
        if job is None:
            return False
        others = queue.classes["batch"].first(LOOK_AHEAD) if job.attempts else ()
        for next_ in (job, *(entry.job for entry in others if entry is not head)):
            if next_ is not None and self._start_in_background(next_, now):
                return True
        if placing.worker_will_come(job) or placing.edge_could_come(job, now):
            return False
        self._board.queues.remove(job)
        placing.place(job, now)
        return True

    def _start_in_background(self, job: Job, now: float) -> bool:
        """Start a batch job on the edge, or else on the CPU worker."""
        placing = self._placing
        found = None
        if placing.may_run_on_edge(job):
            found = placing.start_on_edge(job, now)
            if found is None:
                return True
        return placing.try_worker(job, now, found)


def is_batch(job: Job) -> bool:
    """Whether ``job`` runs in the background."""
    return job.spec.priority == "batch"


def _first(queue: FairQueue, count: int) -> list[Job]:
    """Return the requests of a queue that are next, whatever waits in the background."""
    entries = queue.classes["interactive"].first(count)
    return [entry.job for entry in entries if entry.job is not None]


# ── what goes before a request ───────────────────────────────────────────────────────────────────


def requests_wait(queues: Queues, job: Job) -> bool:
    """Whether other requests wait for the same nodes as ``job``."""
    if not queues.size:
        return False
    rules = job.spec.rules
    queue = queues.all.get(Key("edge", job.spec.digest, rules.region, rules.verify))
    return queue is not None and queue.classes["interactive"].size > 0


def edge_tokens(queues: Queues, digest: ModelDigest) -> int:
    """Return the tokens of the requests that wait for the nodes of a model."""
    return sum(
        queue.classes["interactive"].tokens
        for queue in queues.waiting("edge")
        if queue.key.digest == digest
    )


def worker_tokens(board: Board, job: Job, own_tokens: int) -> float:
    """Return the tokens that the CPU workers compute before the last of ``own_tokens`` of ``job``.

    What runs there, and what waits and has its turn before.
    """
    digest = job.spec.digest
    tokens = board.queues.cloud["interactive"].tokens_before(job, own_tokens)
    for worker in board.workers.values():
        speed = worker.speeds.get(digest)
        tokens += ahead_tokens(worker, 0.0 if speed is None else speed.tokens_per_s)
    return tokens
