"""What a simulated fleet is made of: who lends, who asks, and what goes wrong. Frozen values.

`mix` returns one of the named fault mixes at any size. Times are virtual seconds; the fault mixes
are compressed (a "day" is ten minutes, an outage comes several times a minute) so that a short
run meets every fault many times.
"""

from __future__ import annotations

from typing import Final

import msgspec

from orchestrator.domain.model import DEFAULT_RULES, Priority, Rules
from orchestrator.domain.trust import Policy


class Region(msgspec.Struct, frozen=True):
    """Where tabs are: their share of the population, round trips (s) and distance from us."""

    name: str
    share: float
    rtt_s: tuple[float, float]
    distance_km: float


REGIONS: Final = (
    Region("EU-DE", 0.30, (0.012, 0.05), 400.0),
    Region("EU-FR", 0.20, (0.020, 0.07), 900.0),
    Region("NA-US", 0.25, (0.09, 0.18), 7_500.0),
    Region("AS-JP", 0.15, (0.20, 0.32), 9_300.0),
    Region("SA-BR", 0.10, (0.18, 0.30), 9_800.0),
)


class Population(msgspec.Struct, frozen=True, kw_only=True):
    """The tabs and the CPU workers.

    ``session_s`` and ``away_s`` are the means of exponential stays and absences; ``returning`` is
    the share of absentees that come back under the same identity. Speeds are log-normal around
    ``tokens_per_s``. ``conducts`` are shares by name (`behaviours.CONDUCTS`); the rest is honest.
    ``known`` is the share of honest identities whose record already shows them trusted.
    """

    nodes: int = 24
    session_s: float = 3_600.0
    away_s: float = 60.0
    returning: float = 0.7
    arrival_s: float = 5.0
    tokens_per_s: float = 900.0
    speed_sigma: float = 0.6
    noise_sigma: float = 0.15
    slots: tuple[int, int] = (2, 12)
    visible_s: float = 600.0
    hidden_s: float = 20.0
    webgpu: float = 0.2
    data_saver: float = 0.05
    cached: float = 0.6
    small_memory: float = 0.1
    bandwidth_bytes_per_s: float = 4e6
    known: float = 0.0
    conducts: tuple[tuple[str, float], ...] = ()
    regions: tuple[Region, ...] = REGIONS
    workers: int = 1
    worker_tokens_per_s: float = 6_000.0
    worker_slots: int = 64


class Project(msgspec.Struct, frozen=True):
    """A customer: its share of the demand and what it demands of placement."""

    name: str
    share: float
    rules: Rules = DEFAULT_RULES
    priority: Priority = "interactive"


PROJECTS: Final = (
    Project("plain", 0.60),
    Project("careful", 0.06, Rules(verify="always")),
    Project("choosy", 0.08, Rules(placement="trusted")),
    Project("own", 0.04, Rules(placement="cloud")),
    Project("european", 0.08, Rules(region="EU")),
    Project("private", 0.06, Rules(replays=False)),
    Project("heavy", 0.08, Rules(weight=2.0), "batch"),
)


class Demand(msgspec.Struct, frozen=True, kw_only=True):
    """What customers ask for.

    The rate is ``jobs_per_s`` times a wave of ``amplitude`` over ``day_s``, times ``burst_factor``
    during bursts. ``tokens`` is the median of a log-normal cut to 1–200. A request has up to
    ``request_jobs`` jobs. ``refused``: the share of inputs that no pipeline accepts; ``deadly``:
    of inputs that crash whatever tab starts them.
    """

    jobs_per_s: float = 100.0
    amplitude: float = 0.4
    day_s: float = 600.0
    burst_every_s: float = 60.0
    burst_s: float = 2.0
    burst_factor: float = 4.0
    tokens: float = 30.0
    tokens_sigma: float = 0.8
    request_jobs: int = 8
    deadline_s: float = 30.0
    cancelled: float = 0.01
    refused: float = 0.001
    deadly: float = 0.0
    projects: tuple[Project, ...] = PROJECTS


