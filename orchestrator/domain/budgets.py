"""Budgets of extra work: so many in the long run, a few at once (a token bucket on jobs, not time).

As the retry budgets of Finagle (https://twitter.github.io/finagle/guide/Clients.html#retries): what
earns credit is ordinary work, so that trouble everywhere cannot multiply the load.
"""

from __future__ import annotations


class Budget:
    """``share`` of a credit is earned by each job; at most ``burst`` are kept."""

    __slots__ = ("burst", "credit", "share", "spent")

    def __init__(self, share: float, *, burst: float) -> None:
        self.share = share
        self.burst = burst
        # A quiet server may act on its first trouble.
        self.credit = burst if share > 0 else 0.0
        self.spent = 0

    def earn(self) -> None:
        if self.credit < self.burst:
            self.credit = min(self.credit + self.share, self.burst)

    def spend(self, *, reserve: float = 0.0) -> bool:
        """Take one; False when that would leave less than ``reserve``."""
        if self.credit < 1.0 + reserve:
            return False
        self.credit -= 1.0
        self.spent += 1
        return True
