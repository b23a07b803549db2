"""What goes wrong and when: Poisson processes over the whole fleet."""

from __future__ import annotations

import random
from collections.abc import Callable

from bench.fleet.engine import VirtualEngine
from bench.fleet.loop import Loop
from bench.fleet.population import Population
from bench.fleet.scenario import Scenario
from bench.fleet.tabs import Tab


class Weather:
    """Makes the faults of a scenario happen until ``stop``."""

    def __init__(
        self,
        *,
        scenario: Scenario,
        loop: Loop,
        rng: random.Random,
        engine: VirtualEngine,
        population: Population,
    ) -> None:
        self._scenario, self._faults = scenario, scenario.faults
        self._loop, self._rng = loop, rng
        self._engine, self._population = engine, population
        self._stopped = False

    def start(self) -> None:
        faults = self._faults
        self._repeat(faults.kill_every_s, self._kill)
        self._repeat(faults.disconnect_every_s, self._disconnect)
        self._repeat(faults.region_loss_every_s, self._lose_region)
        self._repeat(faults.stall_every_s, self._stall)
        self._repeat(faults.clock_jump_every_s, self._jump)
        self._repeat(faults.restart_every_s, self._restart)
        self._repeat(faults.worker_crash_every_s, self._crash_worker)

    def stop(self) -> None:
        self._stopped = True

    def _repeat(self, every_s: float, fault: Callable[[], None]) -> None:
        if every_s:
            self._loop.after(self._rng.expovariate(1 / every_s), self._strike, every_s, fault)

    def _strike(self, every_s: float, fault: Callable[[], None]) -> None:
        if not self._stopped:
            fault()
            self._repeat(every_s, fault)

    def _someone(self) -> Tab | None:
        present = list(self._population.present.values())
        return self._rng.choice(present) if present else None

    def _kill(self) -> None:
        if (tab := self._someone()) is not None:
            self._population.kill(tab, silently=self._rng.random() < self._faults.silent)

    def _disconnect(self) -> None:
        for tab in list(self._population.present.values()):
            if self._rng.random() < self._faults.disconnect_share:
                self._population.drop(tab)

    def _lose_region(self) -> None:
        region = self._rng.choice(self._scenario.population.regions).name
        until = self._loop.now + self._faults.region_loss_s
        self._population.lost_regions[region] = until
        for tab in list(self._population.present.values()):
            if tab.profile.region == region:
                self._population.drop(tab)

    def _stall(self) -> None:
        if (tab := self._someone()) is not None:
            tab.stall(self._rng.expovariate(1 / self._faults.stall_s))

    def _jump(self) -> None:
        self._engine.jump(self._rng.expovariate(1 / self._faults.clock_jump_s))

    def _restart(self) -> None:
        if self._engine.up:
            self._engine.crash()
            self._loop.after(self._faults.restart_s, self._engine.start)

    def _crash_worker(self) -> None:
        for worker in self._population.workers:
            self._population.crash_worker(worker)
