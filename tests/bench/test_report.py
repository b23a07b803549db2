"""Reports: each section is its latest run, in both files."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from bench import dispatch, fallback, litellm, share
from bench.dispatch import ECHO, Sample
from bench.load import Outcome
from bench.report import Figure, Report, Section, Table, keep, markdown
from bench.share import Shared


def section(name: str, value: float) -> Section:
    figure = Figure("wait", value, "ms", at_most=100)
    return Section(name, name.title(), [figure], [Table(("a", "b"), [("1", "2")])])


def test_a_new_run_takes_the_place_of_the_same_sections_and_leaves_the_others(
    tmp_path: Path,
) -> None:
    keep(tmp_path, section("one", 1), at="2026-11-21T00:00Z")
    keep(tmp_path, section("two", 2), at="2026-11-21T00:01Z")
    keep(tmp_path, section("one", 300), at="2026-11-21T00:02Z")

    kept = msgspec.json.decode((tmp_path / "report.json").read_bytes(), type=Report).sections
    assert [(s.figures[0].value, s.measured_at[11:16]) for s in kept.values()] == [
        (300, "00:02"),
        (2, "00:01"),
    ]
    assert (tmp_path / "report.md").read_text() == markdown(Report(kept))


def test_a_report_of_another_version_is_begun_anew(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text('{"sections": [1]}')

    assert list(keep(tmp_path, section("one", 1), at="now").sections) == ["one"]


def test_markdown_shows_tables_and_targets() -> None:
    text = markdown(Report({"one": section("one", 250)}))

    assert "| a | b |\n| --- | --- |\n| 1 | 2 |\n" in text
    assert "| wait | 250 ms | ≤ 100 ms | missed |" in text


@pytest.mark.parametrize(
    ("value", "at_most", "verdict"), [(1, None, ""), (1, 1, "met"), (2, 1, "missed")]
)
def test_a_figure_is_judged_by_its_target(
    value: float, at_most: float | None, verdict: str
) -> None:
    assert Figure("f", value, "s", at_most).verdict == verdict


@pytest.mark.parametrize(("value", "verdict"), [(49, "missed"), (50, "met")])
def test_a_figure_may_have_to_be_large(value: float, verdict: str) -> None:
    figure = Figure("f", value, "×", at_least=50)

    assert (figure.target, figure.verdict) == ("≥ 50 ×", verdict)


def sample(cpu_us: float, p50_ms: float) -> Sample:
    return Sample(cpu_us=cpu_us, p50_ms=p50_ms, p99_ms=9.0, per_s=100.0, loop_us=cpu_us / 2 + 10)


def test_dispatch_compares_rounds_with_the_echo_of_the_same_round() -> None:
    echo = [sample(50, 0.1), sample(100, 0.2), sample(100, 0.2)]
    ours = [sample(100, 0.5), sample(150, 0.6), sample(200, 0.8)]

    found = dispatch.report({1: {ECHO: echo, "POST /x": ours}}, nodes=8)

    assert [(f.name, round(f.value, 3)) for f in found.figures] == [
        ("CPU ratio: POST /x, 1 connection", 2.0),
        ("CPU ratio, event loop alone: POST /x, 1 connection", 1.714),
        ("added p50: POST /x, 1 connection", 0.4),
    ]


def test_litellm_is_measured_in_our_requests() -> None:
    ours, mocked = [sample(100, 1), sample(200, 1)], [sample(6000, 9), sample(8000, 9)]
    proxied = [sample(9000, 9), sample(9000, 9)]
    by_name = {litellm.OURS: ours, litellm.MOCKED: mocked, litellm.PROXIED: proxied}

    found = litellm.report({32: by_name})

    assert [(f.value, f.verdict) for f in found.figures] == [(50.0, "met"), (67.5, "met")]


def test_litellm_mocks_the_answer_or_asks_the_provider() -> None:
    mocked, proxied = litellm.configuration("An answer.", 4711)["model_list"]

    assert mocked["litellm_params"]["mock_response"] == "An answer."
    assert proxied["litellm_params"]["api_base"] == "http://127.0.0.1:4711/v1"


def test_the_texts_of_dispatch_differ_and_are_about_as_long() -> None:
    texts = dispatch.compose(64)

    assert len(set(texts)) == 64
    assert all(800 <= len(text) < 950 for text in texts)


def test_fallback_reports_medians_and_the_slowest_refusal() -> None:
    refusals = Outcome(
        requests=9, seconds=1, statuses={"503": 9}, places={}, p50_ms=1, p99_ms=2, max_ms=3
    )

    found = fallback.report(refusals, {"crash": [0.001, 0.002, 0.009]})

    assert [f.value for f in found.figures] == [3, 2]
    assert found.tables[0].rows[1] == ("crash", "3", "2.00", "9.00")


def test_share_is_measured_against_the_nodes_speeds() -> None:
    found = share.report([Shared(fast=150, slow=50, seconds=2.0, least_s=1.6)], requests=200)

    off, longer = (figure.value for figure in found.figures)
    assert off == pytest.approx(5)
    assert longer == pytest.approx(1.25)
