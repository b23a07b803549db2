"""How long an attempt may take, learnt from how long that node's attempts did take."""

from __future__ import annotations

from collections.abc import Sequence
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
MIN_TOKENS_PER_S: Final = 1.0
MAX_TOKENS_PER_S: Final = 1e7
# Below this, scheduling noise outweighs the work and says nothing about the node.
_MIN_EXPECTED_S: Final = 0.05
_BATCH_S: Final = 0.25

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
        speed = node.speeds[digest]
        expected_s = max(expected_s, _MIN_EXPECTED_S)
        # Before the node has shown how its forecasts hold there is no p95 of its own.
        deviations = HEDGE_DEVIATIONS if speed.samples >= HEDGE_SAMPLES else DEVIATIONS
        hedge_s = max(expected_s * (speed.ratio + deviations * speed.deviation), MIN_HEDGE_S)
        if self._fixed:
            return MAX_LEASE_S, MAX_LEASE_S, hedge_s
        lease_s = expected_s * (speed.ratio + DEVIATIONS * speed.deviation) + 0.5
        lease_s = min(max(lease_s, MIN_LEASE_S), MAX_LEASE_S)
        return lease_s, min(2 * lease_s, MAX_LEASE_S), hedge_s


def extended_at(attempt: Attempt, node: Node) -> float:
    """Return the attempt's lease end in view of the node's progress.

    A node that has answered others since the attempt was handed to it is working through its
    backlog: the lease counts from its last answer, up to the hard end.
    """
    if node.last_answer_at <= attempt.started_at:
        return attempt.lease_at
    lease_s = attempt.lease_at - attempt.started_at
    return min(node.last_answer_at + lease_s, attempt.hard_at)


def observe(node: Node, attempts: Sequence[Attempt], *, now: float) -> None:
    """Learn from attempts that ``node`` finished together: throughput, and how forecasts held.

    Throughput is what the orchestrator saw, never what the node claims: tokens over the time since
    the last answer, or since the earliest of these attempts started if the node was idle before.
    Tokens and times are averaged apart: answers that arrive at once after a pause say nothing new.
    """
    started_at = min(attempt.started_at for attempt in attempts)
    if started_at >= node.last_answer_at:
        elapsed = max(now - started_at - (node.rtt_s or 0.0), 0.0)
    else:
        elapsed = now - node.last_answer_at
    node.last_answer_at = now
    total = sum(attempt.tokens for attempt in attempts)
    for digest in {attempt.digest for attempt in attempts}:
        speed = node.speeds.get(digest)
        if speed is None:
            continue
        # A few tokens measure the overhead of a call, not the speed: they count by their share of
        # a full batch; by the time they took where that is more, or a claimed speed would stand.
        share = max(total / (speed.tokens_per_s * _BATCH_S), elapsed / _BATCH_S)
        weight = SMOOTHING * min(1.0, share)
        speed.tokens += weight * (total - speed.tokens)
        speed.busy_s += weight * (elapsed - speed.busy_s)
        measured = speed.tokens / max(speed.busy_s, 1e-4)
        speed.tokens_per_s = min(max(measured, MIN_TOKENS_PER_S), MAX_TOKENS_PER_S)
        speed.samples += 1
    for attempt in attempts:
        speed = node.speeds.get(attempt.digest)
        if speed is None:
            continue
        actual = now - attempt.started_at
        ratio = actual / max(attempt.expected_s, _MIN_EXPECTED_S)
        speed.deviation += SMOOTHING * (abs(ratio - speed.ratio) - speed.deviation)
        speed.ratio += SMOOTHING * (ratio - speed.ratio)


def set_speed(speed: Speed, tokens_per_s: float) -> None:
    """Take a speed for granted until measurements say otherwise: worth one batch of them."""
    speed.tokens_per_s = min(max(tokens_per_s, MIN_TOKENS_PER_S), MAX_TOKENS_PER_S)
    speed.busy_s = _BATCH_S
    speed.tokens = speed.tokens_per_s * _BATCH_S
