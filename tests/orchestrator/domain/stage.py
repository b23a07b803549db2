"""A stage for tests of trust: comparisons are judged by equality, and what was sent is kept."""

from __future__ import annotations

import random
from collections import deque
from typing import Any

from browser_node.protocol import Answer, AttemptId, JobItem, NodeId, Task, commitment_to
from orchestrator.domain import effects as fx
from orchestrator.domain import events as ev
from orchestrator.domain.model import NewJob
from orchestrator.domain.references import References
from orchestrator.domain.trust import Identity, Policy, RuntimeClass, Standing
from tests.orchestrator.domain.fleet_of import MODEL, RUNTIME, TAB, WORKER, join, scheduler

WRONG = b"wrong"
POLICY = Policy()
# What a customer of job "j" may have been answered, and where.
CLOUD = (b"right: text of j", "cloud")
EDGE = (b"right: text of j", "edge")
LIE = (WRONG, "edge")


def right(task: Task | JobItem) -> bytes:
    """Return the one right output for a task."""
    return b"right: " + task.input.encode()


def evidence_of(output: bytes) -> bytes:
    """Return what an answer rests on here."""
    return b"evidence for " + output[:40]


def known_answers(count: int) -> References:
    """Return a pool of ``count`` tasks that the CPU worker has answered."""
    references = References(random.Random(2))
    tasks = [Task(input=f"known {number}") for number in range(count)]
    references.fill(MODEL, tasks, [Answer(output=right(task)) for task in tasks])
    return references


