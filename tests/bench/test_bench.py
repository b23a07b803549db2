"""The benchmarks that need no browser, in a minute's worth of seconds: they measure and report."""

from __future__ import annotations

import math
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from bench.__main__ import main
from bench.report import Report

pytestmark = pytest.mark.slow


def test_a_quick_run_reports_every_figure(tmp_path: Path) -> None:
    words = ["--quick", "--out", str(tmp_path), "dispatch", "fallback", "share"]

    done = CliRunner().invoke(main, words, catch_exceptions=False)

    assert done.exit_code == 0
    sections = msgspec.json.decode((tmp_path / "report.json").read_bytes(), type=Report).sections
    assert list(sections) == ["dispatch", "fallback", "share"]
    figures = {f.name: f for section in sections.values() for f in section.figures}
    assert "slowest 503 without node and worker" in figures
    # Figures, not speeds: a difference of two waits may well be nothing or less on a busy machine.
    assert all(math.isfinite(figure.value) for figure in figures.values())
