"""Jobs that wait: for each model one queue for the edge and one for the CPU worker.

Entries are ids; one whose job has ended or moved on is a leftover that the reader passes over.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable
from typing import Final

from browser_node.protocol import ModelDigest
from orchestrator.domain.board import MIN_TOKENS_PER_S, Board
from orchestrator.domain.model import Job, JobId

# The head stands for the rest: summing ten thousand waiting jobs would cost more than it tells.
_SAMPLE: Final = 16


class Queues:
    def __init__(self, board: Board, digests: Iterable[ModelDigest]) -> None:
        self._board = board
        self.edge: dict[ModelDigest, deque[JobId]] = {digest: deque() for digest in digests}
        self.cloud: dict[ModelDigest, deque[JobId]] = {digest: deque() for digest in self.edge}

    def for_edge(self, job: Job) -> None:
        queue = self.edge[job.spec.digest]
        # A job that has already lost an attempt goes before those that have not had one.
        if job.attempts:
            queue.appendleft(job.spec.job_id)
        else:
            queue.append(job.spec.job_id)

    def for_worker(self, job: Job) -> None:
        self.cloud[job.spec.digest].append(job.spec.job_id)

    def edge_wait_s(self, digest: ModelDigest) -> float:
        """Return how long the jobs queued for ``digest`` keep its ready nodes busy."""
        queue = self.edge[digest]
        head = [
            job.spec.tokens
            for job_id in itertools.islice(queue, _SAMPLE)
            if (job := self._board.jobs.get(job_id)) is not None
        ]
        if not head:
            return 0.0
        tokens = sum(head) / len(head) * len(queue)
        nodes = (self._board.nodes[node_id] for node_id in self._board.ready[digest])
        speed = sum(n.speeds[digest].tokens_per_s for n in nodes if n.slots and not n.stale)
        return tokens / max(speed, MIN_TOKENS_PER_S)
