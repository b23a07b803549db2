"""Numbers as the report writes them, and how two of them compare."""

from __future__ import annotations

import math
from typing import Final

from bench.fleet.markup import Cell

# Quantiles come from buckets 2.3 % wide, and a tail is made by a few bursts: less says nothing.
_SAME: Final = 1.05


def seconds(value: float) -> str:
    if math.isnan(value):
        return "–"
    if value < 0.9995:
        return f"{value * 1e3:.0f} ms"
    return f"{value:.1f} s" if value < 9.95 else f"{value:.0f} s"


def percent(value: float) -> str:
    if math.isnan(value):
        return "–"
    if value == 0:
        return "0%"
    return f"{value:.1%}" if abs(value) >= 0.0995 else f"{value:.2%}"


def count(value: float) -> str:
    return f"{value:,.0f}"


def against(text: str, value: float, to: float, *, more_is_worse: bool = True) -> Cell:
    """Return a cell that also says how many times ``to`` the value is."""
    if not to or math.isnan(value) or math.isnan(to):
        return Cell(text)
    times = value / to
    if 1 / _SAME < times < _SAME:
        return Cell(text, "same")
    tone = "worse" if (times > 1) == more_is_worse else "better"
    return Cell(text, f"{times:.2f} ×" if times < 9.95 else f"{times:.0f} ×", tone)


def per_thousand(part: float, whole: float) -> float:
    return part / whole * 1e3 if whole else 0.0
