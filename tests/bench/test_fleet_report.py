"""The fleet report, its charts, the studies behind it and the command that writes it."""

from __future__ import annotations

import json
import math
import random
import re
import shlex
from html.parser import HTMLParser
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from bench.fleet import cost, markup, plots, report, section, study, wording
from bench.fleet.cli import simulate
from bench.fleet.invariants import InvariantBroken
from bench.fleet.markup import Cell, Rows
from bench.fleet.outcome import Histogram
from bench.fleet.plots import Series
from bench.fleet.scenario import MIXES, mix
from bench.fleet.study import Study, Trial
from orchestrator.__main__ import cli
from orchestrator.domain import trust
from orchestrator.domain.trust import Identity, Policy, RuntimeClass, Standing

SMALL = {"jobs": 100, "nodes": 8, "seed": 3}
VOID = {"meta", "br", "i"}


@pytest.fixture(scope="module")
def found() -> Study:
    """A whole study in seconds: it shows that everything is there, and says little else."""
    studied = study.everything(study.mixes(**SMALL), **SMALL)
    costs = [cost.Cost(1_000, 50.0, 90.0, 25.0, 1_900.0)]
    return Study(
        mixes=studied.mixes,
        ablations=studied.ablations,
        honest=studied.honest,
        attacks=studied.attacks,
        audits=studied.audits,
        costs=costs,
    )


