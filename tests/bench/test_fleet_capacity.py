from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from click.testing import CliRunner
from hypothesis import given as property_given
from hypothesis import strategies as st

from bench.fleet.assumptions import Assumptions, Region, describe, parse_regions
from bench.fleet.capacity import of_peak, plan, traffic
from bench.fleet.cli import simulate
from bench.fleet.paper import number
from bench.fleet.storms import recover

MILLION = Assumptions()
ONE_REGION = Assumptions(regions=(Region("eu", 1.0, 19),))


def test_a_million_tabs_are_divided_over_the_regions_by_their_shares() -> None:
    found = plan(MILLION)

    assert [region.traffic.nodes for region in found.regions] == [400_000, 350_000, 250_000]
    assert found.total("requests") == pytest.approx(50_000)


def test_no_process_holds_more_sockets_than_it_may_even_with_a_region_lost() -> None:
    found = plan(MILLION)
    world_without_eu = found.busiest.nodes
    left = found.processes - found.regions[0].processes

    assert all(region.sockets_per_process <= MILLION.sockets_max for region in found.regions)
    assert world_without_eu / left <= MILLION.sockets_max


def test_a_region_alone_needs_no_room_for_another_and_still_a_spare_process() -> None:
    small = plan(replace(ONE_REGION, nodes=100, requests_per_s=1.0))

    assert small.processes == 2
    assert small.regions[0].set_by == "a spare for a crash"


@pytest.mark.parametrize(
    ("change", "set_by"),
    [
        ({"requests_per_s": 500_000.0}, "CPU"),
        ({"sockets_max": 1_000}, "sockets"),
        ({"probes_per_s": 10.0}, "probes"),
    ],
)
def test_the_scarcest_thing_sets_the_number_of_processes(
    change: dict[str, float], set_by: str
) -> None:
    found = plan(Assumptions(regions=ONE_REGION.regions, **change))  # type: ignore[arg-type]

    assert found.regions[0].set_by == set_by


def test_what_tabs_cannot_compute_goes_to_the_cpu_workers() -> None:
    few = Assumptions(nodes=1_000, requests_per_s=50_000.0)
    found = plan(few)

    could = 1_000 * few.availability_share * few.tab_tokens_per_s / few.tokens_per_request
    assert found.total("edge") == pytest.approx(could)
    assert found.total("cloud") == pytest.approx(50_000 - could)
    assert found.limits[0].name == "computing of the tabs"
    assert found.limits[0].growth == pytest.approx(1.0)


def test_cpu_workers_have_room_for_audits_trials_hedges_and_fallbacks() -> None:
    flow = traffic(MILLION, 1.0)
    jobs = flow.cloud + flow.audits + flow.trials + flow.hedges

    assert flow.cpu_worker_tokens == pytest.approx(jobs * MILLION.tokens_per_request)
    speed = MILLION.cpu_worker_tokens_per_s * MILLION.cpu_worker_load
    assert plan(MILLION).cpu_workers >= flow.cpu_worker_tokens / speed


def test_a_larger_audit_share_costs_cpu_workers_and_nothing_else() -> None:
    usual, careful = plan(MILLION), plan(replace(MILLION, audit_share=0.2))

    assert careful.cpu_workers > usual.cpu_workers
    assert careful.total("edge") == usual.total("edge")


def test_tabs_that_answer_often_are_not_probed() -> None:
    idle = traffic(replace(MILLION, requests_per_s=0.0), 1.0)
    busy = traffic(replace(MILLION, requests_per_s=1e6, availability_share=1.0), 1.0)

    assert idle.probes == pytest.approx(1_000_000 / 25)
    assert busy.probes < 1e-3


@property_given(st.integers(0, 23))
def test_load_is_at_its_peak_at_the_busiest_hour_and_never_above(hour: int) -> None:
    region = MILLION.regions[0]

    assert of_peak(MILLION, region, region.peak_hour) == pytest.approx(1.0)
    assert 0 < of_peak(MILLION, region, hour) <= 1.0 + 1e-12


@property_given(
    nodes=st.integers(1, 3_000_000),
    requests=st.floats(0, 1e6),
    shares=st.lists(st.floats(0.01, 1), min_size=1, max_size=5),
)
def test_every_plan_is_within_its_own_limits(
    nodes: int, requests: float, shares: list[float]
) -> None:
    regions = tuple(
        Region(f"r{at}", share / sum(shares), at * 4) for at, share in enumerate(shares)
    )
    found = plan(Assumptions(nodes=nodes, requests_per_s=requests, regions=regions))

    within = {"sockets of a process", "CPU of a process", "probes of a process", "CPU workers"}
    assert all(limit.growth >= 1 for limit in found.limits if limit.name in within)
    assert found.limits == tuple(sorted(found.limits, key=lambda limit: limit.growth))


