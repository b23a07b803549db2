"""How long an attempt may take, learnt from how long that node's attempts did take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from browser_node.protocol import ModelDigest
from orchestrator.domain.model import Attempt, Node

MIN_LEASE_S: Final = 2.0
MAX_LEASE_S: Final = 20.0
DEVIATIONS: Final = 4.0
SMOOTHING: Final = 0.2
# Below this, scheduling noise outweighs the work and says nothing about the node.
_MIN_EXPECTED_S: Final = 0.05
_BATCH_S: Final = 0.25


def lease_s(node: Node, *, digest: ModelDigest, expected_s: float) -> float:
    """Return the lease of an attempt expected to take ``expected_s`` seconds, backlog included.

    Mean plus four deviations of that node's actual ÷ expected times, as TCP sizes its
    retransmission timer (RFC 6298), between 2 and 20 seconds.
    """
    speed = node.speeds[digest]
    factor = speed.ratio + DEVIATIONS * speed.deviation
    return min(max(expected_s * factor + 0.5, MIN_LEASE_S), MAX_LEASE_S)


def observe(node: Node, attempts: Sequence[Attempt], *, now: float) -> None:
    """Learn from attempts that ``node`` finished together: throughput, and how forecasts held.

    Throughput is what the orchestrator saw, never what the node claims: tokens per second since
    the earliest of these attempts started or the node's last answer came, whichever is later.
    """
    since = max(min(attempt.started_at for attempt in attempts), node.last_answer_at)
    rtt = node.rtt_s or 0.0
    elapsed = max(now - since - rtt, 1e-3)
    tokens = sum(attempt.tokens for attempt in attempts)
    node.last_answer_at = now
    for digest in {attempt.digest for attempt in attempts}:
        speed = node.speeds.get(digest)
        if speed is None:
            continue
        # A few tokens measure the overhead of a call, not the speed: they count by their
        # share of a full batch.
        weight = SMOOTHING * min(1.0, tokens / (speed.tokens_per_s * _BATCH_S))
        speed.tokens_per_s += weight * (tokens / elapsed - speed.tokens_per_s)
        speed.samples += 1
    for attempt in attempts:
        speed = node.speeds.get(attempt.digest)
        if speed is None:
            continue
        actual = now - attempt.started_at
        ratio = actual / max(attempt.expected_s, _MIN_EXPECTED_S)
        speed.deviation += SMOOTHING * (abs(ratio - speed.ratio) - speed.deviation)
        speed.ratio += SMOOTHING * (ratio - speed.ratio)
