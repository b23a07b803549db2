"""What a key and a project may ask for a minute, with time in our hands."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.api.gate import Gate
from orchestrator.api.limits import Limits, duration
from orchestrator.domain.model import KeyId, ProjectId
from orchestrator.errors import RateLimited
from orchestrator.settings import Settings
from orchestrator.storage.keyring import Keyring
from orchestrator.storage.keys import Pepper, Principal
from orchestrator.transport.cycle import fields_of

ALICE = Principal(ProjectId("shop"), KeyId("alice"))
BOB = Principal(ProjectId("shop"), KeyId("bob"))
EVE = Principal(ProjectId("other"), KeyId("eve"))


@dataclass
class Stage:
    """Limits and the clock they go by."""

    limits: Limits = field(init=False)
    now: float = 1_000.0

    def taken(self, principal: Principal, upto: int) -> int:
        """Return how many requests of ``upto`` passed."""
        for at in range(upto):
            try:
                self.limits.admit(principal)
            except RateLimited:
                return at
        return upto

    def told(self, principal: Principal) -> dict[str, str]:
        return {
            name.decode().removeprefix("x-ratelimit-"): value.decode()
            for name, value in fields_of(self.limits.lines(principal, now=self.now))
        }


def stage(**limits: int) -> Stage:
    """Limits of ``limits`` a minute; what is not named is out of the way."""
    names = ("key_requests", "key_tokens", "project_requests", "project_tokens")
    made = Stage()
    settings = Settings.from_env(
        {}, **{f"{name}_per_minute": limits.get(name, 1_000_000) for name in names}
    )
    made.limits = Limits(settings, monotonic=lambda: made.now)
    return made


# ── requests ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("limit", [1, 3, 7, 59, 1_001])
def test_exactly_the_allowed_number_passes_at_once_and_after_a_minute_again(limit: int) -> None:
    s = stage(key_requests=limit)

    assert s.taken(ALICE, 2_000) == limit
    s.now += 60
    assert s.taken(ALICE, 2_000) == limit


def test_a_bucket_refills_steadily() -> None:
    s = stage(key_requests=60)
    s.taken(ALICE, 60)

    s.now += 1
    assert s.taken(ALICE, 5) == 1
    s.now += 2.5
    assert s.taken(ALICE, 5) == 2


def test_the_keys_of_a_project_share_its_limit_and_another_project_has_its_own() -> None:
    s = stage(project_requests=5)

    assert s.taken(ALICE, 3) + s.taken(BOB, 9) == 5
    assert s.taken(EVE, 9) == 5


def test_a_key_that_is_refused_takes_nothing_from_its_project() -> None:
    s = stage(key_requests=2, project_requests=4)

    assert s.taken(ALICE, 2) == 2
    for _ in range(9):
        assert s.taken(ALICE, 1) == 0
    assert s.taken(BOB, 9) == 2


def test_a_refusal_names_the_limit_and_when_to_come_back() -> None:
    s = stage(key_requests=30, project_requests=40)
    s.taken(ALICE, 30)
    with pytest.raises(RateLimited) as of_key:
        s.limits.admit(ALICE)
    s.taken(BOB, 10)
    with pytest.raises(RateLimited) as of_project:
        s.limits.admit(BOB)

    assert "API key" in of_key.value.message
    assert "30 requests per minute" in of_key.value.message
    assert of_key.value.retry_after_s == pytest.approx(2.0)
    assert "project" in of_project.value.message
    assert "40 requests per minute" in of_project.value.message
    assert of_project.value.retry_after_s == pytest.approx(1.5)


def test_a_request_sent_again_when_told_to_passes() -> None:
    s = stage(key_requests=7)
    s.taken(ALICE, 7)
    for _ in range(20):
        with pytest.raises(RateLimited) as refused:
            s.limits.admit(ALICE)
        assert refused.value.retry_after_s is not None
        s.now += refused.value.retry_after_s
        s.limits.admit(ALICE)


# ── tokens ───────────────────────────────────────────────────────────────────────────────────────


def test_tokens_are_taken_from_key_and_project_or_from_neither() -> None:
    s = stage(key_tokens=100, project_tokens=150)
    s.limits.charge_tokens(ALICE, 100)
    with pytest.raises(RateLimited) as of_key:
        s.limits.charge_tokens(ALICE, 1)
    with pytest.raises(RateLimited) as of_project:
        s.limits.charge_tokens(BOB, 60)
    s.limits.charge_tokens(BOB, 50)

    assert "1 input tokens" in of_key.value.message
    assert "100 per minute of this API key, 0 are left" in of_key.value.message
    assert of_key.value.retry_after_s == pytest.approx(0.6)
    assert "150 per minute of this project, 50 are left" in of_project.value.message
    assert of_project.value.retry_after_s == pytest.approx(4.0)


def test_a_request_larger_than_the_bucket_passes_when_it_is_full_and_what_follows_waits() -> None:
    s = stage(key_tokens=100)
    s.limits.charge_tokens(ALICE, 1)
    with pytest.raises(RateLimited) as refused:
        s.limits.charge_tokens(ALICE, 250)
    assert refused.value.retry_after_s is not None
    s.now += refused.value.retry_after_s
    s.limits.charge_tokens(ALICE, 250)
    with pytest.raises(RateLimited) as after:
        s.limits.charge_tokens(ALICE, 1)

    assert "250 input tokens, more than the 100 per minute" in refused.value.message
    assert after.value.retry_after_s == pytest.approx(1.51 * 60, rel=0.01)
    assert s.told(ALICE)["remaining-tokens"] == "0"
    assert s.told(ALICE)["reset-tokens"] == "2m30s"


@given(
    st.lists(st.tuples(st.integers(1, 300), st.floats(0, 20)), min_size=1, max_size=60),
    st.integers(10, 200),
)
def test_no_minute_gives_more_than_two_buckets_and_one_request(
    asked: list[tuple[int, float]], limit: int
) -> None:
    s = stage(key_tokens=limit)
    passed: list[tuple[float, int]] = []
    for tokens, pause_s in asked:
        s.now += pause_s
        try:
            s.limits.charge_tokens(ALICE, tokens)
        except RateLimited:
            continue
        passed.append((s.now, tokens))
    for start, _ in passed:
        within = [tokens for at, tokens in passed if start <= at < start + 60]
        assert sum(within) <= 2 * limit + max(within) + 1


# ── headers ──────────────────────────────────────────────────────────────────────────────────────


def test_the_headers_say_what_is_left_of_the_tighter_bucket() -> None:
    s = stage(key_requests=60, project_requests=60, key_tokens=600, project_tokens=400)
    fresh = s.told(ALICE)
    s.taken(ALICE, 2)
    s.limits.charge_tokens(ALICE, 10)
    mine = s.told(ALICE)
    s.taken(BOB, 3)
    shared = s.told(ALICE)

    assert fresh == {
        "limit-requests": "60",
        "limit-tokens": "400",
        "remaining-requests": "60",
        "remaining-tokens": "400",
        "reset-requests": "0s",
        "reset-tokens": "0s",
    }
    assert mine == fresh | {
        "remaining-requests": "58",
        "remaining-tokens": "390",
        "reset-requests": "2s",
        "reset-tokens": "1.5s",
    }
    assert (shared["remaining-requests"], shared["reset-requests"]) == ("55", "5s")


def test_a_spent_key_is_told_none_are_left() -> None:
    s = stage(key_requests=6)
    s.taken(ALICE, 9)

    assert s.told(ALICE)["remaining-requests"] == "0"
    assert s.told(ALICE)["reset-requests"] == "1m0s"


@pytest.mark.parametrize(
    ("seconds", "written"),
    [
        (-3.0, b"0s"),
        (0.0, b"0s"),
        (0.0000001, b"1ms"),
        (0.0002, b"1ms"),
        (0.012, b"12ms"),
        (0.9991, b"1s"),
        (1.0, b"1s"),
        (8.64, b"8.7s"),
        (59.9999, b"1m0s"),
        (60.0, b"1m0s"),
        (90.2, b"1m31s"),
        (360.0, b"6m0s"),
        (3_661.0, b"1h1m1s"),
    ],
)
def test_durations_are_written_as_openai_writes_them(seconds: float, written: bytes) -> None:
    assert duration(seconds) == written


@given(st.floats(0, 10_000))
def test_a_duration_is_never_shorter_than_the_wait(seconds: float) -> None:
    units = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
    parts = re.findall(r"([0-9.]+)(ms|[hms])", duration(seconds).decode())
    written_s = sum(float(number) * units[unit] for number, unit in parts)

    assert seconds - 1e-5 <= written_s <= seconds + 1.0


# ── memory ───────────────────────────────────────────────────────────────────────────────────────


def test_what_is_kept_of_keys_that_are_idle_is_bounded() -> None:
    s = stage()
    for at in range(20_000):
        s.now += 1.0
        s.limits.admit(Principal(ProjectId(f"p{at}"), KeyId(f"k{at}")))

    assert s.limits.kept <= 2 * 1024


def test_forgetting_the_idle_forgets_nothing_that_was_taken() -> None:
    s = stage(key_requests=10, project_requests=15)
    assert s.taken(ALICE, 10) == 10
    rng = random.Random(1)
    for at in range(5_000):
        s.limits.admit(Principal(ProjectId(f"p{at}"), KeyId(f"k{at}")))
        s.now += rng.random() / 1_000
    spent_s = s.now - 1_000.0

    assert s.taken(ALICE, 9) == int(spent_s / 6)
    assert s.taken(BOB, 9) == 5 + int(spent_s / 4) - int(spent_s / 6)


def test_a_project_whose_bucket_is_full_again_is_kept_while_a_key_of_it_is() -> None:
    s = stage(key_requests=60, project_requests=120)
    carol = Principal(ALICE.project_id, KeyId("carol"))
    s.taken(ALICE, 60)
    s.now += 31
    for at in range(2_000):
        s.limits.admit(Principal(ProjectId(f"p{at}"), KeyId(f"k{at}")))

    taken = [s.taken(one, 60) for one in (ALICE, BOB, carol)]
    assert taken == [31, 60, 29]


# ── at once ──────────────────────────────────────────────────────────────────────────────────────


def test_requests_of_a_project_at_once_are_bounded_and_given_back() -> None:
    settings = Settings.from_env({}, key_concurrency=2, project_concurrency=3)
    keyring = Keyring(Pepper(b"x"), lambda _: None, monotonic=lambda: 0.0, ttl_s=1.0, max_entries=1)
    gate = Gate(settings, keyring)
    gate.enter(ALICE)
    gate.enter(ALICE)
    with pytest.raises(RateLimited) as of_key:
        gate.enter(ALICE)
    gate.enter(BOB)
    with pytest.raises(RateLimited) as of_project:
        gate.enter(BOB)
    gate.enter(EVE)
    gate.leave(ALICE, 0)
    gate.enter(BOB)
    keyring.close()

    assert "This API key has 2 requests under way; 2 are allowed" in of_key.value.message
    assert "This project has 3 requests under way; 3 are allowed" in of_project.value.message
    assert of_project.value.retry_after_s == 1
