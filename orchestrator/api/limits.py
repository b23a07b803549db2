"""How much a key and its project may ask for a minute: requests, and tokens of input.

Each limit is a bucket that holds a minute's worth and refills steadily. All that is kept of one is
the time at which it will be full again (the generic cell rate algorithm): taking moves that time on
by what the taken is worth, and a bucket is empty when it is a minute away. So nothing has to be
refilled, a bucket that is full again need not be kept, and what is left is one subtraction.

A request with more tokens than the whole bucket holds passes when the bucket is full, and what
follows waits for as many minutes as it took: refused, it could never be made at all. What is
refused takes nothing. Lines of batches are not counted here: the fleet's queues bound those.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from orchestrator.api.asgi import digits
from orchestrator.domain.model import KeyId, ProjectId
from orchestrator.errors import RateLimited
from orchestrator.settings import Settings
from orchestrator.storage.keys import Principal

PERIOD_S: Final = 60.0
# What the sum of many small floats may be off by, as a part of one request or token.
_ROUNDING: Final = 0.05
# Durations as they are written: milliseconds below a second, tenths below a minute.
_MS: Final = tuple(b"%dms" % ms for ms in range(1000))
_TENTHS: Final = tuple(f"{tenths / 10:g}s".encode() for tenths in range(600))
# Meters that are kept before any are looked through for what can go.
_METERS_MIN: Final = 1024
# Between the values of what is told of both.
_REMAINING_REQUESTS: Final = b"x-ratelimit-remaining-requests: "
_REMAINING_TOKENS: Final = b"\r\nx-ratelimit-remaining-tokens: "
_RESET_REQUESTS: Final = b"\r\nx-ratelimit-reset-requests: "
_RESET_TOKENS: Final = b"\r\nx-ratelimit-reset-tokens: "


class _Meter:
    """When a key's (or a project's) two buckets will be full, in monotonic seconds."""

    __slots__ = ("project", "requests_full_s", "tokens_full_s")

    def __init__(self, project: _Meter | None) -> None:
        self.project = self if project is None else project
        self.requests_full_s = 0.0
        self.tokens_full_s = 0.0

    def idle(self, now: float) -> bool:
        return self.requests_full_s <= now and self.tokens_full_s <= now


class _Rate:
    """One limit: ``each_s`` is what one request, or one token, is worth."""

    __slots__ = ("each_s", "limit", "line", "per_s", "room", "unit", "whose")

    def __init__(self, limit: int, unit: str, whose: str) -> None:
        self.limit = limit
        self.unit = unit
        self.whose = whose
        self.each_s = PERIOD_S / limit
        self.per_s = limit / PERIOD_S
        self.room = limit + _ROUNDING
        self.line = f"x-ratelimit-limit-{unit}: {limit}\r\n".encode()

    def left(self, wait_s: float) -> int:
        """Return how many a bucket still gives that is full in ``wait_s``."""
        return max(0, int(self.room - wait_s * self.per_s))


class Limits:
    """All buckets, in memory. A restart fills them."""

    def __init__(self, settings: Settings, *, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._key_requests = _Rate(settings.key_requests_per_minute, "requests", "API key")
        self._project_requests = _Rate(settings.project_requests_per_minute, "requests", "project")
        self._key_tokens = _Rate(settings.key_tokens_per_minute, "tokens", "API key")
        self._project_tokens = _Rate(settings.project_tokens_per_minute, "tokens", "project")
        self._keys: dict[KeyId, _Meter] = {}
        self._projects: dict[ProjectId, _Meter] = {}
        self._look_at = _METERS_MIN

    @property
    def kept(self) -> int:
        """How many keys' buckets are in memory."""
        return len(self._keys)

    def admit(self, principal: Principal) -> None:
        """Count a request; raises `RateLimited`, and then it is not counted."""
        now = self._monotonic()
        meter = self._keys.get(principal.key_id) or self._add(principal, now)
        project = meter.project
        of_key, of_project = self._key_requests, self._project_requests
        # `max` would take four times as long as this does, on the way of every request.
        key_full_s = meter.requests_full_s
        if key_full_s < now:  # noqa: PLR1730
            key_full_s = now
        project_full_s = project.requests_full_s
        if project_full_s < now:  # noqa: PLR1730
            project_full_s = now
        key_full_s += of_key.each_s
        project_full_s += of_project.each_s
        # Exactly ``limit`` requests fit into a full bucket.
        if key_full_s - now > PERIOD_S + of_key.each_s * _ROUNDING:
            raise _refused(of_key, key_full_s - now - PERIOD_S)
        if project_full_s - now > PERIOD_S + of_project.each_s * _ROUNDING:
            raise _refused(of_project, project_full_s - now - PERIOD_S)
        meter.requests_full_s = key_full_s
        project.requests_full_s = project_full_s

    def charge_tokens(self, principal: Principal, tokens: int) -> None:
        """Take ``tokens`` of input; raises `RateLimited`, and then none are taken."""
        now = self._monotonic()
        meter = self._keys.get(principal.key_id) or self._add(principal, now)
        project = meter.project
        key_full_s = _charged(self._key_tokens, meter.tokens_full_s, tokens, now)
        project_full_s = _charged(self._project_tokens, project.tokens_full_s, tokens, now)
        meter.tokens_full_s = key_full_s
        project.tokens_full_s = project_full_s

    def lines(self, principal: Principal, now: float) -> bytes:
        """Return the ``x-ratelimit-*`` headers as lines, each of the bucket that has less left."""
        meter = self._keys.get(principal.key_id) or self._add(principal, now)
        project = meter.project
        # Written out twice: every answer passes here, and a call costs as much as what it would do.
        requests, wait_s = self._key_requests, meter.requests_full_s - now
        left = requests.room - wait_s * requests.per_s if wait_s > 0.0 else requests.room
        other, other_s = self._project_requests, project.requests_full_s - now
        other_left = other.room - other_s * other.per_s if other_s > 0.0 else other.room
        if other_left < left:
            requests, left, wait_s = other, other_left, other_s
        tokens, tokens_s = self._key_tokens, meter.tokens_full_s - now
        tokens_left = tokens.room - tokens_s * tokens.per_s if tokens_s > 0.0 else tokens.room
        other, other_s = self._project_tokens, project.tokens_full_s - now
        other_left = other.room - other_s * other.per_s if other_s > 0.0 else other.room
        if other_left < tokens_left:
            tokens, tokens_left, tokens_s = other, other_left, other_s
        # A bucket in debt has none left, not less than none.
        return b"".join(
            (
                requests.line, tokens.line,
                _REMAINING_REQUESTS, digits(int(left)) if left > 0.0 else b"0",
                _REMAINING_TOKENS, digits(int(tokens_left)) if tokens_left > 0.0 else b"0",
                _RESET_REQUESTS, duration(wait_s),
                _RESET_TOKENS, duration(tokens_s),
                b"\r\n",
            )
        )  # fmt: skip

    def _add(self, principal: Principal, now: float) -> _Meter:
        if len(self._keys) >= self._look_at:
            self._drop_idle(now)
        project = self._projects.get(principal.project_id)
        if project is None:
            project = self._projects[principal.project_id] = _Meter(None)
        meter = self._keys[principal.key_id] = _Meter(project)
        return meter

    def _drop_idle(self, now: float) -> None:
        """Forget the buckets that are full: a new one is no different."""
        self._keys = {key: meter for key, meter in self._keys.items() if not meter.idle(now)}
        # A project's goes only with the last of its keys': two keys must not count apart.
        used = {id(meter.project) for meter in self._keys.values()}
        self._projects = {
            project: meter
            for project, meter in self._projects.items()
            if id(meter) in used or not meter.idle(now)
        }
        # Twice as many before the next look, so that looking costs each new key the same.
        self._look_at = max(_METERS_MIN, 2 * len(self._keys))


