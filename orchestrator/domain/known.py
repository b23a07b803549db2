"""Tasks whose right answer is known: customers' texts of late, and texts made here.

A customer's text can be told from no other, so those come first; each is put to an identity once,
and to few identities, lest those that answer together know it. Texts made here can be recognised by
whoever reads this project's source.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterable
from typing import Final

import msgspec

from browser_node.protocol import Answer, ModelDigest, Task
from orchestrator.domain import trust
from orchestrator.domain.model import Node, ProjectId
from orchestrator.domain.references import References
from orchestrator.domain.trust import Identity, Policy

RECENT_KEPT: Final = 64
RECENT_USES: Final = 16
BYTES_KEPT: Final = 64 << 10
KEPT_S: Final = 600.0
# So often the pool is asked for a text that a node has not had; a repeat is better than nothing.
POOL_TRIES: Final = 8


class Known(msgspec.Struct, eq=False):
    """A task, its right answer, who has ``seen`` it; whose it is, if a customer's, and its age."""

    task: Task
    tokens: int
    answer: Answer
    seen: set[Identity]
    project_id: ProjectId | None = None
    since: float = 0.0
    stream: bool = False  # as the customer asked for it: a replay must not be told by that

    @property
    def real(self) -> bool:
        """Whether a customer asked it."""
        return self.project_id is not None


class KnownTexts:
    def __init__(
        self,
        digests: Iterable[ModelDigest],
        *,
        references: References | None,
        policy: Policy,
        rng: random.Random,
    ) -> None:
        self._recent: dict[ModelDigest, deque[Known]] = {digest: deque() for digest in digests}
        self._projects: set[ProjectId] = set()
        self._silent: set[ProjectId] = set()
        self._references = references
        self._policy = policy
        self._rng = rng

    def remember(self, digest: ModelDigest, known: Known) -> None:
        """Keep a customer's text that the CPU worker has answered, unless it is a very long one."""
        answer = known.answer
        if known.project_id in self._silent:
            return
        if len(known.task.input) + len(answer.output) + len(answer.evidence) > BYTES_KEPT:
            return
        recent = self._recent[digest]
        recent.append(known)
        if known.project_id is not None:
            self._projects.add(known.project_id)
        if len(recent) > RECENT_KEPT:
            recent.popleft()

    def allow(self, project_id: ProjectId, *, allowed: bool) -> None:
        """Whether a project lets its texts be put to others; if not, none is kept."""
        if allowed:
            if self._silent:
                self._silent.discard(project_id)
            return
        self._silent.add(project_id)
        if project_id in self._projects:
            self._projects.discard(project_id)
            for digest, recent in self._recent.items():
                kept = (known for known in recent if known.project_id != project_id)
                self._recent[digest] = deque(kept)

    def expire(self, now: float) -> None:
        """Let go of texts of more than ten minutes ago."""
        for recent in self._recent.values():
            while recent and now - recent[0].since > KEPT_S:
                recent.popleft()

    def pick(self, node: Node, digest: ModelDigest, *, audited: bool, real: bool) -> Known | None:
        """Return a task that the node has not seen, or None.

        ``audited``: the CPU worker could repeat an answer instead, of which nobody knows which.
        ``real``: whether it may be a customer's text.
        """
        standing = node.standing
        recent = self._recent[digest] if real else ()
        unseen = [one for one in recent if standing.identity not in one.seen]
        if unseen:
            return unseen[int(self._rng.random() * len(unseen))]
        if self._references is None or (node.level == "trusted" and audited):
            return None
        factor = trust.PROBATION**standing.strikes
        if node.level == "newcomer" and standing.consecutive >= self._policy.trust_after * factor:
            return None  # all it lacks are customers' texts
        for _ in range(POOL_TRIES):
            drawn = self._references.draw(digest, 1)
            if not drawn:
                return None
            task, answer = drawn[0]
            if hash(task.input) not in node.seen:
                node.seen = node.seen | {hash(task.input)}
                break
        return Known(task, max(len(task.input) // 4, 1), answer, set())

    def used(self, known: Known, digest: ModelDigest, identity: Identity) -> None:
        """``identity`` was put this task."""
        known.seen.add(identity)
        if known.real and len(known.seen) >= RECENT_USES and known in self._recent[digest]:
            self._recent[digest].remove(known)