class Faults(msgspec.Struct, frozen=True, kw_only=True):
    """What goes wrong; 0 means never. ``_every_s`` are means of exponential gaps for the fleet.

    ``silent``: the share of kills whose socket nobody sees closing. ``lost_frames``: the
    probability that a frame after the welcome never arrives. ``clock_jump_s``: the orchestrator's
    clock jumps ahead, as after the machine slept.
    """

    kill_every_s: float = 0.0
    silent: float = 0.3
    disconnect_every_s: float = 0.0
    disconnect_share: float = 0.5
    region_loss_every_s: float = 0.0
    region_loss_s: float = 10.0
    slow: float = 0.0
    slow_factor: float = 8.0
    stall_every_s: float = 0.0
    stall_s: float = 12.0
    lost_frames: float = 0.0
    clock_jump_every_s: float = 0.0
    clock_jump_s: float = 8.0
    restart_every_s: float = 0.0
    restart_s: float = 2.0
    worker_crash_every_s: float = 0.0
    worker_back_s: float = 2.0


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """A run: ``jobs`` are submitted, then everything accepted gets its deadline plus grace.

    ``warmup_s`` is left out of the steady-state figures. ``max_queued`` bounds the queue;
    ``sample_s`` is the gap between points of the timeline.
    """

    name: str
    jobs: int = 12_000
    population: Population = Population()
    demand: Demand = Demand()
    faults: Faults = Faults()
    policy: Policy = Policy()
    max_queued: int = 10_000
    warmup_s: float = 30.0
    sample_s: float = 5.0


CALM: Final = Faults()
CHURN: Final = Faults(kill_every_s=3.0)
OUTAGE: Final = Faults(disconnect_every_s=12.0, region_loss_every_s=15.0)
WEATHER: Final = Faults(
    slow=0.15, stall_every_s=3.0, lost_frames=0.002, clock_jump_every_s=30.0, silent=0.5
)
RESTART: Final = Faults(restart_every_s=35.0, worker_crash_every_s=20.0, kill_every_s=10.0)
LIARS: Final = (
    ("garbage", 0.08),
    ("another", 0.06),
    ("constant", 0.06),
    ("sleeper", 0.06),
    ("colluder", 0.08),
    ("pool_reader", 0.06),
    ("braggart", 0.04),
    ("staller", 0.04),
    ("whitewasher", 0.06),
    ("forger", 0.06),
    ("hider", 0.04),
    ("swapper", 0.04),
)

MIXES: Final = ("calm", "churn", "outage", "weather", "restart", "liars")
STRESSES: Final = ("known", "flood", "dark")
"""Beside the fault mixes: everybody trusted from the start; far more asked than can be done, with
short deadlines and a short queue; no CPU worker, and so nobody to vouch for the tabs."""


def mix(name: str, *, jobs: int = 12_000, nodes: int = 24) -> Scenario:
    """Return the fault mix called ``name``: ``nodes`` tabs and a demand they can meet."""
    demand = Demand(jobs_per_s=3.0 * nodes, deadly=0.0002 if name == "churn" else 0.0)
    population = Population(nodes=nodes, worker_tokens_per_s=max(6_000.0, 60.0 * nodes))
    faults = CALM
    match name:
        case "calm":
            pass
        case "churn":
            # Kills per node stay the same at every size.
            faults = msgspec.structs.replace(CHURN, kill_every_s=72.0 / nodes)
            population = msgspec.structs.replace(
                population, session_s=90.0, away_s=15.0, visible_s=60.0
            )
        case "outage":
            faults = OUTAGE
        case "weather":
            faults = msgspec.structs.replace(WEATHER, stall_every_s=72.0 / nodes)
        case "restart":
            faults = RESTART
        case "liars":
            population = msgspec.structs.replace(population, conducts=LIARS)
        case "known":
            population = msgspec.structs.replace(population, known=1.0)
        case "flood":
            population = msgspec.structs.replace(
                population, worker_tokens_per_s=300.0, slots=(2, 4), known=1.0
            )
            demand = msgspec.structs.replace(
                demand, jobs_per_s=40.0 * nodes, deadline_s=3.0, tokens=20.0
            )
        case "dark":
            population = msgspec.structs.replace(population, workers=0)
        case _:
            named = ", ".join((*MIXES, *STRESSES))
            raise ValueError(f"{name!r} is no fault mix; there are {named}")
    return Scenario(
        name=name,
        jobs=jobs,
        population=population,
        demand=demand,
        faults=faults,
        max_queued=300 if name == "flood" else 10_000,
    )
