"""When a node may work, how hard, and what it says about it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from browser_node.politeness import Signals, VolunteerLimits, decide, pause_after

SIGNALS = st.builds(
    Signals,
    user_paused=st.booleans(),
    hidden=st.booleans(),
    frozen=st.booleans(),
    battery=st.none() | st.floats(0, 1),
    charging=st.none() | st.booleans(),
    save_data=st.booleans(),
    pressure=st.sampled_from([None, "nominal", "fair", "serious", "critical"]),
)
LIMITS = st.builds(
    VolunteerLimits,
    cpu_share=st.floats(-1, 2),
    threads=st.integers(-1, 64),
    run_hidden=st.booleans(),
    run_on_battery=st.booleans(),
    run_on_save_data=st.booleans(),
)
GENEROUS = VolunteerLimits(run_hidden=True, run_on_battery=True, run_on_save_data=True)


def test_a_device_that_tells_nothing_works_at_its_full_share() -> None:
    verdict = decide(Signals(), VolunteerLimits(cpu_share=0.5))

    assert verdict.state == "active"
    assert verdict.reason == ""
    assert verdict.duty == verdict.slots_share == 0.5


@pytest.mark.parametrize(
    ("signals", "state", "word"),
    [
        (Signals(user_paused=True), "paused", "paused"),
        (Signals(battery=0.9, charging=False), "paused", "battery"),
        (Signals(battery=0.19, charging=False), "paused", "19%"),
        (Signals(save_data=True), "paused", "save data"),
        (Signals(hidden=True), "hidden", "hidden"),
        (Signals(hidden=True, frozen=True), "hidden", "froze"),
        (Signals(pressure="critical"), "throttled", "very busy"),
    ],
)
def test_a_node_takes_no_work_and_says_why(signals: Signals, state: str, word: str) -> None:
    verdict = decide(signals, VolunteerLimits())

    assert verdict.state == state
    assert verdict.slots_share == 0.0
    assert word in verdict.reason


@pytest.mark.parametrize(
    "signals",
    [
        Signals(hidden=True),
        Signals(save_data=True),
        Signals(battery=0.9, charging=False),
        Signals(battery=0.1, charging=True),
        Signals(battery=0.1, charging=None),
        Signals(pressure="fair"),
    ],
)
def test_what_the_volunteer_allows_is_no_reason_to_stop(signals: Signals) -> None:
    assert decide(signals, GENEROUS).state == "active"


def test_a_nearly_empty_battery_stops_work_even_where_battery_is_allowed() -> None:
    assert decide(Signals(battery=0.1, charging=False), GENEROUS).state == "paused"


def test_a_frozen_tab_stops_even_where_hidden_tabs_may_work() -> None:
    assert not decide(Signals(hidden=True, frozen=True), GENEROUS).keeps_work


def test_a_busy_device_gets_half_the_work_and_goes_on_with_what_it_has() -> None:
    verdict = decide(Signals(pressure="serious"), VolunteerLimits(cpu_share=0.8))

    assert verdict.state == "throttled"
    assert verdict.keeps_work
    assert verdict.duty == verdict.slots_share == 0.4


def test_a_very_busy_device_finishes_what_it_has() -> None:
    verdict = decide(Signals(pressure="critical"), VolunteerLimits())

    assert verdict.keeps_work
    assert verdict.duty > 0.0


def test_the_volunteers_own_pause_is_the_reason_that_counts() -> None:
    signals = Signals(user_paused=True, hidden=True, battery=0.1, charging=False)

    assert decide(signals, VolunteerLimits()).reason == "You paused this node."


@given(signals=SIGNALS, limits=LIMITS)
def test_a_verdict_is_in_range_short_and_has_a_reason_unless_all_is_normal(
    signals: Signals, limits: VolunteerLimits
) -> None:
    verdict = decide(signals, limits)

    assert 0.0 <= verdict.slots_share <= verdict.duty <= 1.0
    assert (verdict.reason == "") == (verdict.state == "active")
    assert len(verdict.reason) <= 80
    assert verdict.keeps_work == (verdict.duty > 0.0)


@given(signals=SIGNALS, limits=LIMITS)
def test_allowing_more_never_means_working_less(signals: Signals, limits: VolunteerLimits) -> None:
    generous = replace(limits, run_hidden=True, run_on_battery=True, run_on_save_data=True)

    assert decide(signals, generous).duty >= decide(signals, limits).duty


@given(limits=LIMITS)
def test_limits_fit_the_wire_whatever_the_page_says(limits: VolunteerLimits) -> None:
    told = limits.on_the_wire()

    assert 0.05 <= told.cpu_share <= 1.0
    assert told.threads >= 1


@given(busy_s=st.floats(0.001, 1), duty=st.floats(0.05, 1))
def test_resting_leaves_the_share_of_time_that_was_allowed(busy_s: float, duty: float) -> None:
    rest_s = pause_after(busy_s, duty=duty)

    assert busy_s / (busy_s + rest_s) == pytest.approx(duty)


def test_a_paused_node_has_nothing_to_rest_from() -> None:
    assert pause_after(1.0, duty=0.0) == 0.0
