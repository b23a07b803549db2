"""Line charts as inline SVG: no script, no dependency; colours come from the page's variables.

Charts are drawn at the width of a phone and grow little, so that their text stays as large as the
page's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from html import escape
from typing import Final, Literal

import msgspec

WIDTH: Final = 380
HEIGHT: Final = 220
_LEFT: Final = 46
_RIGHT: Final = 14
_TOP: Final = 14
_BOTTOM: Final = 40

Point = tuple[float, float]


class Axis(msgspec.Struct, frozen=True):
    """``ticks`` are where grid lines stand; the axis goes from ``low`` to ``high``."""

    label: str
    low: float
    high: float
    ticks: Sequence[float]
    text: Callable[[float], str]
    scale: Literal["linear", "log"] = "linear"

    def at(self, value: float) -> float:
        """Return where a value stands, 0 at ``low`` to 1 at ``high``."""
        low, high, value = self.low, self.high, min(max(value, self.low), self.high)
        if self.scale == "log":
            low, high, value = math.log(low), math.log(high), math.log(value)
        return (value - low) / (high - low)


class Series(msgspec.Struct, frozen=True):
    """``colour`` names a variable of the page. ``filled`` reaches down to zero; ``dots`` marks
    every point and says its value where the pointer rests."""

    name: str
    points: Sequence[Point]
    colour: str
    filled: bool = False
    dots: bool = False
    line: bool = True
    notes: Sequence[str] = ()


def chart(title: str, x: Axis, y: Axis, series: Sequence[Series]) -> str:
    """Return a figure with its title and a legend; ``title`` is also what a screen reader says."""
    body = "".join([*_grid(x, y), *(part for one in series for part in _drawn(one, x, y))])
    legend = ""
    if len(series) > 1:
        keys = "".join(
            f'<span><i style="background:var(--{one.colour})"></i>{escape(one.name)}</span>'
            for one in series
        )
        legend = f'<p class="legend">{keys}</p>'
    return (
        f"<figure><figcaption>{escape(title)}</figcaption>{legend}"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">{body}</svg>'
        "</figure>"
    )


def linear(label: str, most: float, text: Callable[[float], str]) -> Axis:
    """Return an axis from zero to a round number that is at least ``most``."""
    if not 0 < most < math.inf:
        most = 1.0
    power = 10 ** math.floor(math.log10(most))
    step = next(s * power for s in (0.2, 0.25, 0.5, 1.0, 2.0, 2.5) if s * power * 5 >= most)
    count = math.ceil(most / step - 1e-9)
    return Axis(label, 0.0, step * count, [step * at for at in range(count + 1)], text)


def logarithmic(label: str, least: float, most: float, text: Callable[[float], str]) -> Axis:
    """Return an axis over whole decades that hold ``least`` and ``most``."""
    low = math.floor(math.log10(least) + 1e-9)
    high = max(math.ceil(math.log10(most) - 1e-9), low + 1)
    ticks = [10.0**power for power in range(low, high + 1)]
    return Axis(label, ticks[0], ticks[-1], ticks, text, scale="log")


def thinned(points: Sequence[Point], most: int = 90) -> list[Point]:
    """Return at most ``most`` points: means of neighbours."""
    size = max(math.ceil(len(points) / most), 1)
    groups = (points[at : at + size] for at in range(0, len(points), size))
    return [
        (math.fsum(x for x, _ in group) / len(group), math.fsum(y for _, y in group) / len(group))
        for group in groups
    ]


def _place(point: Point, x: Axis, y: Axis) -> Point:
    across = _LEFT + x.at(point[0]) * (WIDTH - _LEFT - _RIGHT)
    down = HEIGHT - _BOTTOM - y.at(point[1]) * (HEIGHT - _TOP - _BOTTOM)
    return across, down


def _grid(x: Axis, y: Axis) -> Iterator[str]:
    bottom = HEIGHT - _BOTTOM
    for tick in y.ticks:
        _, down = _place((x.low, tick), x, y)
        yield f'<path class="grid" d="M{_LEFT} {down:.1f}H{WIDTH - _RIGHT}"/>'
        yield f'<text x="{_LEFT - 6}" y="{down + 4:.1f}" text-anchor="end">{y.text(tick)}</text>'
    for tick in x.ticks:
        across, _ = _place((tick, y.low), x, y)
        yield f'<path class="tick" d="M{across:.1f} {bottom}v4"/>'
        yield f'<text x="{across:.1f}" y="{bottom + 17}" text-anchor="middle">{x.text(tick)}</text>'
    middle = (_LEFT + WIDTH - _RIGHT) / 2
    yield (
        f'<text class="axis" x="{middle}" y="{HEIGHT - 5}" text-anchor="middle">'
        f"{escape(x.label)}</text>"
    )


def _drawn(series: Series, x: Axis, y: Axis) -> Iterator[str]:
    places = [_place(point, x, y) for point in series.points]
    if not places:
        return
    path = "M" + "L".join(f"{across:.1f} {down:.1f}" for across, down in places)
    colour = f"var(--{series.colour})"
    if series.filled:
        bottom = HEIGHT - _BOTTOM
        yield (
            f'<path class="area" style="fill:{colour}" '
            f'd="{path}L{places[-1][0]:.1f} {bottom}L{places[0][0]:.1f} {bottom}Z"/>'
        )
    if series.line:
        yield f'<path class="line" style="stroke:{colour}" d="{path}"/>'
    if series.dots:
        notes = [*series.notes, *[""] * (len(places) - len(series.notes))]
        for (across, down), note in zip(places, notes, strict=False):
            yield (
                f'<circle style="fill:{colour}" cx="{across:.1f}" cy="{down:.1f}" r="4.5">'
                f"<title>{escape(note)}</title></circle>"
            )
