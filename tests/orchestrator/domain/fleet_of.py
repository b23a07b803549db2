"""Builders for scheduler tests: a scheduler with numbered attempts, jobs and nodes in one line."""

from __future__ import annotations

import itertools
import random

from browser_node.protocol import AttemptId, JobItem, ModelDigest, NodeId
from orchestrator.domain import effects as fx
from orchestrator.domain import events as ev
from orchestrator.domain.model import JobId, ModelSpec, NewJob, Placement, ProjectId
from orchestrator.domain.scheduler import Scheduler

MODEL = ModelDigest("a" * 64)
OTHER = ModelDigest("b" * 64)
TAB, SPARE, SLOW, WORKER = NodeId("tab"), NodeId("spare"), NodeId("slow"), NodeId("cpu")


def scheduler(*, edge_budget_s: float = 5.0, max_queued: int = 1000, seed: int = 1) -> Scheduler:
    numbers = itertools.count(1)
    specs = {
        digest: ModelSpec(digest, name, size_bytes=23_000_000, min_memory_mb=512)
        for digest, name in ((MODEL, "model"), (OTHER, "other"))
    }
    return Scheduler(
        models=specs,
        rng=random.Random(seed),
        new_attempt_id=lambda: AttemptId(f"a{next(numbers)}"),
        edge_budget_s=edge_budget_s,
        max_queued=max_queued,
    )


def job(
    name: str,
    *,
    tokens: int = 10,
    placement: Placement = "any",
    deadline_s: float = 30.0,
    digest: ModelDigest = MODEL,
) -> NewJob:
    return NewJob(
        job_id=JobId(name),
        digest=digest,
        input=f"text of {name}",
        tokens=tokens,
        project_id=ProjectId("p"),
        placement=placement,
        deadline_s=deadline_s,
    )


def join(
    s: Scheduler,
    node_id: NodeId,
    *,
    now: float = 0.0,
    tokens_per_s: float = 1000.0,
    slots: int = 8,
    rtt_s: float | None = 0.02,
    trusted: bool = False,
    memory_mb: int | None = None,
) -> list[fx.Effect]:
    """Let a node join, calibrate and offer slots; return the effects of the last step."""
    s.handle(ev.NodeJoined(node_id, trusted, memory_mb), now=now)
    s.handle(ev.NodeHeard(node_id, rtt_s), now=now)
    s.handle(ev.CapacityChanged(node_id, slots, "active", ""), now=now)
    return s.handle(ev.ModelReady(node_id, MODEL, tokens_per_s), now=now)


def submit(s: Scheduler, *jobs: NewJob, now: float = 0.0) -> list[fx.Effect]:
    return s.handle(ev.JobsSubmitted(jobs), now=now)


def finish(s: Scheduler, node_id: NodeId, *attempts: str, now: float) -> list[fx.Effect]:
    results = tuple(ev.Finished(AttemptId(a), b"answer of " + a.encode(), 0.01) for a in attempts)
    return s.handle(ev.AttemptsFinished(node_id, results), now=now)


def sent(effects: list[fx.Effect]) -> dict[NodeId, list[JobItem]]:
    """Return the jobs handed out, by node."""
    found: dict[NodeId, list[JobItem]] = {}
    for effect in effects:
        if isinstance(effect, fx.SendJobs):
            found.setdefault(effect.node_id, []).extend(effect.items)
    return found


def delivered(effects: list[fx.Effect]) -> list[tuple[str, str, str]]:
    """Return (job, place, node) of every answer delivered."""
    return [
        (e.answer.job_id, e.answer.place, e.answer.node_id)
        for e in effects
        if isinstance(e, fx.Deliver)
    ]


def failures(effects: list[fx.Effect]) -> list[tuple[str, str]]:
    return [(e.failure.job_id, e.failure.code) for e in effects if isinstance(e, fx.Fail)]
