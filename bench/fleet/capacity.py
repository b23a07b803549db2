"""How many machines a fleet needs, on paper: counts, not objects, so a million tabs are instant.

Each region is built for its own busiest hour, and for the hour at which another region's loss would
send it the most. What it takes for granted is `Assumptions`; what it finds is a `Plan`, whose
``limits`` are sorted by what breaks first when everything grows and nothing is added.
"""

from __future__ import annotations

import math
from typing import Final

import msgspec

from bench.fleet.assumptions import Assumptions, Region
from bench.fleet.storms import Storm, storms
from orchestrator.domain import liveness, router

# A node silent for longer is asked before it gets work: then every first job waits for a pong.
_PROBE_AT_MOST_S: Final = router.STALE_S
# Orchestrators of a region tell each other what is free: the messages grow with the square.
_MESH: Final = 100
# With one process a crash is an outage.
_PROCESSES_AT_LEAST: Final = 2


class Traffic(msgspec.Struct, frozen=True, kw_only=True):
    """What flows at a busiest hour, per second; fields without a unit are counts a second."""

    nodes: float
    requests: float
    joins: float
    newcomers: float
    edge: float
    cloud: float
    audits: float
    trials: float
    hedges: float
    probes: float
    cpu_worker_tokens: float
    edge_capacity_tokens: float
    edge_tokens: float
    orchestrator_cores: float

    @property
    def frames(self) -> float:
        """Frames both ways: a job and its result, a ping and its pong, five to join."""
        return 2 * self.edge + 2 * self.trials + 2 * self.probes + 5 * self.joins


class RegionPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What one region needs. ``set_by`` is the reason for its number of processes."""

    name: str
    share: float
    peak_hour: float
    traffic: Traffic
    processes: int
    set_by: str
    machines: int
    cpu_workers: int
    sockets_per_process: float
    process_load: float
    memory_per_process_mb: float
    probe_every_s: float
    gbit: float
    download_gbit: float


class Limit(msgspec.Struct, frozen=True, kw_only=True):
    """What is used of a bounded thing in the region that uses most of it, and what happens then."""

    name: str
    used: float
    limit: float
    unit: str
    then: str

    @property
    def growth(self) -> float:
        """By what factor all can grow until this breaks."""
        return self.limit / self.used if self.used else math.inf


class Hour(msgspec.Struct, frozen=True):
    """The whole world at an hour (UTC) of the day."""

    utc: int
    nodes: float
    requests: float


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    regions: tuple[RegionPlan, ...]
    busiest: Hour
    quietest: Hour
    storms: tuple[Storm, ...]
    limits: tuple[Limit, ...]

    def total(self, of: str) -> float:
        """Return the sum of a `Traffic` field over the regions, each at its busiest hour."""
        return math.fsum(getattr(region.traffic, of) for region in self.regions)

    @property
    def processes(self) -> int:
        return sum(region.processes for region in self.regions)

    @property
    def machines(self) -> int:
        return sum(region.machines for region in self.regions)

    @property
    def cpu_workers(self) -> int:
        return sum(region.cpu_workers for region in self.regions)


def plan(given: Assumptions) -> Plan:
    """Return what the fleet needs, how it recovers and what breaks first."""
    regions = tuple(_region(given, region) for region in given.regions)
    hours = [_world(given, hour) for hour in range(24)]
    busiest = max(hours, key=lambda hour: hour.nodes)
    return Plan(
        regions=regions,
        busiest=busiest,
        quietest=min(hours, key=lambda hour: hour.nodes),
        storms=storms(
            given,
            processes={region.name: region.processes for region in regions},
            tabs={region.name: region.traffic.nodes for region in regions},
            world_tabs=busiest.nodes,
        ),
        limits=tuple(sorted(_limits(given, regions), key=lambda limit: limit.growth)),
    )


# ── a day ────────────────────────────────────────────────────────────────────────────────────────


def of_peak(given: Assumptions, region: Region, hour: float) -> float:
    """Return a region's load at an hour as a share of its own peak: a cosine over the day."""
    height = math.cos((hour - region.peak_hour) * math.tau / 24)
    return (1 + given.daily_swing * height) / (1 + given.daily_swing)


def _world(given: Assumptions, hour: int) -> Hour:
    share = math.fsum(r.share * of_peak(given, r, hour) for r in given.regions)
    return Hour(hour, given.nodes * share, given.requests_per_s * share)


def _with_loss(given: Assumptions, region: Region) -> float:
    """Return the most that a region carries while another is gone, as a share of the world's peak.

    The lost region's load goes to the others in proportion to their shares.
    """
    most = region.share
    for lost in given.regions:
        if lost is region:
            continue
        taken = region.share / (1 - lost.share)
        for hour in range(24):
            own = region.share * of_peak(given, region, hour)
            most = max(most, own + taken * lost.share * of_peak(given, lost, hour))
    return most


# ── one region ───────────────────────────────────────────────────────────────────────────────────


