"""What a capacity plan takes for granted: every number with its unit and where it comes from."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Final

from browser_node.backoff import Backoff
from orchestrator.domain import liveness, trust
from orchestrator.settings import Settings

_CLIENT: Final = Backoff()
REQUESTS_PER_TAB: Final = 0.05
# Where tabs are open in the evening: the hour (UTC) of a region's daily peak.
PEAK_HOURS: Final = {"eu": 19, "na": 1, "sa": 23, "af": 18, "as": 13, "oc": 9}


class Region(typing.NamedTuple):
    """A part of the world with orchestrators of its own; ``peak_hour`` is in UTC."""

    name: str
    share: float
    peak_hour: float


@dataclass(frozen=True, kw_only=True)
class Given:
    """One assumption: a phrase, its unit, its source and its bounds (inclusive).

    ``default`` says in words what is taken if it is not asked for otherwise.
    """

    text: str
    source: str
    unit: str = ""
    low: float = 0.0
    high: float | None = None
    default: str = ""


def _share(text: str, source: str, *, high: float = 1.0) -> Given:
    return Given(text=text, source=source, high=high)


_ASSUMED: Final = "assumed"
_BENCH: Final = "measured: docs/benchmarks.md"


@dataclass(frozen=True, kw_only=True)
class Assumptions:
    """Every option of ``zerogpu simulate`` is a field; regions are apart (`parse_regions`)."""

    nodes: Annotated[
        int,
        Given(text="Connected tabs, each region at its own busiest hour", source="asked", low=1),
    ] = 1_000_000
    requests_per_s: Annotated[
        float,
        Given(
            text="Requests a second, each region at its own busiest hour",
            source="asked",
            default="a twentieth of the tabs",
        ),
    ] = 50_000.0
    regions: tuple[Region, ...] = (
        Region("eu", 0.4, PEAK_HOURS["eu"]),
        Region("na", 0.35, PEAK_HOURS["na"]),
        Region("as", 0.25, PEAK_HOURS["as"]),
    )
    daily_swing: Annotated[
        float, _share("How far load goes above and below its daily mean", _ASSUMED, high=0.99)
    ] = 0.4

    # ── volunteers ──
    tab_life_min: Annotated[
        float, Given(text="Median life of a tab", unit="min", source=_ASSUMED, low=0.1)
    ] = 10.0
    returning_share: Annotated[
        float, _share("Joins of identities with a record and a filled cache", _ASSUMED)
    ] = 0.6
    availability_share: Annotated[
        float, _share("Tabs that are visible, ready and trusted", _ASSUMED)
    ] = 0.5
    tab_tokens_per_s: Annotated[
        float,
        Given(
            text="Speed of a tab on one thread",
            unit="tokens/s",
            source=f"{_BENCH}, 1,500–1,900; faster machines 2,300",
            low=1,
        ),
    ] = 1_500.0
    download_mb: Annotated[
        float,
        Given(
            text="First visit: runtime and models, compressed",
            unit="MB",
            source="measured: the built files",
        ),
    ] = 30.2
    cdn_share: Annotated[
        float, _share("Of the downloads, what others serve (files are immutable)", _ASSUMED)
    ] = 0.95

    # ── jobs ──
    tokens_per_request: Annotated[
        float, Given(text="Tokens of a request", source="the texts of docs/benchmarks.md", low=1)
    ] = 160.0
    customer_bytes: Annotated[
        float,
        Given(text="A request and its answer, over HTTP", unit="bytes", source="estimated"),
    ] = 5_500.0
    edge_bytes: Annotated[
        float, Given(text="A job and its result, in frames", unit="bytes", source="estimated")
    ] = 2_800.0
    fallback_share: Annotated[
        float, _share("Requests that no tab can take or answers in time", _ASSUMED)
    ] = 0.02
    hedge_share: Annotated[
        float, _share("Requests hedged on a CPU worker", "the scheduler's budget")
    ] = 0.05
    audit_share: Annotated[
        float, _share("Of a trusted tab's answers, those repeated", "trust.AUDIT_SHARE")
    ] = trust.AUDIT_SHARE
    trials_per_newcomer: Annotated[
        float,
        Given(
            text="CPU answers that a newcomer needs, if none is shared",
            source="trust.REAL_AFTER",
        ),
    ] = float(trust.REAL_AFTER)
    cpu_worker_tokens_per_s: Annotated[
        float,
        Given(
            text="Speed of a CPU worker of two cores",
            unit="tokens/s",
            source="measured: 8,000–10,000",
            low=1,
        ),
    ] = 9_000.0
    cpu_worker_load: Annotated[
        float, Given(text="How busy a CPU worker may be", source=_ASSUMED, low=0.01, high=1)
    ] = 0.6

    # ── orchestrators ──
    request_us: Annotated[
        float,
        Given(text="CPU of a request", unit="µs", source=f"{_BENCH}, /v1/responses", low=1),
    ] = 275.0
    attempt_us: Annotated[
        float,
        Given(
            text="CPU of a further attempt (audit, trial, hedge)",
            unit="µs",
            source=f"{_BENCH}, /v1/embeddings less the echo",
        ),
    ] = 110.0
    join_us: Annotated[
        float,
        Given(
            text="CPU of a join: accept, TLS-less handshake, hello",
            unit="µs",
            source="measured: 376–693 a second on one core",
        ),
    ] = 2_700.0
    probe_us: Annotated[
        float, Given(text="CPU of a ping and its pong", unit="µs", source="estimated")
    ] = 60.0
    accepts_per_s: Annotated[
        float,
        Given(text="Joins a process survives", unit="1/s", source="measured: 376–693", low=1),
    ] = 370.0
    probes_per_s: Annotated[
        float,
        Given(text="Probes of a process", unit="1/s", source="liveness.PROBES_PER_TICK", low=1),
    ] = liveness.PROBES_PER_TICK / liveness.TICK_S
    sockets_max: Annotated[
        int, Given(text="Sockets of a process", source="ZEROGPU_SOCKETS_MAX", low=1)
    ] = Settings.sockets_max
    socket_kb: Annotated[
        float, Given(text="Memory of a socket", unit="kB", source="measured: 18–32 kB, no TLS")
    ] = 32.0
    node_kb: Annotated[
        float,
        Given(text="Memory of a node in the scheduler", unit="kB", source="its target"),
    ] = 2.0
    process_mb: Annotated[
        float, Given(text="Memory of an empty process", unit="MB", source="measured: 60 MB")
    ] = 60.0
    load: Annotated[
        float, Given(text="How busy a process may be", source=_ASSUMED, low=0.01, high=1)
    ] = 0.4
    load_after_loss: Annotated[
        float,
        Given(text="The same with a region gone", source=_ASSUMED, low=0.01, high=1),
    ] = 0.8
    processes_per_machine: Annotated[
        int, Given(text="Processes on a machine of 16 cores", source=_ASSUMED, low=1)
    ] = 12
    machine_gbit: Annotated[
        float, Given(text="Network of a machine", unit="Gbit/s", source=_ASSUMED, low=0.1)
    ] = 10.0

    # ── storms ──
    retry_base_s: Annotated[
        float, Given(text="A tab's first retry, at most", unit="s", source="backoff.py", low=0.1)
    ] = _CLIENT.base_s
    retry_cap_s: Annotated[
        float, Given(text="A tab's later retries, at most", unit="s", source="backoff.py", low=0.1)
    ] = _CLIENT.cap_s
    restart_s: Annotated[
        float, Given(text="Time until a restarted process listens", unit="s", source=_ASSUMED)
    ] = 10.0
    goodbye_window_s: Annotated[
        float,
        Given(
            text="Window that a planned restart would spread its tabs over",
            unit="s",
            source=_ASSUMED,
        ),
    ] = 120.0


def describe() -> Iterator[tuple[str, Given, type]]:
    """Yield every numeric field with what is known of it and its type."""
    hints = typing.get_type_hints(Assumptions, include_extras=True)
    for field in dataclasses.fields(Assumptions):
        hint = hints[field.name]
        for given in getattr(hint, "__metadata__", ()):
            yield field.name, given, typing.get_args(hint)[0]


def parse_regions(text: str) -> tuple[Region, ...]:
    """Read ``eu=0.4,na=0.35,as=0.25``; ``eu=0.4@20`` also names the busiest hour (UTC).

    Shares are taken relative to their sum. Raises ValueError with a sentence.
    """
    found: list[Region] = []
    for part in text.split(","):
        name, _, numbers = (word.strip() for word in part.partition("="))
        share, _, hour = numbers.partition("@")
        try:
            region = Region(name, float(share), float(hour or PEAK_HOURS.get(name, 12)))
        except ValueError:
            raise ValueError(
                f"{part.strip()!r} is not a region: write eu=0.4 or eu=0.4@19"
            ) from None
        if not name or not 0 < region.share < float("inf") or not 0 <= region.peak_hour < 24:
            raise ValueError(
                f"{part.strip()!r} is not a region: its share is above 0, its hour 0 to 23"
            )
        found.append(region)
    if len({region.name for region in found}) < len(found):
        raise ValueError(f"{text!r} names a region twice")
    whole = sum(region.share for region in found)
    return tuple(region._replace(share=region.share / whole) for region in found)