class Page(HTMLParser):
    """Reads a page; raises when an end tag does not fit."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


# ── the page ─────────────────────────────────────────────────────────────────────────────────────


def test_the_page_stands_alone_and_is_well_formed(found: Study) -> None:
    html = report.page(found, commands=["zerogpu simulate run"])
    read = Page(html)

    assert read.open == []
    assert "script" not in read.tags
    assert not read.attributes & {"src", "href", "onclick"}
    assert "url(" not in html
    assert "http" not in html


def test_the_page_has_every_mix_rule_attack_and_audit_share(found: Study) -> None:
    text = Page(report.page(found)).text

    for name in (*MIXES, *study.ABLATIONS):
        assert name in text
    for name, tries in study.ATTACKS.items():
        assert name.replace("_", " ") in text
        assert tries in text
    for share in study.AUDIT_SHARES:
        assert f"{share:.0%}" in text
    assert "1,900" in text


def test_a_single_run_is_a_report_without_the_studies(found: Study) -> None:
    html = report.page(Study(mixes=found.mixes[:1]))

    assert "1 run, 100 jobs" in html
    assert "What attacks achieve" not in html
    assert Page(html).open == []


def test_a_study_of_nothing_is_an_empty_report() -> None:
    assert "No fleet was simulated" in report.page(Study())


def test_text_is_escaped_wherever_it_stands() -> None:
    hostile = '<b onclick="x">&'
    parts = [
        markup.table([hostile], [Rows([[Cell(hostile, hostile)]], hostile)], name=hostile),
        markup.section(hostile, hostile, markup.paragraph(hostile), markup.command(hostile)),
        markup.cards([(hostile, hostile)]),
        plots.chart(
            hostile,
            plots.linear(hostile, 1.0, str),
            plots.linear("", 1.0, str),
            [Series(hostile, [(0.5, 0.5)], "edge", dots=True, notes=[hostile])] * 2,
        ),
    ]
    read = Page(markup.page(hostile, parts))

    assert "onclick" not in read.attributes
    assert read.text.count(hostile) >= 9


# ── charts ───────────────────────────────────────────────────────────────────────────────────────


@given(st.floats(1e-6, 1e9))
def test_a_linear_axis_reaches_the_largest_value_in_at_most_five_steps(most: float) -> None:
    axis = plots.linear("", most, str)

    assert axis.high >= most * (1 - 1e-9)
    assert axis.high <= most * 2.01
    assert 2 <= len(axis.ticks) <= 6
    assert axis.ticks[-1] == pytest.approx(axis.high)


@given(st.floats(1e-6, 1e3), st.floats(1, 1e6))
def test_a_logarithmic_axis_holds_both_ends(least: float, times: float) -> None:
    axis = plots.logarithmic("", least, least * times, str)

    assert axis.low <= least * (1 + 1e-6)
    assert axis.high >= least * times * (1 - 1e-6)
    assert all(math.isclose(math.log10(t), round(math.log10(t))) for t in axis.ticks)


@given(st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 1e6)), min_size=1, max_size=50))
def test_every_point_is_drawn_within_the_picture(points: list[tuple[float, float]]) -> None:
    svg = plots.chart(
        "",
        plots.linear("", 1_000.0, str),
        plots.logarithmic("", 0.01, 1_000.0, str),
        [Series("", points, "edge", filled=True, dots=True)],
    )

    for across, down in re.findall(r'cx="([\d.-]+)" cy="([\d.-]+)"', svg):
        assert 0 <= float(across) <= plots.WIDTH
        assert 0 <= float(down) <= plots.HEIGHT


@given(st.lists(st.floats(0, 1e3), min_size=1, max_size=1_000))
def test_thinning_keeps_few_points_and_the_order(values: list[float]) -> None:
    thin = plots.thinned([(float(at), value) for at, value in enumerate(values)], most=90)

    assert len(thin) <= 90
    assert [x for x, _ in thin] == sorted(x for x, _ in thin)
    assert min(values) - 1e-9 <= min(y for _, y in thin)
    assert max(y for _, y in thin) <= max(values) + 1e-9


def test_a_line_without_points_is_left_out() -> None:
    axis = plots.linear("", 1.0, str)

    assert 'class="line"' not in plots.chart("", axis, axis, [Series("", [], "edge")])


# ── words ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("value", "to", "note", "tone"),
    [
        (2.0, 1.0, "2.00 ×", "worse"),
        (0.5, 1.0, "0.50 ×", "better"),
        (1.04, 1.0, "same", ""),
        (300.0, 1.0, "300 ×", "worse"),
        (1.0, 0.0, "", ""),
        (math.nan, 1.0, "", ""),
    ],
)
def test_a_comparison_says_how_many_times(value: float, to: float, note: str, tone: str) -> None:
    assert wording.against("x", value, to) == Cell("x", note, tone)


def test_more_may_be_better() -> None:
    assert wording.against("x", 2.0, 1.0, more_is_worse=False).tone == "better"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (wording.seconds(0.0631), "63 ms"),
        (wording.seconds(1.26), "1.3 s"),
        (wording.seconds(31.6), "32 s"),
        (wording.seconds(math.nan), "–"),
        (wording.percent(0.0515), "5.15%"),
        (wording.percent(0.866), "86.6%"),
        (wording.percent(0.0), "0%"),
        (wording.percent(math.nan), "–"),
    ],
)
def test_numbers_are_short(text: str, words: str) -> None:
    assert text == words


# ── studies ──────────────────────────────────────────────────────────────────────────────────────


def test_all_rules_face_the_same_demand(found: Study) -> None:
    for name in MIXES:
        runs = {one.name: one.outcome for one in found.ablations if one.mix == name}
        assert set(runs) == set(study.ABLATIONS)
        assert len({outcome.submitted for outcome in runs.values()}) == 1
        assert runs["no hedging"].attempts.get("hedge", 0) == 0


def test_every_attack_is_run_by_a_quarter_of_the_tabs(found: Study) -> None:
    for attack in found.attacks:
        assert attack.outcome.tallies[attack.name].identities >= 2


@given(st.lists(st.lists(st.floats(1e-6, 1e3), max_size=30), max_size=4))
def test_histograms_together_are_the_histogram_of_all(parts: list[list[float]]) -> None:
    whole, each = Histogram(), [Histogram() for _ in parts]
    for values, one in zip(parts, each, strict=True):
        for value in values:
            whole.add(value)
            one.add(value)

    merged = study.merged(each)
    assert merged.count == whole.count
    for q in (0.1, 0.5, 0.99):
        assert merged.quantile(q) == whole.quantile(q) or not whole.count


@pytest.mark.parametrize("share", [0.02, 0.05, 0.2])
def test_the_expected_escapes_are_those_of_a_liar_under_the_rules_of_trust(share: float) -> None:
    lives = 400
    rng = random.Random(5)
    total = sum(patient_life(Policy(audit_share=share), rng) for _ in range(lives))

    assert total / lives == pytest.approx(study.expected_escapes(share), rel=0.15)


def patient_life(policy: Policy, rng: random.Random) -> int:
    """Return the lies that a node delivers that lies whenever it is trusted, and only then."""
    record = Standing(Identity("liar"), RuntimeClass("browser/wasm"))
    delivered = 0
    while trust.level(record, policy) != "quarantined":
        if trust.level(record, policy) == "newcomer":
            trust.agreed(record, real=True)
            continue
        if not record.strikes and record.consecutive < 1 / policy.audit_share:
            # Patience: audits are dense at first, and it waits until they are as rare as they get.
            trust.agreed(record, real=True)
            continue
        delivered += 1
        if rng.random() < trust.audit_share(record, policy):
            trust.disagreed(record, "it lied")
    return delivered


def test_runs_in_two_processes_come_to_the_same() -> None:
    trials = [Trial(mix("calm", jobs=100, nodes=4), seed) for seed in (1, 2)]

    alone = study.run_all(trials)
    together = study.run_all(trials, processes=2)

    assert [one.trace for one in alone] == [one.trace for one in together]


def test_a_study_does_not_hide_a_broken_law() -> None:
    with pytest.raises(InvariantBroken, match="seed 1"):
        study.run_all([Trial(mix("calm", jobs=2_000), 1, planted="leaks a slot")])


def test_the_cost_of_a_decision_is_measured_on_a_fleet_that_takes_the_work() -> None:
    measured = cost.measure(300, jobs=200)

    assert 0 < measured.placing_us < measured.placing_p99_us
    assert measured.finishing_us > 0
    assert 500 < measured.bytes_per_node < 20_000


def test_the_benchmarks_section_has_targets_for_time_and_memory(found: Study) -> None:
    made = section.section(found, jobs=100, study_jobs=100)

    targets = {figure.name: figure.at_most for figure in made.figures}
    assert targets["placement among 1,000 nodes, median"] == 50
    assert targets["scheduler's memory of a node, 1,000 nodes"] == 2_000
    assert all(len(row) == len(table.columns) for table in made.tables for row in table.rows)
    assert len(made.tables) == 4


# ── the command ──────────────────────────────────────────────────────────────────────────────────


def invoke(*words: str) -> Result:
    return CliRunner().invoke(simulate, ["run", *words], catch_exceptions=False)


def test_a_run_says_what_came_of_it_and_writes_the_report(tmp_path: Path) -> None:
    page = tmp_path / "out.html"

    done = invoke("--mix", "churn", "--jobs", "300", "--seed", "7", "--report", str(page))

    assert done.exit_code == 0
    assert "churn" in done.output
    assert "1 run of 24 tabs: no law was broken." in done.output
    assert "zerogpu simulate run --mix churn --jobs 300 --nodes 24 --seed 7" in page.read_text()


def test_json_is_one_object_for_each_mix_and_seed() -> None:
    done = invoke("--mix", "calm", "--mix", "churn", "--jobs", "200", "--seeds", "2", "--json")

    found = json.loads(done.stdout)
    assert [(one["scenario"], one["seed"]) for one in found] == [
        ("calm", 1),
        ("churn", 1),
        ("calm", 2),
        ("churn", 2),
    ]
    assert found[0]["latency_edge_s"]["p50"] > 0


def test_a_broken_law_is_shown_with_the_command_that_replays_it() -> None:
    words = ["--mix", "calm", "--jobs", "2000", "--seed", "4", "--planted", "leaks a slot"]
    broken = invoke(*words)

    assert broken.exit_code == 1
    first, _, again = broken.stderr.splitlines()
    assert first.startswith("A law is broken: ")

    replayed = CliRunner().invoke(cli, shlex.split(again)[1:])
    assert replayed.exit_code == 1
    assert replayed.stderr == broken.stderr


def test_every_broken_run_is_shown_not_only_the_first() -> None:
    words = ["--mix", "calm", "--jobs", "2000", "--seeds", "2", "--planted", "leaks a slot"]
    done = invoke(*words)

    assert done.exit_code == 1
    assert re.findall(r"--seed (\d)", done.stderr) == ["1", "2"]
