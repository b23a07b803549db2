"""Thousands of idle nodes and hundreds of busy ones on one server, a tenth killed again and again.

Real sockets throughout: a server process, a process with the idle nodes, one with the busy ones
and the CPU worker, and a customer process. All nodes are trusted once calibrated
(`ZEROGPU_TRUST_AFTER=0`): what trust costs is measured elsewhere. The server has one processor,
all else another.

Added time is what the customer waits beyond the work itself: from sending a request to its answer,
less the seconds that the node which answered worked on it.
"""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import urlsplit

import msgspec

from bench.load import quantile
from bench.processes import Pinning, cpu_seconds, module, unique_mb
from bench.report import Figure, Section, Table
from bench.swarm_customer import Asked, Order, Outcome
from bench.swarm_nodes import (
    Churn,
    Churned,
    Command,
    Join,
    Joined,
    Kill,
    Profile,
    Served,
    Tell,
    Told,
)
from e2e.server import Server, serving

# A tab on one thread does 1,500 tokens/s flat out; these lend a tenth of their time. All are alike,
# so that a job which waits behind another on its node counts as added time and not as good sense.
BUSY: Final = Profile(slowest=150, fastest=150)
# Old and far away: there for when the others do not suffice.
IDLE: Final = Profile(slowest=40, fastest=60, slots=1, pong_after_s=0.2)
# One customer stands for many: what the server cannot do in time is to show as time, not as a 429.
_SETTINGS: Final = {"ZEROGPU_TRUST_AFTER": "0", "ZEROGPU_KEY_CONCURRENCY": "9000"}


T = TypeVar("T")


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """How much of everything. ``still_s`` is how long the idle fleet is watched."""

    idle: int
    busy: int
    per_s: float
    still_s: float
    calm_s: float
    warm_up_s: float = 2.0
    kills: int
    every_s: float
    share: float = 0.1


FULL: Final = Plan(idle=5000, busy=200, per_s=150, still_s=30, calm_s=60, kills=12, every_s=10)
QUICK: Final = Plan(idle=200, busy=20, per_s=20, still_s=2, calm_s=3, kills=5, every_s=2)


class Joining(msgspec.Struct, frozen=True):
    """What it took to let the idle nodes join, and what they cost once they are there."""

    nodes: int
    seconds: float
    cpu_s: float
    before_mb: float
    after_mb: float
    still_cpu: float
    probes_per_s: float


class Phase(msgspec.Struct, frozen=True):
    """Requests of one time span, and the share of a processor that the server took."""

    name: str
    asked: Sequence[Asked]
    strays: int
    cpu: float


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """All that a run measured. ``counters`` are the server's own, of the whole run."""

    joining: Joining
    phases: Sequence[Phase]
    kills: Sequence[Kill]
    served: Sequence[Served]
    dropped: int
    failed_joins: int
    counters: Mapping[str, float]
    last_mb: float


def measure(plan: Plan) -> Section:
    """Run ``plan`` on a server of its own."""
    return report(plan, run(plan))


def run(plan: Plan) -> Found:
    pinning = Pinning()
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(Path(folder) / "data", "--no-cpu-worker", env=_SETTINGS) as server,
    ):
        words = ("--url", server.url, "--data-dir", str(server.data_dir))
        with (
            module("bench.swarm_nodes", *words, "--worker") as busy,
            module("bench.swarm_nodes", *words) as idle,
            module("bench.swarm_customer") as customer,
        ):
            pinning.pin_server(server.pid)
            for process in (busy, idle, customer):
                pinning.pin_other(process.pid)
            return _run(plan, server, busy, idle, customer)


