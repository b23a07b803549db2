"""Answers that the CPU worker is to repeat, behind the customer's back, when it has time."""

from __future__ import annotations

from collections import deque
from typing import Final

import msgspec

from browser_node.protocol import ModelDigest, Task
from orchestrator.domain import router
from orchestrator.domain.board import Board
from orchestrator.domain.index import WINDOW_S
from orchestrator.domain.model import Attempt, Claim, Node, ProjectId, Subject

AUDITS_KEPT: Final = 256
AUDIT_BYTES_KEPT: Final = 16 << 20


class Audit(msgspec.Struct):
    """What ``subject`` answered to ``task``, and whether a process of its own repeats it."""

    subject: Subject
    task: Task
    tokens: int
    claimed: Claim
    project_id: ProjectId | None  # where its text may be put to others
    alone: bool = False

    @property
    def size_bytes(self) -> int:
        return len(self.claimed.output) + len(self.claimed.evidence) + len(self.task.input)


class Audits:
    """``coming`` counts those whose evidence is still to be shown: they have a place already."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self.waiting: deque[Audit] = deque()
        self._size_bytes = 0
        self.coming = 0

    def has_room_for(self, audit: Audit) -> bool:
        count = len(self.waiting) + self.coming
        return count < AUDITS_KEPT and self._size_bytes + audit.size_bytes <= AUDIT_BYTES_KEPT

    def add(self, audit: Audit) -> None:
        self.waiting.append(audit)
        self._size_bytes += audit.size_bytes

    def again(self, attempt: Attempt) -> None:
        """The CPU worker did not get to repeat an answer: once more, in a process of its own.

        It may have been that very text.
        """
        subject, task, claimed = attempt.subject, attempt.task, attempt.claimed
        if subject and task and claimed and not attempt.alone:
            audit = Audit(subject, task, attempt.tokens, claimed, attempt.project_id, alone=True)
            self.waiting.appendleft(audit)
            self._size_bytes += audit.size_bytes

    def start_some(self, now: float) -> None:
        """Start some on a CPU worker that no request waits for, and one at a time if need be.

        Who lies could otherwise wait for a busy hour: half a backlog goes before customers.
        """
        queues = self._board.queues.waiting("cloud")
        if any(queue.classes["interactive"].size for queue in queues) and (
            len(self.waiting) < AUDITS_KEPT // 2
            or any(
                attempt.purpose == "audit"
                for worker in self._board.workers.values()
                for attempt in worker.attempts.values()
            )
        ):
            return
        for worker in self._board.workers.values():
            while self.waiting and not worker.stale:
                audit = self.waiting[0]
                digest = audit.subject.digest
                if digest not in worker.speeds or not _spare(worker, digest, audit.tokens):
                    break
                self.waiting.popleft()
                self._size_bytes -= audit.size_bytes
                self._board.start(
                    worker,
                    router.explain(
                        worker, digest=digest, tokens=audit.tokens, considered=1, skipped={}
                    ),
                    digest=digest,
                    task=audit.task,
                    tokens=audit.tokens,
                    now=now,
                    purpose="audit",
                    job=None,
                    alone=audit.alone,
                    subject=audit.subject,
                    background=False,
                    known=None,
                    claimed=audit.claimed,
                    real=False,
                    project_id=audit.project_id,
                )


def _spare(worker: Node, digest: ModelDigest, tokens: int) -> bool:
    """Whether the CPU worker has time for what nobody waits for."""
    if len(worker.attempts) >= worker.slots:
        return False
    half = worker.speeds[digest].tokens_per_s * WINDOW_S / 2
    return worker.outstanding_tokens + tokens <= max(half, tokens)
