"""What customers do: requests in waves and bursts, and hanging up before the answer."""

from __future__ import annotations

import itertools
import math
import random
from typing import Final

from bench.fleet import truth
from bench.fleet.engine import VirtualEngine
from bench.fleet.loop import Loop
from bench.fleet.scenario import Scenario
from browser_node.protocol import ModelDigest
from orchestrator.domain.model import JobId, NewJob, ProjectId

# So often a request asks for the larger model.
_LARGE: Final = 0.25
_MOST_TOKENS: Final = 200


class Customers:
    """Submits ``scenario.jobs`` jobs; ``done`` once all were."""

    def __init__(
        self, *, scenario: Scenario, loop: Loop, rng: random.Random, engine: VirtualEngine
    ) -> None:
        self._scenario, self._demand = scenario, scenario.demand
        self._loop, self._rng, self._engine = loop, rng, engine
        self._small, self._large = engine.manifests
        self._left = scenario.jobs
        self._numbers = itertools.count(1)
        self._burst_until = 0.0
        self._shares = [project.share for project in self._demand.projects]
        self._mean_jobs = (1 + self._demand.request_jobs) / 2

    @property
    def done(self) -> bool:
        return self._left <= 0

    def start(self) -> None:
        self._loop.after(1.0, self._ask)
        if self._demand.burst_every_s:
            self._loop.after(self._rng.expovariate(1 / self._demand.burst_every_s), self._burst)

    def rate(self, now: float) -> float:
        """Return jobs per second at ``now``."""
        demand = self._demand
        wave = 1 + demand.amplitude * math.sin(2 * math.pi * now / demand.day_s)
        return demand.jobs_per_s * wave * (demand.burst_factor if now < self._burst_until else 1)

    def _burst(self) -> None:
        if not self.done:
            self._burst_until = self._loop.now + self._demand.burst_s
            self._loop.after(self._rng.expovariate(1 / self._demand.burst_every_s), self._burst)

    def _ask(self) -> None:
        demand, rng = self._demand, self._rng
        project = rng.choices(demand.projects, self._shares)[0]
        digest = self._large if rng.random() < _LARGE else self._small
        number = next(self._numbers)
        size = min(1 + int(rng.random() * demand.request_jobs), self._left)
        jobs = tuple(
            NewJob(
                job_id=JobId(f"{number}.{index}"),
                digest=ModelDigest(digest),
                input=f"{number}.{index} {project.name} {self._last_word()}",
                tokens=self._tokens(),
                project_id=ProjectId(project.name),
                rules=project.rules,
                deadline_s=demand.deadline_s,
                priority=project.priority,
            )
            for index in range(size)
        )
        if self._engine.submit(jobs):
            self._left -= size
            if rng.random() < demand.cancelled:
                self._loop.after(rng.random() * 2.0, self._engine.cancel, jobs)
        if not self.done:
            gap_s = rng.expovariate(self.rate(self._loop.now) / self._mean_jobs)
            self._loop.after(gap_s, self._ask)

    def _tokens(self) -> int:
        median, sigma = self._demand.tokens, self._demand.tokens_sigma
        drawn = median * math.exp(self._rng.gauss(0.0, sigma))
        return min(max(int(drawn), 1), _MOST_TOKENS)

    def _last_word(self) -> str:
        drawn = self._rng.random()
        if drawn < self._demand.refused:
            return truth.REFUSED
        return truth.DEADLY if drawn < self._demand.refused + self._demand.deadly else "text"