class Stage:
    """A scheduler with its surroundings: `do` handles an event and every comparison it asks for.

    Strangers commit to evidence (`evidence_of`) and show it as soon as they are asked to. With
    ``judges`` off, comparisons wait in ``unjudged`` until `judge` is called, with ``shows`` off
    what is to be shown in ``asked`` until `show` is.
    """

    def __init__(
        self, *, judges: bool = True, shows: bool = True, known: int = 0, **options: Any
    ) -> None:
        self.s = scheduler(references=known_answers(known) if known else None, **options)
        self.judges, self.shows = judges, shows
        self.asked: deque[fx.Reveal] = deque()
        # What was committed to.
        self.evidence: dict[AttemptId, bytes] = {}
        self.now = 0.0
        self.items: dict[AttemptId, tuple[NodeId, JobItem]] = {}
        self.held: dict[NodeId, dict[AttemptId, JobItem]] = {}
        self.unjudged: deque[fx.Compare] = deque()
        self.log: list[fx.Effect] = []

    def do(self, event: ev.Event, *, now: float | None = None) -> list[fx.Effect]:
        self.now = self.now if now is None else now
        effects = self.note(self.s.handle(event, now=self.now))
        while (self.shows and self.asked) or (self.judges and self.unjudged):
            effects += self.show() if self.shows and self.asked else self.judge()
        return effects

    def show(self, *, instead: bytes | None = None) -> list[fx.Effect]:
        """Let the node that was asked first show what it committed to, or something else."""
        asked = self.asked.popleft()
        return self.say(asked, instead or self.evidence[asked.attempt_id])

    def say(self, asked: fx.Reveal, evidence: bytes | None) -> list[fx.Effect]:
        """Let a node answer to what it was asked for: None if it does not have it."""
        return self.do(ev.EvidenceShown(asked.node_id, asked.attempt_id, evidence))

    def judge(self, *, agrees: bool | None = None, unshown: bool = False) -> list[fx.Effect]:
        """Say how the oldest comparison ended: as the outputs do, or as told.

        With ``unshown``, that it could not be decided for want of evidence.
        """
        compare = self.unjudged.popleft()
        if agrees is None:
            agrees = compare.trusted.output == compare.answer.output and compare.fault != "forged"
        reason = "" if agrees else "the outputs differ"
        cosine = 1.0 if agrees else 0.1
        judged = ev.Judged(compare.check_id, agrees, cosine, reason)
        if unshown:
            judged = ev.Judged(compare.check_id, False, undecided=True, unshown=True)
        return self.note(self.s.handle(judged, now=self.now))

    def note(self, effects: list[fx.Effect]) -> list[fx.Effect]:
        """Keep what the engine would have sent."""
        self.log += effects
        for effect in effects:
            if isinstance(effect, fx.SendJobs):
                for item in effect.items:
                    attempt_id = AttemptId(item.attempt_id)
                    self.items[attempt_id] = (effect.node_id, item)
                    self.held.setdefault(effect.node_id, {})[attempt_id] = item
            elif isinstance(effect, fx.SendCancel):
                for attempt_id in effect.attempt_ids:
                    self.held.get(effect.node_id, {}).pop(attempt_id, None)
            elif isinstance(effect, fx.Compare):
                self.unjudged.append(effect)
            elif isinstance(effect, fx.Reveal):
                self.asked.append(effect)
        return effects

    def join(self, node_id: NodeId, **options: Any) -> list[fx.Effect]:
        return self.note(join(self.s, node_id, now=self.now, **options))

    def leave(self, node_id: NodeId, reason: str = "closed") -> list[fx.Effect]:
        self.held.pop(node_id, None)
        return self.do(ev.NodeLeft(node_id, reason))

    def submit(self, *jobs: NewJob, now: float | None = None) -> list[fx.Effect]:
        return self.do(ev.JobsSubmitted(jobs), now=now)

    def answer(
        self,
        node_id: NodeId,
        output: bytes | None = None,
        *,
        trait: int = 0,
        only: int | None = None,
    ) -> list[fx.Effect]:
        """Let a node answer what it holds, rightly unless ``output`` is given; 0.02 s later."""
        held = self.held.get(node_id, {})
        attempt_ids = list(held)[:only]
        if not attempt_ids:
            raise AssertionError(f"{node_id} holds nothing to answer")
        items = [held.pop(attempt_id) for attempt_id in attempt_ids]
        return self.answer_items(node_id, *items, output=output, trait=trait)

    def answer_items(
        self, node_id: NodeId, *items: JobItem, output: bytes | None = None, trait: int = 0
    ) -> list[fx.Effect]:
        node = self.s.board.nodes.get(node_id)
        trusted = node is not None and node.trusted
        results = []
        for item in items:
            attempt_id = AttemptId(item.attempt_id)
            said = right(item) if output is None else output
            evidence = evidence_of(said)
            self.evidence[attempt_id] = evidence
            results.append(
                ev.Finished(
                    attempt_id,
                    said,
                    0.01,
                    evidence if trusted else b"",
                    trait,
                    b"" if trusted else commitment_to(evidence),
                )
            )
        return self.do(ev.AttemptsFinished(node_id, tuple(results)), now=self.now + 0.02)

    def texts(self, node_id: NodeId) -> list[str]:
        """Return what the node holds now."""
        return [item.input for item in self.held.get(node_id, {}).values()]

    def purposes(self, node_id: NodeId) -> list[str]:
        return [a.purpose for a in self.s.board.nodes[node_id].attempts.values()]

    def standing(self, identity: str, runtime: RuntimeClass = RUNTIME) -> Standing:
        return self.s.checking.records.standings[Identity(identity), runtime]

    def answers(self) -> dict[str, tuple[bytes, str]]:
        """Return output and place of every answer delivered so far, by job."""
        return {
            e.answer.job_id: (e.answer.output, e.answer.place)
            for e in self.log
            if isinstance(e, fx.Deliver)
        }

    def failures(self) -> dict[str, str]:
        return {e.failure.job_id: e.failure.code for e in self.log if isinstance(e, fx.Fail)}


def with_newcomer(**options: object) -> Stage:
    """Return a stage with the CPU worker, a newcomer, and no known answers but customers'."""
    st = Stage(policy=POLICY, **options)  # type: ignore[arg-type]
    st.join(WORKER, trusted=True)
    st.join(TAB, newcomer=True)
    return st