def traffic(given: Assumptions, share: float) -> Traffic:
    """Return what flows where ``share`` of the world's peak is."""
    nodes = given.nodes * share
    requests = given.requests_per_s * share
    # Lives with a longer tail than an exponential's have fewer ends at the same median: an upper
    # bound on churn.
    joins = nodes / (given.tab_life_min * 60)
    newcomers = joins * (1 - given.returning_share)
    capacity = nodes * given.availability_share * given.tab_tokens_per_s
    wanted = requests * (1 - given.fallback_share)
    edge = min(wanted, capacity / given.tokens_per_request)
    cloud = requests - edge
    audits = edge * given.audit_share
    hedges = min(edge, requests * given.hedge_share)
    trials = newcomers * given.trials_per_newcomer
    probes = _probes_per_s(nodes, share=given.availability_share, answers_per_s=edge)
    busy_us = (
        requests * given.request_us
        + (audits + hedges + trials) * given.attempt_us
        + joins * given.join_us
        + probes * given.probe_us
    )
    return Traffic(
        nodes=nodes,
        requests=requests,
        joins=joins,
        newcomers=newcomers,
        edge=edge,
        cloud=cloud,
        audits=audits,
        trials=trials,
        hedges=hedges,
        probes=probes,
        cpu_worker_tokens=(cloud + audits + hedges + trials) * given.tokens_per_request,
        edge_capacity_tokens=capacity,
        edge_tokens=edge * given.tokens_per_request,
        orchestrator_cores=busy_us * 1e-6,
    )


def _probes_per_s(nodes: float, *, share: float, answers_per_s: float) -> float:
    """Return the probes that fall due: a node is asked when it was silent for `PROBE_IDLE_S`.

    Answers that come at random with rate λ leave such a gap λ / (e^λT − 1) times a second.
    """
    idle_s = liveness.PROBE_IDLE_S
    working = nodes * share
    rate = answers_per_s / working if working else 0.0
    exponent = rate * idle_s
    # Beyond, hardly any gap is that long, and e^λT is too large a number.
    of_working = 0.0 if exponent > 500 else rate / math.expm1(exponent) if rate else 1 / idle_s
    return (nodes - working) / idle_s + working * of_working


def _region(given: Assumptions, region: Region) -> RegionPlan:
    flow = traffic(given, region.share)
    worst = traffic(given, _with_loss(given, region))
    probes_at_most = given.probes_per_s * _PROBE_AT_MOST_S / liveness.PROBE_IDLE_S
    needs = {
        "a spare for a crash": float(_PROCESSES_AT_LEAST),
        "CPU": flow.orchestrator_cores / given.load,
        "sockets": flow.nodes / given.sockets_max,
        "probes": flow.probes / probes_at_most,
        "CPU with a region lost": worst.orchestrator_cores / given.load_after_loss,
        "sockets with a region lost": worst.nodes / given.sockets_max,
    }
    set_by = max(needs, key=lambda name: needs[name])
    processes = math.ceil(needs[set_by])
    machines = max(math.ceil(processes / given.processes_per_machine), 1)
    sockets = flow.nodes / processes
    jobs_bytes = flow.requests * given.customer_bytes + flow.edge * given.edge_bytes
    download_bytes = flow.newcomers * given.download_mb * 1e6
    own_bytes = jobs_bytes + download_bytes * (1 - given.cdn_share)
    return RegionPlan(
        name=region.name,
        share=region.share,
        peak_hour=region.peak_hour,
        traffic=flow,
        processes=processes,
        set_by=set_by,
        machines=machines,
        cpu_workers=math.ceil(
            flow.cpu_worker_tokens / (given.cpu_worker_tokens_per_s * given.cpu_worker_load)
        ),
        sockets_per_process=sockets,
        process_load=flow.orchestrator_cores / processes,
        memory_per_process_mb=given.process_mb + sockets * (given.socket_kb + given.node_kb) / 1e3,
        probe_every_s=max(
            liveness.PROBE_IDLE_S * flow.probes / (processes * given.probes_per_s),
            liveness.PROBE_IDLE_S,
        ),
        gbit=own_bytes * 8e-9,
        download_gbit=download_bytes * 8e-9,
    )


# ── what breaks first ────────────────────────────────────────────────────────────────────────────


def _limits(given: Assumptions, regions: tuple[RegionPlan, ...]) -> list[Limit]:
    """Return every bound with the use of it in the region that is nearest to it."""
    return [
        Limit(
            name="sockets of a process",
            used=max(r.sockets_per_process for r in regions),
            limit=float(given.sockets_max),
            unit="",
            then="further tabs are refused and try again later",
        ),
        Limit(
            name="CPU of a process",
            used=max(r.process_load for r in regions),
            limit=1.0,
            unit="cores",
            then="requests wait in front of the event loop",
        ),
        Limit(
            name="probes of a process",
            used=max(r.traffic.probes / r.processes for r in regions),
            limit=given.probes_per_s * _PROBE_AT_MOST_S / liveness.PROBE_IDLE_S,
            unit="1/s",
            then="idle tabs are asked before their first job, which waits for it",
        ),
        Limit(
            name="joins of a process",
            used=max(r.traffic.joins / r.processes for r in regions),
            limit=given.accepts_per_s,
            unit="1/s",
            then="tabs are gone before they are welcomed",
        ),
        Limit(
            name="processes of a region",
            used=float(max(r.processes for r in regions)),
            limit=float(_MESH),
            unit="",
            then="their messages about free tabs outgrow the jobs: divide the region",
        ),
        Limit(
            name="network of a machine",
            used=max(r.gbit / r.machines for r in regions),
            limit=given.machine_gbit,
            unit="Gbit/s",
            then="first visits crawl: have others serve more of the downloads",
        ),
        Limit(
            name="computing of the tabs",
            used=max(
                _ratio(r.traffic.edge_tokens, r.traffic.edge_capacity_tokens) for r in regions
            ),
            limit=1.0,
            unit="of their speed",
            then="the rest goes to the CPU workers",
        ),
        Limit(
            name="CPU workers",
            used=max(
                _ratio(r.traffic.cpu_worker_tokens, r.cpu_workers * given.cpu_worker_tokens_per_s)
                for r in regions
            ),
            limit=1.0,
            unit="of their speed",
            then="audits, hedges and fallbacks wait",
        ),
    ]


def _ratio(used: float, limit: float) -> float:
    return used / limit if limit else 0.0