def _run(
    plan: Plan,
    server: Server,
    busy: subprocess.Popen[str],
    idle: subprocess.Popen[str],
    customer: subprocess.Popen[str],
) -> Found:
    _ask(busy, Join(plan.busy, BUSY), Joined)
    order = Order(
        port=urlsplit(server.url).port or 0,
        api_key=server.api_key,
        per_s=plan.per_s,
        seconds=plan.warm_up_s,
    )
    warm_up = _phase("warm-up", server, lambda: _ask(customer, order, Outcome))
    joining = _let_join(plan, server, idle)

    order = _after(order, plan.calm_s)
    calm = _phase("calm", server, lambda: _ask(customer, order, Outcome))

    order = _after(order, plan.kills * plan.every_s)
    churns = [
        Churn(share=plan.share, every_s=plan.every_s, times=plan.kills, profile=profile)
        for profile in (BUSY, IDLE)
    ]

    def storm() -> Outcome:
        _send(customer, order)
        for process, churn in zip((busy, idle), churns, strict=True):
            _send(process, churn)
        outcome = _read(customer, Outcome)
        for process in (busy, idle):
            kills.extend(_read(process, Churned).kills)
        return outcome

    kills: list[Kill] = []
    killing = _phase("kills", server, storm)
    told = [_ask(process, Tell(), Told) for process in (busy, idle)]
    return Found(
        joining=joining,
        phases=(warm_up, calm, killing),
        kills=kills,
        served=[served for one in told for served in one.served],
        dropped=sum(one.dropped for one in told),
        failed_joins=sum(one.failed_joins for one in told),
        counters=_counters(server),
        last_mb=unique_mb(server.pid),
    )


def _let_join(plan: Plan, server: Server, idle: subprocess.Popen[str]) -> Joining:
    time.sleep(plan.still_s / 10)
    before_mb, before_cpu = unique_mb(server.pid), cpu_seconds(server.pid)
    joined = _ask(idle, Join(plan.idle, IDLE), Joined)
    joining_cpu = cpu_seconds(server.pid) - before_cpu
    time.sleep(plan.still_s / 10)
    before_cpu, before = cpu_seconds(server.pid), time.monotonic()
    pings = _ask(idle, Tell(), Told).pings
    time.sleep(plan.still_s)
    probes = _ask(idle, Tell(), Told).pings - pings
    seconds = time.monotonic() - before
    return Joining(
        nodes=plan.idle,
        seconds=joined.seconds,
        cpu_s=joining_cpu,
        before_mb=before_mb,
        after_mb=unique_mb(server.pid),
        still_cpu=(cpu_seconds(server.pid) - before_cpu) / seconds,
        probes_per_s=probes / seconds,
    )


def _phase(name: str, server: Server, send: Callable[[], Outcome]) -> Phase:
    before_cpu, before = cpu_seconds(server.pid), time.monotonic()
    outcome = send()
    seconds = time.monotonic() - before
    cpu = (cpu_seconds(server.pid) - before_cpu) / seconds
    return Phase(name, outcome.asked, outcome.strays, cpu)


def _after(order: Order, seconds: float) -> Order:
    first = order.first + round(order.per_s * order.seconds)
    return msgspec.structs.replace(order, first=first, seconds=seconds)


# ── processes ────────────────────────────────────────────────────────────────────────────────────


def _ask(process: subprocess.Popen[str], what: Command | Order, type_: type[T]) -> T:
    _send(process, what)
    return _read(process, type_)


def _send(process: subprocess.Popen[str], what: Command | Order) -> None:
    assert process.stdin is not None
    process.stdin.write(msgspec.json.encode(what).decode() + "\n")
    process.stdin.flush()


def _read(process: subprocess.Popen[str], type_: type[T]) -> T:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"{process.args!r} ended with {process.wait()} and said nothing")
    return msgspec.json.decode(line, type=type_)


def _counters(server: Server) -> dict[str, float]:
    """Return the server's own counts, by name without prefix; those by label are added up."""
    status, _, text = server.get("/metrics")
    if status != 200:
        raise RuntimeError(f"/metrics answered {status}")
    counters: dict[str, float] = {}
    for line in text.decode().splitlines():
        if line.startswith("zerogpu_"):
            name, _, value = line.rpartition(" ")
            name = name.partition("{")[0].removeprefix("zerogpu_")
            counters[name] = counters.get(name, 0.0) + float(value)
    return counters


# ── report ───────────────────────────────────────────────────────────────────────────────────────


class Waits(msgspec.Struct, frozen=True):
    """What became of the requests of a phase; added times in seconds, ascending."""

    sent: int
    right: int
    from_cloud: int
    others: dict[str, int]
    added_s: list[float]


def waits(asked: Sequence[Asked], work_s: Mapping[int, float]) -> Waits:
    """Count the answers and take the work off their times."""
    answered = [one for one in asked if one.status == "200"]
    added = sorted(one.answered_at - one.sent_at - work_s.get(one.number, 0.0) for one in answered)
    return Waits(
        sent=len(asked),
        right=sum(one.is_right for one in answered),
        from_cloud=sum(one.place == "cloud" for one in answered),
        others=dict(Counter(one.status or "none" for one in asked if one.status != "200")),
        added_s=added,
    )


