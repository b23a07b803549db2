"""How long an attempt may take, learnt from how long that node's attempts did take."""

from __future__ import annotations

from typing import Final, Literal

from browser_node.protocol import ModelDigest
from orchestrator.domain.model import Attempt, Node, Speed

MIN_LEASE_S: Final = 2.0
MAX_LEASE_S: Final = 20.0
DEVIATIONS: Final = 4.0
# Of a distribution with this mean absolute deviation, twice of it above the mean is about p95.
HEDGE_DEVIATIONS: Final = 2.0
HEDGE_SAMPLES: Final = 5
# What is answered sooner than this nobody waits for: the budget is for those that stall.
MIN_HEDGE_S: Final = 0.25
SMOOTHING: Final = 0.2
OUTLIER: Final = 8.0
_MIN_DEVIATION: Final = 0.1
# Below this, scheduling noise outweighs the work and says nothing about the node.
_MIN_EXPECTED_S: Final = 0.05

Kind = Literal["adaptive", "fixed"]


class Leases:
    """Sizes leases; ``fixed`` gives everybody the longest, to be measured against."""

    def __init__(self, kind: Kind = "adaptive") -> None:
        self._fixed = kind == "fixed"

    def size(
        self, node: Node, digest: ModelDigest, expected_s: float
    ) -> tuple[float, float, float]:
        """Return lease, its end that progress cannot extend, and when to hedge, in seconds.

        The lease is the mean plus four deviations of that node's actual ÷ expected times, as TCP
        sizes its retransmission timer (RFC 6298), between 2 and 20 seconds.
        """
        # Every attempt takes this path: without the calls of `min` and `max`.
        speed = node.speeds[digest]
        ratio, deviation = speed.ratio, speed.deviation
        expected_s = expected_s if expected_s > _MIN_EXPECTED_S else _MIN_EXPECTED_S
        latest_s = expected_s * (ratio + DEVIATIONS * deviation)
        hedge_s = latest_s
        if speed.samples >= HEDGE_SAMPLES:
            # Before the node has shown how its forecasts hold there is no p95 of its own.
            hedge_s = expected_s * (ratio + HEDGE_DEVIATIONS * deviation)
        hedge_s = hedge_s if hedge_s > MIN_HEDGE_S else MIN_HEDGE_S
        lease_s = latest_s + 0.5
        if self._fixed or lease_s >= MAX_LEASE_S:
            return MAX_LEASE_S, MAX_LEASE_S, hedge_s
        lease_s = lease_s if lease_s > MIN_LEASE_S else MIN_LEASE_S
        hard_s = 2 * lease_s
        return lease_s, hard_s if hard_s < MAX_LEASE_S else MAX_LEASE_S, hedge_s


def extended_at(attempt: Attempt, node: Node) -> float:
    """Return the attempt's lease end in view of the node's progress.

    A node that has answered others since the attempt was handed to it is working through its
    backlog: the lease counts from its last answer, up to the hard end.
    """
    if node.last_answer_at <= attempt.started_at:
        return attempt.lease_at
    lease_s = attempt.lease_at - attempt.started_at
    return min(node.last_answer_at + lease_s, attempt.hard_at)


def kept(speed: Speed, attempt: Attempt, now: float) -> None:
    """Learn how the forecast of an attempt that ends now held: as RFC 6298 learns round trips."""
    if attempt.background:
        # Requests pass it on its node: how long it took says nothing about those.
        return
    expected_s, known, deviation = attempt.expected_s, speed.ratio, speed.deviation
    expected_s = expected_s if expected_s > _MIN_EXPECTED_S else _MIN_EXPECTED_S
    ratio = (now - attempt.started_at) / expected_s
    # One stall must not make every lease to come endless.
    most = known + OUTLIER * (deviation if deviation > _MIN_DEVIATION else _MIN_DEVIATION)
    ratio = ratio if ratio < most else most
    speed.deviation = deviation + SMOOTHING * (abs(ratio - known) - deviation)
    speed.ratio = known + SMOOTHING * (ratio - known)
