"""What customers are charged and volunteers are credited, double entry, in micro-dollars.

    an answer is delivered   project −price, and by volunteers: node's escrow +half, house +the rest
                             by the CPU worker: house +price

A charge carries its job's id, so that nothing can be charged twice. The sum over all accounts is
zero; what projects paid is the price of what they got; escrow is half of what volunteers answered.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from orchestrator.domain.model import JobId, ProjectId
from orchestrator.domain.trust import Identity

PRICE_PER_TOKEN: Final = 4
HOUSE: Final = "house"


class LedgerError(Exception):
    """The books would not balance."""


class Ledger:
    def __init__(self) -> None:
        self._accounts: dict[str, int] = {HOUSE: 0}
        self._charged: set[JobId] = set()
        self.edge_tokens = 0
        self.cloud_tokens = 0

    @property
    def charges(self) -> int:
        return len(self._charged)

    def charge(
        self, job_id: JobId, project_id: ProjectId, *, tokens: int, identity: Identity | None
    ) -> None:
        """Charge a delivered answer; ``identity`` is the volunteer's, None of the CPU worker.

        Raises `LedgerError` when the job was charged before.
        """
        if job_id in self._charged:
            raise LedgerError(f"job {job_id} is charged twice")
        self._charged.add(job_id)
        price = tokens * PRICE_PER_TOKEN
        escrow = 0 if identity is None else price // 2
        if identity is None:
            self.cloud_tokens += tokens
        else:
            self.edge_tokens += tokens
            self._add(f"escrow {identity}", escrow)
        self._add(f"project {project_id}", -price)
        self._accounts[HOUSE] += price - escrow

    def _add(self, account: str, amount: int) -> None:
        self._accounts[account] = self._accounts.get(account, 0) + amount

    def faults(self) -> Iterator[str]:
        """Yield what does not balance."""
        total = sum(self._accounts.values())
        if total:
            yield f"the accounts add up to {total}"
        paid = -sum(v for k, v in self._accounts.items() if k.startswith("project "))
        due = (self.edge_tokens + self.cloud_tokens) * PRICE_PER_TOKEN
        if paid != due:
            yield f"projects paid {paid} for answers worth {due}"
        escrow = sum(v for k, v in self._accounts.items() if k.startswith("escrow "))
        if escrow != self.edge_tokens * PRICE_PER_TOKEN // 2:
            yield f"escrow is {escrow} for {self.edge_tokens} tokens of volunteers"