# ── storms ───────────────────────────────────────────────────────────────────────────────────────


def test_tabs_that_all_find_room_are_back_within_their_first_wait() -> None:
    most, back_s = recover(1_000, accepts_per_s=1_000, outage_s=0, window_s=0, base_s=1, cap_s=60)

    assert (most, back_s) == (1_000, 1)


def test_a_storm_cannot_end_sooner_than_processes_can_welcome() -> None:
    _, back_s = recover(100_000, accepts_per_s=1_000, outage_s=0, window_s=0, base_s=1, cap_s=60)

    assert back_s is not None
    assert back_s >= 99


def test_a_window_flattens_the_storm() -> None:
    storm, _ = recover(120_000, accepts_per_s=5_000, outage_s=0, window_s=0, base_s=1, cap_s=60)
    spread, back_s = recover(
        120_000, accepts_per_s=5_000, outage_s=0, window_s=120, base_s=1, cap_s=60
    )

    assert storm == 120_000
    assert spread == pytest.approx(1_000)
    assert back_s == 119


def test_nobody_is_welcome_before_the_restart() -> None:
    _, back_s = recover(10, accepts_per_s=1_000, outage_s=20, window_s=0, base_s=1, cap_s=60)

    assert back_s is not None
    assert back_s > 20


def test_a_fleet_that_never_listens_is_given_up() -> None:
    assert recover(10, accepts_per_s=0, outage_s=0, window_s=0, base_s=1, cap_s=60)[1] is None


# ── the command ──────────────────────────────────────────────────────────────────────────────────


def invoke(*words: str) -> str:
    result = CliRunner().invoke(simulate, words, env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize("words", [["--nodes", "1000000"], ["plan", "--nodes", "1000000"]])
def test_the_plan_is_printed_with_and_without_its_name(words: list[str]) -> None:
    output = invoke(*words)

    assert "1,000,000 tabs, 50,000 requests/s" in output
    assert "What breaks first" in output


def test_json_has_the_plan_its_sums_and_its_assumptions() -> None:
    found = json.loads(invoke("--nodes", "200000", "--regions", "eu=3,na=1", "--json"))

    assert found["assumptions"]["nodes"] == 200_000
    assert [region["share"] for region in found["regions"]] == [0.75, 0.25]
    assert found["total"]["processes"] == sum(r["processes"] for r in found["regions"])
    assert found["total"]["requests"] == pytest.approx(10_000)
    assert found["breaks_first"] == found["limits"][0]["name"]


def test_every_assumption_is_an_option_and_has_a_source() -> None:
    options = {option.name for option in simulate.params}

    for name, about, _ in describe():
        assert name in options
        assert about.source
    assert "measured" in invoke("--assumptions")


def test_options_before_a_command_are_refused() -> None:
    result = CliRunner().invoke(simulate, ["--nodes", "5", "plan"])

    assert result.exit_code == 2
    assert "options stand after the command" in result.output


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("eu", "'eu' is not a region"),
        ("eu=x", "'eu=x' is not a region"),
        ("eu=0", "its share is above 0"),
        ("eu=1@25", "its hour 0 to 23"),
        ("eu=nan", "its share is above 0"),
        ("eu=1,eu=1", "names a region twice"),
    ],
)
def test_a_mistaken_region_is_answered_with_a_sentence(text: str, complaint: str) -> None:
    result = CliRunner().invoke(simulate, ["--regions", text])

    assert result.exit_code == 2
    assert complaint in " ".join(result.output.replace("│", " ").split())


def test_a_region_may_name_its_busiest_hour() -> None:
    assert parse_regions("eu=1@20, moon=1") == (Region("eu", 0.5, 20), Region("moon", 0.5, 12))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (1_000_000, "1,000,000"),
        (123_456.7, "123,000"),
        (12.345, "12.3"),
        (0.0105, "0.0105"),
        (0.05, "0.05"),
        (999.6, "1,000"),
        (-2.5, "-2.5"),
        (math.pi, "3.14"),
    ],
)
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert number(value) == text