def work_of(served: Sequence[Served]) -> dict[int, float]:
    """Return the seconds of work in each text's first answer: that is the one delivered."""
    return {one.number: one.work_s for one in sorted(served, key=lambda one: -one.sent_at)}


def moves(
    kills: Sequence[Kill], asked: Sequence[Asked], work_s: Mapping[int, float]
) -> list[float]:
    """Return the seconds from a kill to the answer of a job it hit, less the work in it; ascending.

    A job hit twice counts from the second time on.
    """
    hit_at = {
        number: kill.at for kill in sorted(kills, key=lambda kill: kill.at) for number in kill.held
    }
    return sorted(
        one.answered_at - hit_at[one.number] - work_s.get(one.number, 0.0)
        for one in asked
        # An answer may have been on its way when its node was killed.
        if one.number in hit_at and one.answered_at > hit_at[one.number]
    )


def report(plan: Plan, found: Found) -> Section:
    work_s = work_of(found.served)
    by_phase = {phase.name: waits(phase.asked, work_s) for phase in found.phases}
    moved = moves(found.kills, [one for phase in found.phases for one in phase.asked], work_s)
    joining = found.joining
    sent = sum(one.sent for one in by_phase.values())
    not_right = sent - sum(one.right for one in by_phase.values())
    strays = sum(phase.strays for phase in found.phases)
    rows = []
    figures = [
        Figure("requests without the one right answer", not_right, "requests", 0),
        Figure("answers that nobody waited for", strays, "answers", 0),
        Figure("connections lost without a kill", found.dropped, "nodes", 0),
        Figure(
            "memory per idle connection",
            (joining.after_mb - joining.before_mb) * 1000 / joining.nodes,
            "kB",
        ),
        Figure("CPU with all connected and nothing to do", joining.still_cpu * 100, "%"),
        Figure("probes of idle nodes", joining.probes_per_s, "/s", 200),
        Figure("CPU per joining node", joining.cpu_s / joining.nodes * 1000, "ms"),
        Figure("nodes that joined", joining.nodes / joining.seconds, "/s"),
    ]
    for phase in found.phases[1:]:
        one = by_phase[phase.name]
        p50, p99, most = (quantile(one.added_s, q) * 1000 for q in (0.5, 0.99, 1.0))
        figures += [
            Figure(f"added p50, {phase.name}", p50, "ms"),
            Figure(f"added p99, {phase.name}", p99, "ms"),
        ]
        rows.append(
            (
                phase.name,
                *map(str, (one.sent, one.right, one.from_cloud)),
                ", ".join(f"{n} × {status}" for status, n in one.others.items()) or "–",
                *(f"{value:.1f}" for value in (p50, p99, most)),
                f"{phase.cpu:.0%}",
            )
        )
    figures += [
        Figure(
            "kill to answer from elsewhere, less the work: p50", quantile(moved, 0.5) * 1000, "ms"
        ),
        Figure("the same: slowest", quantile(moved, 1.0) * 1000, "ms"),
        Figure("server's memory at the end", found.last_mb, "MB"),
    ]
    columns = (
        "phase", "sent", "answered right", "by the CPU worker", "anything else",
        "added p50 ms", "added p99 ms", "slowest ms", "server CPU",
    )  # fmt: skip
    counted = ("jobs_rerouted", "jobs_hedged", "jobs_audited", "jobs_failed")
    counts = Table(
        (
            "kills",
            "nodes killed",
            "failed joins",
            "jobs hit",
            *(name.removeprefix("jobs_") for name in counted),
        ),
        [
            (
                str(plan.kills),
                str(sum(kill.nodes for kill in found.kills)),
                str(found.failed_joins),
                str(len(moved)),
                *(f"{found.counters[n]:.0f}" if n in found.counters else "–" for n in counted),
            )
        ],
    )
    note = (
        f"{plan.idle} idle and {plan.busy} busy stub nodes, {plan.per_s:g} requests/s; every"
        f" {plan.every_s:g} s {plan.share:.0%} of all nodes are killed at once and replaced."
        " ZEROGPU_TRUST_AFTER=0."
    )
    return Section(
        "swarm", "Many nodes, many deaths", figures, [Table(columns, rows), counts], note
    )
