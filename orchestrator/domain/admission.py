"""Whether the CPU workers can answer in time, and when who is refused should come again."""

from __future__ import annotations

import random
from typing import Final

from orchestrator.domain.board import Board
from orchestrator.domain.model import Job, ProjectId
from orchestrator.domain.turns import worker_tokens

# A request is let in whose forecast takes so much of its time: the rest is for who comes after it,
# and for what the forecast does not know.
ADMITTED: Final = 0.8
MIN_RETRY_AFTER_S: Final = 1.0
# Not all of OpenAI's clients wait for longer than that.
MAX_RETRY_AFTER_S: Final = 60.0
RETRY_JITTER: Final = 0.1
_PROMISES_KEPT: Final = 1000
_PROMISED_MOST: Final = 10


class Admission:
    def __init__(self, board: Board, rng: random.Random) -> None:
        self._board = board
        self._rng = rng
        # Until when the CPU workers have enough to do with what was refused, if it all comes again.
        self._promised: dict[ProjectId, float] = {}

    def too_late(
        self, job: Job, now: float, *, fresh: bool, may_run_on_edge: bool
    ) -> tuple[str, float | None] | None:
        """Return why the CPU workers cannot answer in time, and in how many seconds to try again.

        A request is let in as a whole: who gets some of its answers in time gets nothing. Where
        nodes have the model too, nobody knows how much of it they will take.
        """
        rate, spec = self._workers_tokens_per_s(job), job.spec
        if not rate:
            return None  # one is coming, and nobody knows when
        left_s = job.deadline_at - now
        own_tokens = spec.tokens
        if fresh and spec.request_tokens:
            left_s *= ADMITTED
            if not (self._has_edge(job) and may_run_on_edge):
                own_tokens = spec.request_tokens
        own_s = own_tokens / rate
        before_s = worker_tokens(self._board, job, own_tokens) / rate
        if before_s + own_s <= left_s:
            return None
        if fresh and own_s > left_s:
            message = (
                f"This request takes about {_seconds(own_s)} of the CPU worker, and may take"
                f" {_seconds(left_s)}: send less at a time."
            )
            # To send the same again would not help, however late.
            return message, None
        message = f"All that could answer are busy for about {_seconds(max(before_s, 1.0))}."
        return message, self._promise_s(job, before_s + own_s - left_s, own_s, now)

    def backlog_s(self, job: Job) -> float:
        """Return in how many seconds the CPU workers will have done what is before such a job."""
        rate = self._workers_tokens_per_s(job)
        tokens = worker_tokens(self._board, job, job.spec.tokens)
        return self._jittered(tokens / rate if rate else 0.0)

    def _promise_s(self, job: Job, wait_s: float, own_s: float, now: float) -> float:
        """Return in how many seconds a refused request that takes ``own_s`` should come again.

        Not before what its project was told before it has had its time, or all come for the first
        gap and all but one in vain.
        """
        first_at, promised = now + wait_s, self._promised
        again_at = max(first_at, promised.pop(job.spec.project_id, 0.0))
        # One client that asks on and on is not as many as it seems.
        again_at = min(again_at, first_at + _PROMISED_MOST * own_s)
        if len(promised) >= _PROMISES_KEPT:
            del promised[next(iter(promised))]
        promised[job.spec.project_id] = again_at + own_s
        return self._jittered(again_at - now)

    def _jittered(self, seconds: float) -> float:
        """Return when to try again: not all at once, nor later than clients wait."""
        longer = seconds * (1.0 + RETRY_JITTER * self._rng.random())
        if longer >= MAX_RETRY_AFTER_S:
            return MAX_RETRY_AFTER_S * (1.0 - self._rng.random() / 2)
        return max(longer, MIN_RETRY_AFTER_S)

    def _workers_tokens_per_s(self, job: Job) -> float:
        digest = job.spec.digest
        return sum(
            worker.speeds[digest].tokens_per_s
            for worker in self._board.workers.values()
            if digest in worker.speeds and not worker.stale
        )

    def _has_edge(self, job: Job) -> bool:
        """Whether nodes have the model, or will: who is late or loading now may be back at once."""
        fleet = self._board.index.fleets[job.spec.digest]
        here = len(fleet.busy) or len(fleet.open["trusted", ""])
        return bool(here or fleet.late or fleet.loading)


def _seconds(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds >= 1.0 else f"{seconds:.1f} s"
