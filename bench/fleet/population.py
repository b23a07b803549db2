"""Who lends: tabs that come, go, hide and return, and the CPU workers."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable
from typing import Final

from bench.fleet import truth
from bench.fleet.behaviours import CONDUCTS
from bench.fleet.engine import VirtualEngine
from bench.fleet.loop import Loop
from bench.fleet.outcome import Outcome, Tally
from bench.fleet.scenario import Region, Scenario
from bench.fleet.tabs import Profile, Tab
from bench.fleet.wire import Wire
from browser_node.protocol import ModelDigest
from orchestrator.domain.trust import Identity, RuntimeClass, Standing

# A whitewasher gives an identity up that has had no work for so long.
_PATIENCE_S: Final = 10.0
_LARGE_MEMORY_MB: Final = 4_000
_SMALL_MEMORY_MB: Final = 1_000
_RETRY_S: Final = 1.0
_MOST_RETRY_S: Final = 30.0


class Population:
    """All tabs ever seen, by what they are; ``present`` are those that want to be connected."""

    def __init__(
        self,
        *,
        scenario: Scenario,
        loop: Loop,
        rng: random.Random,
        outcome: Outcome,
    ) -> None:
        self._scenario, self._people = scenario, scenario.population
        self._loop, self._rng = loop, rng
        self._outcome = outcome
        self._profiles: dict[bytes, Profile] = {}
        self._numbers = 0
        self.present: dict[int, Tab] = {}
        self.workers: list[Tab] = []
        self.lost_regions: dict[str, float] = {}
        self._joined_at: dict[str, float] = {}
        self._worked: list[Tab] = []
        self._stays: dict[int, int] = {}
        self.ended = False

    def start(self, engine: VirtualEngine) -> None:
        """Let the CPU workers connect and the tabs arrive."""
        self._engine = engine
        self._digests: list[ModelDigest] = list(engine.manifests)
        for _ in range(self._people.workers):
            tab = self._tab(self._worker())
            self.workers.append(tab)
            tab.join()
        for behaviour in self._behaviours():
            tab = self._tab(self._profile(behaviour))
            arrives_at = self._rng.random() * self._people.arrival_s
            self._loop.at(arrives_at, self._arrive, tab)

    def profile_of(self, key: bytes) -> Profile:
        return self._profiles[key]

    # ── who they are ─────────────────────────────────────────────────────────────────────────────

    def _behaviours(self) -> Iterable[str]:
        """Return a behaviour for each tab: the shares exactly, in random order."""
        people = self._people
        names: list[str] = []
        for name, share in people.conducts:
            names += [name] * max(round(share * people.nodes), 1)
        names += ["honest"] * (people.nodes - len(names))
        self._rng.shuffle(names)
        return names

    def _worker(self) -> Profile:
        self._numbers += 1
        key = f"cpu worker {self._numbers}".encode()
        profile = Profile(
            number=self._numbers,
            key=key,
            identity="",
            backend="onnxruntime",
            cpu=True,
            rtt_s=0.0004,
            tokens_per_s=self._people.worker_tokens_per_s,
            noise_sigma=0.05,
            slots=self._people.worker_slots,
            memory_mb=32_000,
            behaviour="cpu",
        )
        self._profiles[key] = profile
        return profile

    def _profile(self, behaviour: str, *, like: Profile | None = None) -> Profile:
        """Return somebody new; ``like`` somebody: the same device and place, another key."""
        people, rng = self._people, self._rng
        self._numbers += 1
        number = self._numbers
        key = hashlib.sha512(f"{self._scenario.name} {number}".encode()).digest() + b"."
        identity = hashlib.sha256(key).hexdigest()
        region = self._region()
        slow = 1.0 / self._scenario.faults.slow_factor if self._slow() else 1.0
        speed = people.tokens_per_s * rng.lognormvariate(0.0, people.speed_sigma) * slow
        profile = Profile(
            number=number,
            key=key,
            identity=identity,
            backend="webgpu" if rng.random() < people.webgpu else "wasm",
            region=region.name if like is None else like.region,
            distance_km=region.distance_km if like is None else like.distance_km,
            # A few people share a network.
            network=like.network if like is not None else f"net{rng.randrange(people.nodes)}",
            rtt_s=rng.uniform(*region.rtt_s) if like is None else like.rtt_s,
            tokens_per_s=speed if like is None else like.tokens_per_s,
            noise_sigma=people.noise_sigma,
            slots=rng.randint(*people.slots),
            memory_mb=(
                _SMALL_MEMORY_MB if rng.random() < people.small_memory else _LARGE_MEMORY_MB
            ),
            bandwidth_bytes_per_s=people.bandwidth_bytes_per_s * rng.lognormvariate(0.0, 0.5),
            cached=tuple(d for d in self._digests if rng.random() < people.cached),
            data_saver=rng.random() < people.data_saver,
            own_error=rng.uniform(-truth.NODE_ERROR, truth.NODE_ERROR),
            behaviour=behaviour,
            conduct=CONDUCTS[behaviour],
        )
        self._profiles[key] = profile
        self._outcome.tallies.setdefault(behaviour, Tally()).identities += 1
        if behaviour == "honest" and rng.random() < people.known:
            self._known(profile)
        return profile

    def _known(self, profile: Profile) -> None:
        """Store a record of earlier days."""
        identity = Identity(profile.identity)
        runtime = RuntimeClass(f"browser/{profile.backend}")
        standing = Standing(identity, runtime, consecutive=60, real=30, agreed=60)
        self._engine.remember(standing)

    def _region(self) -> Region:
        regions = self._people.regions
        return self._rng.choices(regions, [region.share for region in regions])[0]

    def _slow(self) -> bool:
        return self._rng.random() < self._scenario.faults.slow

    def _tab(self, profile: Profile) -> Tab:
        return Tab(
            profile,
            loop=self._loop,
            rng=random.Random(self._rng.random()),
            connect=self._connect,
            on_closed=self._closed,
            on_crash=self._crashed,
        )

    # ── coming and going ─────────────────────────────────────────────────────────────────────────

    def _arrive(self, tab: Tab) -> None:
        if self.ended:
            return
        number = tab.profile.number
        self.present[number] = tab
        self._worked.append(tab)
        self._stays[number] = stay = self._stays.get(number, 0) + 1
        self._joined_at.setdefault(tab.profile.identity, self._loop.now)
        self._try(tab, 0)
        rng, people = self._rng, self._people
        self._loop.after(rng.expovariate(1 / people.session_s), self._depart, tab, stay)
        if people.visible_s:
            self._loop.after(rng.expovariate(1 / people.visible_s), self._hide, tab, stay)
        if tab.profile.conduct.returns_anew:
            self._loop.after(_PATIENCE_S, self._wash, tab, stay)

    def _connect(self, tab: Tab) -> Wire | None:
        if self.lost_regions.get(tab.profile.region, 0.0) > self._loop.now:
            return None
        return self._engine.connect(tab)

    def _try(self, tab: Tab, tries: int) -> None:
        """Connect, or try again after a random time that grows: full jitter."""
        if self.present.get(tab.profile.number) is not tab or tab.connected:
            return
        tab.join()
        if not tab.connected:
            most_s = min(_RETRY_S * 2**tries, _MOST_RETRY_S)
            self._loop.after(self._rng.random() * most_s, self._try, tab, tries + 1)

    def _closed(self, tab: Tab, _code: int) -> None:
        """A connection ended that the node did not end."""
        if tab.profile.cpu:
            self._loop.after(self._scenario.faults.worker_back_s, self._worker_back, tab)
        elif self.present.get(tab.profile.number) is tab:
            self._loop.after(self._rng.random() * _RETRY_S, self._try, tab, 1)

    def _crashed(self, tab: Tab) -> None:
        """What it was given killed it."""
        if tab.profile.cpu:
            self.crash_worker(tab)
        else:
            self.kill(tab, silently=False)

    def crash_worker(self, tab: Tab) -> None:
        if tab.connected:
            tab.leave()
            self._loop.after(self._scenario.faults.worker_back_s, self._worker_back, tab)

    def _worker_back(self, tab: Tab) -> None:
        if not tab.connected:
            tab.ticket = None
            tab.join()
        if not tab.connected:
            self._loop.after(0.5, self._worker_back, tab)

    def kill(self, tab: Tab, *, silently: bool) -> None:
        """The tab is gone at once; somebody like it may come back."""
        self._gone(tab, silently=silently)

    def drop(self, tab: Tab) -> None:
        """The tab loses its connection and tries to get it back."""
        tab.leave(silently=self._rng.random() < self._scenario.faults.silent)
        self._loop.after(self._rng.random() * _RETRY_S, self._try, tab, 1)

    def _depart(self, tab: Tab, stay: int) -> None:
        if self._stays.get(tab.profile.number) == stay:
            self._gone(tab, silently=False)

    def _gone(self, tab: Tab, *, silently: bool) -> None:
        number = tab.profile.number
        if self.present.pop(number, None) is None:
            return
        tab.leave(silently=silently)
        self._stays[number] += 1
        after_s = self._rng.expovariate(1 / self._people.away_s)
        if self._rng.random() < self._people.returning:
            self._loop.after(after_s, self._arrive, tab)
        else:
            self._loop.after(after_s, self._replace, tab)

    def _replace(self, tab: Tab) -> None:
        """Somebody else takes the place of one that will not come back."""
        if not self.ended:
            self._arrive(self._tab(self._profile(tab.profile.behaviour)))

    def _hide(self, tab: Tab, stay: int) -> None:
        if self._stays.get(tab.profile.number) == stay:
            tab.show(False)
            away_s = self._rng.expovariate(1 / self._people.hidden_s)
            self._loop.after(away_s, self._show, tab, stay)

    def _show(self, tab: Tab, stay: int) -> None:
        tab.show(True)
        if self._stays.get(tab.profile.number) == stay:
            here_s = self._rng.expovariate(1 / self._people.visible_s)
            self._loop.after(here_s, self._hide, tab, stay)

    def _wash(self, tab: Tab, stay: int) -> None:
        """A whitewasher that gets no work comes back as somebody else."""
        if self._stays.get(tab.profile.number) != stay or self.ended:
            return
        if self._loop.now - tab.worked_at < _PATIENCE_S:
            self._loop.after(_PATIENCE_S, self._wash, tab, stay)
            return
        self.present.pop(tab.profile.number, None)
        self._stays[tab.profile.number] += 1
        tab.leave()
        self._arrive(self._tab(self._profile(tab.profile.behaviour, like=tab.profile)))

    # ── figures ──────────────────────────────────────────────────────────────────────────────────

    def trusted(self, identity: Identity) -> None:
        """Note how long it took an honest newcomer to be trusted."""
        joined_at = self._joined_at.pop(identity, None)
        if joined_at is not None:
            self._outcome.trusted_after_s.add(self._loop.now - joined_at)

    def measure(self) -> None:
        """Add up what everybody did."""
        for tab in {id(tab): tab for tab in self._worked}.values():
            self._outcome.busy_s += tab.meter.busy_s
            self._outcome.tallies[tab.profile.behaviour].told += tab.meter.lies
        self._outcome.worker_busy_s = sum(tab.meter.busy_s for tab in self.workers)
