"""What a run measured. Everything but the CPU times depends on scenario and seed alone."""

from __future__ import annotations

import math
from typing import Final, Literal

import msgspec

_PER_DECADE: Final = 100
_LEAST_EXPONENT: Final = -7
_BUCKETS: Final = 11 * _PER_DECADE
_OFFSET: Final = -_LEAST_EXPONENT * _PER_DECADE


class Histogram(msgspec.Struct):
    """Counts in fixed logarithmic buckets, 100 a decade from 100 ns to 10⁴ s (2.3 % wide)."""

    counts: list[int] = msgspec.field(default_factory=lambda: [0] * _BUCKETS)
    count: int = 0
    total: float = 0.0
    most: float = 0.0

    def add(self, value: float, times: int = 1) -> None:
        at = int(math.log10(value) * _PER_DECADE + _OFFSET) if value > 1e-7 else 0
        self.counts[min(at, _BUCKETS - 1)] += times
        self.count += times
        self.total += value * times
        self.most = max(self.most, value)

    @property
    def mean(self) -> float:
        return self.total / self.count if self.count else math.nan

    def quantile(self, q: float) -> float:
        """Return the upper edge of the bucket that holds quantile ``q`` (NaN when empty)."""
        if not self.count:
            return math.nan
        left = q * self.count
        for at, count in enumerate(self.counts):
            left -= count
            if left <= 0 and count:
                return min(10 ** ((at + 1 - _OFFSET) / _PER_DECADE), self.most)
        return self.most


class Tally(msgspec.Struct):
    """What nodes of one conduct did.

    ``told`` are wrong answers they sent, ``delivered`` answers of theirs that customers got,
    ``wrong`` the wrong ones of those, ``wrong_always`` those of a project with ``verify: always``;
    ``caught`` are disagreements with a trusted answer, ``audited`` comparisons with one.
    """

    identities: int = 0
    told: int = 0
    delivered: int = 0
    wrong: int = 0
    wrong_always: int = 0
    audited: int = 0
    caught: int = 0
    most_wrong_per_identity: int = 0


class Sample(msgspec.Struct, frozen=True):
    """One point of the timeline; counts are totals since the start but for the first five."""

    at_s: float
    nodes: int
    trusted: int
    queued: int
    running: int
    submitted: int
    answered_edge: int
    answered_cloud: int
    failed: int


Place = Literal["edge", "cloud"]


class Outcome(msgspec.Struct, kw_only=True):
    """A run's figures.

    ``tokens`` and ``attempts`` are by purpose: `model.Purpose`, and "pair" for the two that a
    ``verify: always`` project asks for; the ``steady_`` ones leave the warm-up out. ``decision_s``
    is the scheduler's time per event, ``placing_s`` per submitted job.
    """

    scenario: str
    seed: int
    trace: str = ""
    submitted: int = 0
    cancelled: int = 0
    connection_lost: int = 0
    failed: dict[str, int] = msgspec.field(default_factory=dict)
    answered_edge: int = 0
    answered_cloud: int = 0
    steady_edge: int = 0
    steady_cloud: int = 0
    rerouted: dict[str, int] = msgspec.field(default_factory=dict)
    attempts: dict[str, int] = msgspec.field(default_factory=dict)
    tokens: dict[str, int] = msgspec.field(default_factory=dict)
    steady_attempts: dict[str, int] = msgspec.field(default_factory=dict)
    steady_tokens: dict[str, int] = msgspec.field(default_factory=dict)
    answered_tokens: int = 0
    steady_answered_tokens: int = 0
    latency_s: dict[str, Histogram] = msgspec.field(
        default_factory=lambda: {"edge": Histogram(), "cloud": Histogram()}
    )
    steady_latency_s: Histogram = msgspec.field(default_factory=Histogram)
    late_results: int = 0
    compared: int = 0
    disagreed: int = 0
    honest_audits: int = 0
    honest_flagged: int = 0
    quarantined: int = 0
    wrong_delivered: int = 0
    tallies: dict[str, Tally] = msgspec.field(default_factory=dict)
    trusted_after_s: Histogram = msgspec.field(default_factory=Histogram)
    decision_s: Histogram = msgspec.field(default_factory=Histogram)
    placing_s: Histogram = msgspec.field(default_factory=Histogram)
    scheduler_cpu_s: float = 0.0
    cpu_s: float = 0.0
    virtual_s: float = 0.0
    events: int = 0
    frames: int = 0
    full_checks: int = 0
    peak_queued: int = 0
    busy_s: float = 0.0
    present_s: float = 0.0
    worker_busy_s: float = 0.0
    timeline: list[Sample] = msgspec.field(default_factory=list)

    @property
    def answered(self) -> int:
        return self.answered_edge + self.answered_cloud

    @property
    def edge_share(self) -> float:
        """Answers by volunteers ÷ all answers."""
        return self.answered_edge / self.answered if self.answered else math.nan

    @property
    def steady_edge_share(self) -> float:
        steady = self.steady_edge + self.steady_cloud
        return self.steady_edge / steady if steady else math.nan

    @property
    def audit_overhead(self) -> float:
        """Tokens of audits, trials and replays ÷ tokens answered, after the warm-up."""
        extra = sum(self.steady_tokens.get(kind, 0) for kind in ("audit", "trial", "replay"))
        return extra / self.steady_answered_tokens if self.steady_answered_tokens else math.nan

    @property
    def hedge_share(self) -> float:
        served = self.attempts.get("serve", 0)
        return self.attempts.get("hedge", 0) / served if served else math.nan

    @property
    def utilisation(self) -> float:
        """Seconds computing ÷ seconds connected, over all volunteers."""
        return self.busy_s / self.present_s if self.present_s else math.nan

    @property
    def jobs_per_cpu_s(self) -> float:
        return self.submitted / self.cpu_s if self.cpu_s else math.nan


def count(counts: dict[str, int], key: str, by: int = 1) -> None:
    counts[key] = counts.get(key, 0) + by
