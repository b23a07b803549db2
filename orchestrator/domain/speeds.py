"""How fast a node is: a line through what the orchestrator saw of it, never what the node claims.

    seconds = overhead_s + tokens / tokens_per_s

A volunteer's answers to a few short texts say little of its throughput: the call, the frames and
the jitter of the round trip take longer than the tokens. So both terms are fitted, by least squares
over exponentially weighted moments. Where all runs were of one size they cannot be told apart: a
node's line is shrunk towards one through the origin, a CPU worker's, while runs are short, towards
the slope that it has measured itself: it is our own process. One observation is a run: what was
answered of one model from when the node got work until it had none, or for `RUN_S` of it, however
many frames that took.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from browser_node.protocol import NodeState
from orchestrator.domain.model import Attempt, Node, Speed

RUN_S: Final = 0.25
# Ten runs decide. The first replaces what was claimed, the second counts half, and so on.
GAIN: Final = 0.1
# A run that took so many times its forecast was a stall, of which the leases take care; one that
# took so small a part of it came with a round trip shorter than any before.
OUTLIER: Final = 4.0
OUTLIER_S: Final = 0.05
# Weight of the origin as a point of the line, against the spread of what was seen.
SHRINKAGE: Final = 0.05
# Most of a run's time may be overhead, not all: noise must not make a node infinitely fast.
LEAST_SLOPE: Final = 0.25
CLAIM_TOKENS: Final = 64.0
MIN_TOKENS_PER_S: Final = 1.0
MAX_TOKENS_PER_S: Final = 1e7
_LINE: Final = ("tokens_per_s", "overhead_s", "tokens", "seconds", "variance", "covariance")


def observe(node: Node, attempts: Sequence[Attempt], now: float) -> None:
    """Learn from attempts that ``node`` answered together; they are released already."""
    arrived_at = min([attempt.started_at for attempt in attempts]) + (node.rtt_s or 0.0)
    digest = attempts[0].digest
    # It was idle before, or what it had was taken back, or it has turned to another model.
    if node.run_digest != digest or arrived_at > node.last_answer_at:
        _close(node)
        node.run_digest = digest
        node.run_at = max(arrived_at, node.last_answer_at)
    node.run_tokens += sum([attempt.tokens for attempt in attempts])
    node.last_answer_at = now
    if not node.attempts or now - node.run_at >= RUN_S:
        _close(node)
        node.run_at = now


def _close(node: Node) -> None:
    """The run is over since the last answer: learn from it."""
    speed = node.speeds.get(node.run_digest)
    if speed is not None and node.run_tokens:
        learn(speed, node.run_tokens, max(node.last_answer_at - node.run_at, 0.0))
    node.run_tokens = 0


def learn(speed: Speed, tokens: int, seconds: float) -> None:
    """Take one run into account."""
    forecast = speed.overhead_s + tokens / speed.tokens_per_s
    seconds = max(seconds, forecast / OUTLIER)
    if speed.samples:
        seconds = min(seconds, OUTLIER * forecast + OUTLIER_S)
    speed.samples += 1
    gain = max(GAIN, 1.0 / speed.samples)
    more_tokens, more_s = tokens - speed.tokens, seconds - speed.seconds
    speed.tokens += gain * more_tokens
    speed.seconds += gain * more_s
    speed.variance = (1.0 - gain) * (speed.variance + gain * more_tokens * more_tokens)
    speed.covariance = (1.0 - gain) * (speed.covariance + gain * more_tokens * more_s)
    per_token = max(speed.seconds, 1e-4) / speed.tokens
    prior = per_token
    # Without it, short requests make a worker seem too slow for long ones, which are then refused:
    # nothing long is answered, and nothing learnt. Runs of `RUN_S` show throughput themselves.
    if speed.calibrated_s and speed.seconds < RUN_S:
        prior = min(speed.calibrated_s, per_token)
    weight = SHRINKAGE * speed.tokens * speed.tokens
    slope = (speed.covariance + weight * prior) / (speed.variance + weight)
    slope = min(max(slope, min(LEAST_SLOPE * per_token, prior)), per_token)
    speed.tokens_per_s = min(max(1.0 / slope, MIN_TOKENS_PER_S), MAX_TOKENS_PER_S)
    speed.overhead_s = max(speed.seconds - slope * speed.tokens, 0.0)


def set_speed(speed: Speed, tokens_per_s: float, *, is_believed: bool = False) -> None:
    """Take a speed for granted until measurements say otherwise.

    Where they say nothing about the time of a token, one that ``is_believed`` still holds.
    """
    speed.tokens_per_s = min(max(tokens_per_s, MIN_TOKENS_PER_S), MAX_TOKENS_PER_S)
    speed.overhead_s = speed.variance = speed.covariance = 0.0
    speed.tokens = CLAIM_TOKENS
    speed.seconds = CLAIM_TOKENS / speed.tokens_per_s
    speed.calibrated_s = 1.0 / speed.tokens_per_s if is_believed else 0.0


def changed_state(node: Node, state: NodeState) -> None:
    """A throttled or hidden node has another speed than an active one: each is measured."""
    _close(node)
    for speed in node.speeds.values():
        line = tuple(getattr(speed, name) for name in _LINE)
        speed.elsewhen = {**(speed.elsewhen or {}), node.state: line}
        for name, value in zip(_LINE, speed.elsewhen.get(state, line), strict=True):
            setattr(speed, name, value)
