"""A whole run: build the world from a scenario and a seed, let time pass, return the figures."""

from __future__ import annotations

import random
import time
from typing import Final

from bench.fleet.customers import Customers
from bench.fleet.engine import SchedulerFactory, VirtualEngine
from bench.fleet.faults import Weather
from bench.fleet.invariants import GRACE_S, InvariantBroken, Laws
from bench.fleet.loop import Loop
from bench.fleet.outcome import Outcome, Sample
from bench.fleet.population import Population
from bench.fleet.recorder import Recorder
from bench.fleet.scenario import Scenario
from orchestrator.domain.scheduler import Options, Scheduler

# Longer than any run should take: a loop that goes nowhere is a bug to be seen, not waited for.
_MOST_VIRTUAL_S: Final = 200_000.0
# In it the worker catches up with audits, and the last leases end.
_AFTERMATH_S: Final = 20.0


def run(
    scenario: Scenario,
    *,
    seed: int,
    check: bool = True,
    scheduler_factory: SchedulerFactory = Scheduler,
    options: Options | None = None,
) -> Outcome:
    """Simulate ``scenario`` from ``seed``; the same two give the same `Outcome.trace`.

    Raises `InvariantBroken`, which says how to see it again, unless ``check`` is false: then laws
    that compare whole books are left out.
    """
    world = _World(scenario, seed, check, scheduler_factory, options)
    try:
        return world.run()
    except InvariantBroken as error:
        size = f"jobs={scenario.jobs}, nodes={scenario.population.nodes}"
        raise InvariantBroken(
            f"{error} [scenario {scenario.name}, seed {seed}, at {world.loop.now:.3f} s; again: "
            f"run(mix({scenario.name!r}, {size}), seed={seed})]"
        ) from error


class _World:
    def __init__(
        self,
        scenario: Scenario,
        seed: int,
        check: bool,
        factory: SchedulerFactory,
        options: Options | None,
    ) -> None:
        self._scenario = scenario
        self.loop = loop = Loop()
        # The bound that the laws hold the scheduler to is the scenario's, whatever it is told.
        options = options or Options(max_queued=scenario.max_queued)
        self._outcome = outcome = Outcome(scenario=scenario.name, seed=seed)

        def rng(purpose: str) -> random.Random:
            return random.Random(f"{seed} {scenario.name} {purpose}")

        laws = Laws(
            policy=scenario.policy,
            rules={project.name: project.rules for project in scenario.demand.projects},
            max_queued=scenario.max_queued,
            project_share=options.project_share,
            hedge_share=options.hedge_share,
            worker_wanted=scenario.population.workers > 0,
            outcome=outcome,
        )
        self._population = Population(
            scenario=scenario, loop=loop, rng=rng("people"), outcome=outcome
        )
        self._recorder = Recorder(scenario=scenario, loop=loop, outcome=outcome)
        self._engine = VirtualEngine(
            scenario=scenario,
            loop=loop,
            rng=rng("network"),
            factory=factory,
            options=options,
            laws=laws,
            recorder=self._recorder,
            check=check,
            profile_of=self._population.profile_of,
            on_trusted=self._population.trusted,
        )
        self._customers = Customers(
            scenario=scenario, loop=loop, rng=rng("customers"), engine=self._engine
        )
        self._weather = Weather(
            scenario=scenario,
            loop=loop,
            rng=rng("faults"),
            engine=self._engine,
            population=self._population,
        )

    def run(self) -> Outcome:
        loop, outcome = self.loop, self._outcome
        began = time.process_time()
        self._engine.start()
        self._population.start(self._engine)
        self._customers.start()
        self._weather.start()
        loop.after(self._scenario.sample_s, self._sample)
        while not self._customers.done:
            loop.step()
            if loop.now > _MOST_VIRTUAL_S:
                raise InvariantBroken(f"{outcome.submitted} jobs after {loop.now:.0f} s")
        self._weather.stop()
        until = loop.now + self._scenario.demand.deadline_s + GRACE_S
        while loop.now <= until and (self._recorder.waiting or not self._engine.up):
            loop.step()
        quiet_at = loop.now + _AFTERMATH_S
        while loop.now < quiet_at:
            loop.step()
        self._engine.settle()
        self._population.measure()
        outcome.late_results += self._engine.scheduler.counters.late_results
        outcome.virtual_s = loop.now
        outcome.trace = self._recorder.trace()
        outcome.cpu_s = time.process_time() - began
        return outcome

    def _sample(self) -> None:
        """Add a point to the timeline."""
        scenario, outcome, engine = self._scenario, self._outcome, self._engine
        self.loop.after(scenario.sample_s, self._sample)
        if not engine.up:
            return
        nodes = [node for node in engine.scheduler.board.nodes.values() if not node.trusted]
        outcome.present_s += len(nodes) * scenario.sample_s
        outcome.timeline.append(
            Sample(
                at_s=self.loop.now,
                nodes=len(nodes),
                trusted=sum(node.level == "trusted" for node in nodes),
                queued=engine.scheduler.queued,
                running=engine.scheduler.running,
                submitted=outcome.submitted,
                answered_edge=outcome.answered_edge,
                answered_cloud=outcome.answered_cloud,
                failed=sum(outcome.failed.values()),
            )
        )
