"""Writes down what happens: the figures of an `Outcome`, and a trace that two runs can compare."""

from __future__ import annotations

import hashlib

from bench.fleet.loop import Loop
from bench.fleet.outcome import Outcome, count
from bench.fleet.scenario import Scenario
from browser_node.protocol import AttemptId
from orchestrator.domain import effects as fx
from orchestrator.domain.board import Board
from orchestrator.domain.model import Answered, JobFailure

_FOLDED: int = 1_000


class Recorder:
    def __init__(self, *, scenario: Scenario, loop: Loop, outcome: Outcome) -> None:
        self._warmup_s = scenario.warmup_s
        self._loop = loop
        self.outcome = outcome
        self._submitted_at: dict[str, float] = {}
        self._digest = hashlib.blake2b(digest_size=16)
        self._notes: list[str] = []

    # ── customers ────────────────────────────────────────────────────────────────────────────────

    @property
    def waiting(self) -> int:
        """Jobs that customers wait for."""
        return len(self._submitted_at)

    def waits_for(self, job_id: str) -> bool:
        return job_id in self._submitted_at

    def submitted(self, job_ids: tuple[str, ...]) -> None:
        self.outcome.submitted += len(job_ids)
        for job_id in job_ids:
            self._submitted_at[job_id] = self._loop.now

    def cancelled(self, job_ids: tuple[str, ...]) -> None:
        self.outcome.cancelled += len(job_ids)
        for job_id in job_ids:
            del self._submitted_at[job_id]

    def connections_lost(self) -> None:
        self.outcome.connection_lost += len(self._submitted_at)
        self._submitted_at.clear()

    # ── the scheduler ────────────────────────────────────────────────────────────────────────────

    def decided(self, took_s: float, *, jobs: int) -> None:
        outcome = self.outcome
        outcome.events += 1
        outcome.scheduler_cpu_s += took_s
        outcome.decision_s.add(took_s)
        if jobs:
            outcome.placing_s.add(took_s / jobs, jobs)

    def sent(self, effect: fx.SendJobs, board: Board) -> None:
        outcome = self.outcome
        steady = self._loop.now >= self._warmup_s
        for item in effect.items:
            attempt = board.attempts[AttemptId(item.attempt_id)]
            purpose: str = attempt.purpose
            if purpose == "trial" and attempt.job_id is not None:
                always = board.jobs[attempt.job_id].spec.rules.verify == "always"
                purpose = "pair" if always else purpose
            count(outcome.attempts, purpose)
            count(outcome.tokens, purpose, item.tokens)
            if steady:
                count(outcome.steady_attempts, purpose)
                count(outcome.steady_tokens, purpose, item.tokens)
        self.note(f"s{effect.node_id}:{effect.items[0].attempt_id}:{len(effect.items)}")

    def delivered(self, answer: Answered, *, tokens: int) -> None:
        outcome = self.outcome
        latency_s = self._loop.now - self._submitted_at.pop(answer.job_id)
        outcome.latency_s[answer.place].add(latency_s)
        steady = self._loop.now >= self._warmup_s
        if steady:
            outcome.steady_latency_s.add(latency_s)
        outcome.answered_tokens += tokens
        outcome.steady_answered_tokens += tokens if steady else 0
        if answer.place == "edge":
            outcome.answered_edge += 1
            outcome.steady_edge += steady
        else:
            outcome.answered_cloud += 1
            outcome.steady_cloud += steady
        self.note(f"d{answer.job_id}:{answer.node_id}")

    def failed(self, failure: JobFailure) -> None:
        self._submitted_at.pop(failure.job_id, None)
        count(self.outcome.failed, failure.code)
        self.note(f"f{failure.job_id}:{failure.code}")

    def compared(self, check_id: int, *, agrees: bool) -> None:
        self.outcome.compared += 1
        self.outcome.disagreed += not agrees
        self.note(f"c{check_id}:{agrees:d}")

    # ── the trace ────────────────────────────────────────────────────────────────────────────────

    def note(self, what: str) -> None:
        self._notes.append(f"{self._loop.now:.6f}{what}")
        if len(self._notes) >= _FOLDED:
            self._fold()

    def _fold(self) -> None:
        self._digest.update("\n".join(self._notes).encode())
        self._notes.clear()

    def trace(self) -> str:
        """Return a digest of everything that was sent, answered, compared and failed."""
        self._fold()
        return self._digest.hexdigest()
