"""Whether the node may work now, how hard, and why: pure rules over signals and limits.

The first rule that applies decides:

| the device says                           | unless           | state     | takes work  |
|-------------------------------------------|------------------|-----------|-------------|
| the volunteer pressed pause               |                  | paused    | no          |
| the battery discharges and is below 20 %  |                  | paused    | no          |
| the battery discharges                    | run_on_battery   | paused    | no          |
| the browser asks to save data             | run_on_save_data | paused    | no          |
| the browser freezes the tab               |                  | hidden    | no          |
| the tab is hidden                         | run_hidden       | hidden    | no          |
| compute pressure is critical              |                  | throttled | no          |
| compute pressure is serious               |                  | throttled | half        |
| none of these                             |                  | active    | its share   |

A paused or hidden node hands back what it holds; a throttled one finishes it at half the pace.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from browser_node.protocol import Limits, NodeState

Pressure = Literal["nominal", "fair", "serious", "critical"]

LOW_BATTERY: Final = 0.2
MIN_CPU_SHARE: Final = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Signals:
    """What is known of the device now; None where it does not tell."""

    user_paused: bool = False
    hidden: bool = False
    frozen: bool = False
    battery: float | None = None
    charging: bool | None = None
    save_data: bool = False
    pressure: Pressure | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class VolunteerLimits:
    """What the volunteer allows: ``cpu_share`` of the time, and when to go on working."""

    cpu_share: float = 1.0
    threads: int = 1
    run_hidden: bool = False
    run_on_battery: bool = False
    run_on_save_data: bool = False

    def on_the_wire(self) -> Limits:
        return Limits(cpu_share=_duty(self.cpu_share), threads=max(1, self.threads))


@dataclass(frozen=True, slots=True)
class Politeness:
    """The verdict: ``duty`` is the share of time to compute, ``slots_share`` of the slots to offer.

    ``reason`` is a sentence for the volunteer, empty when all is normal. `keeps_work` tells whether
    what is held is finished or handed back.
    """

    state: NodeState
    reason: str
    duty: float
    slots_share: float

    @property
    def keeps_work(self) -> bool:
        return self.state in ("active", "throttled")


def decide(signals: Signals, limits: VolunteerLimits) -> Politeness:
    """Return what the node may do under ``signals`` and ``limits``; see the module's table."""
    discharging = signals.charging is False
    if signals.user_paused:
        return _no("paused", "You paused this node.")
    if discharging and signals.battery is not None and signals.battery < LOW_BATTERY:
        return _no(
            "paused", f"The battery is at {signals.battery:.0%}. Work goes on once it charges."
        )
    if discharging and not limits.run_on_battery:
        return _no("paused", "This device runs on battery. Work goes on once it charges.")
    if signals.save_data and not limits.run_on_save_data:
        return _no("paused", "Your browser is set to save data.")
    if signals.frozen:
        # Nothing runs from here on: what is held is given back while there is a moment left.
        return _no("hidden", "The browser froze this tab. Work goes on when you look at it again.")
    if signals.hidden and not limits.run_hidden:
        return _no("hidden", "This tab is hidden. Work goes on when you look at it again.")
    duty = _duty(limits.cpu_share)
    if signals.pressure == "critical":
        return Politeness(
            "throttled", "This device is very busy, so no new work is taken.", duty / 2, 0.0
        )
    if signals.pressure == "serious":
        return Politeness(
            "throttled", "This device is busy, so less work is taken.", duty / 2, duty / 2
        )
    return Politeness("active", "", duty, duty)


def _no(state: NodeState, reason: str) -> Politeness:
    return Politeness(state, reason, duty=0.0, slots_share=0.0)


def _duty(cpu_share: float) -> float:
    return min(1.0, max(MIN_CPU_SHARE, cpu_share))


def pause_after(busy_s: float, *, duty: float) -> float:
    """Return the seconds to rest after ``busy_s`` of computing to be busy ``duty`` of the time."""
    if duty <= 0.0:
        return 0.0
    return busy_s * (1.0 - duty) / duty