def _charged(rate: _Rate, full_s: float, tokens: int, now: float) -> float:
    """Return when the bucket is full once ``tokens`` are taken; raises `RateLimited`."""
    cost_s = tokens * rate.each_s
    if full_s <= now:
        return now + cost_s
    if full_s + cost_s - now > PERIOD_S + rate.each_s * _ROUNDING:
        raise _refused_tokens(rate, tokens, full_s - now)
    return full_s + cost_s


def duration(seconds: float) -> bytes:
    """Return a duration as OpenAI writes it, rounded up: ``12ms``, ``1s``, ``8.7s``, ``6m0s``."""
    if seconds <= 0.0:
        return b"0s"
    # A millionth is what rounding adds to a whole number of milliseconds.
    ms = int(seconds * 1000.0 + 0.999999)
    if ms < 1000:
        return _MS[ms]
    tenths = (ms + 99) // 100
    if tenths < 600:
        return _TENTHS[tenths]
    minutes, rest_s = divmod((tenths + 9) // 10, 60)
    hours, minutes = divmod(minutes, 60)
    return b"%dh%dm%ds" % (hours, minutes, rest_s) if hours else b"%dm%ds" % (minutes, rest_s)


def _refused(rate: _Rate, wait_s: float) -> RateLimited:
    return RateLimited(
        f"This {rate.whose} has made the {rate.limit:,} {rate.unit} per minute that it may. Wait"
        f" {_whole_s(wait_s)} s before the next.",
        retry_after_s=wait_s,
    )


def _refused_tokens(rate: _Rate, tokens: int, wait_s: float) -> RateLimited:
    over_s = wait_s + tokens * rate.each_s - PERIOD_S
    if tokens > rate.limit:
        return RateLimited(
            f"This request has {tokens:,} input tokens, more than the {rate.limit:,} per minute of"
            f" this {rate.whose}: it passes only after a pause. Ask nothing for"
            f" {_whole_s(wait_s)} s and send it again, or split it.",
            retry_after_s=wait_s,
        )
    return RateLimited(
        f"This request has {tokens:,} input tokens; of the {rate.limit:,} per minute of this"
        f" {rate.whose}, {rate.left(wait_s):,} are left. Send it again in {_whole_s(over_s)} s.",
        retry_after_s=over_s,
    )


def _whole_s(seconds: float) -> int:
    return max(1, math.ceil(seconds))
