"""How tabs come back when many lose their orchestrator at once: a flow, second by second.

Clients wait a time drawn evenly up to their back-off, which doubles with every refusal
(`browser_node.backoff`); processes welcome so many a second and refuse the rest.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

import msgspec

from bench.fleet.assumptions import Assumptions

_BACK_SHARE: Final = 0.99
_GIVEN_UP_S: Final = 3_600


class Storm(msgspec.Struct, frozen=True, kw_only=True):
    """``arrivals`` are attempts a second at the worst moment and each process; ``back_s`` counts
    from the loss until 99 % of the tabs are welcome again, None if not within an hour."""

    name: str
    tabs: float
    processes: int
    arrivals: float
    accepts: float
    back_s: int | None


def storms(
    given: Assumptions,
    *,
    processes: Mapping[str, int],
    tabs: Mapping[str, float],
    world_tabs: float,
) -> tuple[Storm, ...]:
    """Return what follows a crash, a region's loss and a restart of everything."""
    largest = max(tabs, key=lambda name: tabs[name])
    everyone = sum(processes.values())
    of_one = tabs[largest] / processes[largest]
    found = [_storm(given, "a process crashes", of_one, max(processes[largest] - 1, 1))]
    if len(tabs) > 1:
        left = everyone - processes[largest]
        found.append(_storm(given, f"region {largest} is lost", tabs[largest], left))
    return (
        *found,
        _storm(
            given, "everything crashes and restarts", world_tabs, everyone, outage_s=given.restart_s
        ),
        _storm(
            given,
            f"everything restarts, tabs told to spread over {given.goodbye_window_s:g} s",
            world_tabs,
            everyone,
            window_s=given.goodbye_window_s,
        ),
    )


def _storm(
    given: Assumptions,
    name: str,
    tabs: float,
    processes: int,
    *,
    outage_s: float = 0.0,
    window_s: float = 0.0,
) -> Storm:
    accepts = given.accepts_per_s * processes
    arrivals, back_s = recover(
        tabs,
        accepts_per_s=accepts,
        outage_s=outage_s,
        window_s=window_s,
        base_s=given.retry_base_s,
        cap_s=given.retry_cap_s,
    )
    return Storm(
        name=name,
        tabs=tabs,
        processes=processes,
        arrivals=arrivals / processes,
        accepts=given.accepts_per_s,
        back_s=back_s,
    )


def recover(
    tabs: float,
    *,
    accepts_per_s: float,
    outage_s: float,
    window_s: float,
    base_s: float,
    cap_s: float,
) -> tuple[float, int | None]:
    """Return the most attempts in a second while somebody listens, and when 99 % are back.

    The first attempts spread over ``window_s``, or over the first back-off if that is longer.
    """
    # The back-off is at its cap after so many refusals, whatever their number.
    last = max(math.ceil(math.log2(cap_s / base_s)), 0)
    # due[t][n]: tabs whose next attempt is in second t, after n refusals.
    due: dict[int, dict[int, float]] = {}

    def wait(count: float, refusals: int, *, since: int, longest_s: float) -> None:
        seconds = max(round(longest_s), 1)
        for second in range(since, since + seconds):
            at = due.setdefault(second, {})
            at[refusals] = at.get(refusals, 0.0) + count / seconds

    wait(tabs, 0, since=0, longest_s=max(window_s, base_s))
    most, back = 0.0, 0.0
    for second in range(_GIVEN_UP_S):
        arriving = due.pop(second, {})
        count = sum(arriving.values())
        listening = second >= outage_s
        if listening:
            most = max(most, count)
        welcome = min(accepts_per_s, count) if listening else 0.0
        back += welcome
        if back >= tabs * _BACK_SHARE:
            return most, second + 1
        refused = 1 - welcome / count if count else 0.0
        if not refused:
            continue
        for refusals, waiting in arriving.items():
            later = min(refusals + 1, last)
            longest_s = min(cap_s, base_s * 2.0**later)
            wait(waiting * refused, later, since=second + 1, longest_s=longest_s)
    return most, None
