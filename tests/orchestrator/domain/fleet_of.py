"""Builders for scheduler tests: a scheduler with numbered attempts, jobs and nodes in one line."""

from __future__ import annotations

import itertools
import random
from typing import Any

from browser_node.protocol import AttemptId, JobItem, ModelDigest, NodeId
from orchestrator.domain import effects as fx
from orchestrator.domain import events as ev
from orchestrator.domain.model import (
    JobId,
    ModelSpec,
    NewJob,
    Placement,
    Priority,
    ProjectId,
    Rules,
    Verify,
)
from orchestrator.domain.references import References
from orchestrator.domain.scheduler import Options, Scheduler
from orchestrator.domain.trust import Identity, Policy, RuntimeClass, Standing

MODEL = ModelDigest("a" * 64)
OTHER = ModelDigest("b" * 64)
TAB, SPARE, SLOW, WORKER = NodeId("tab"), NodeId("spare"), NodeId("slow"), NodeId("cpu")


RUNTIME = RuntimeClass("browser/wasm")
# Most tests are not about audits: a node with a good record, and nobody looks again.
UNAUDITED = Policy(audit_share=0.0)


def scheduler(
    *,
    edge_budget_s: float = 5.0,
    max_queued: int = 1000,
    seed: int = 1,
    policy: Policy = UNAUDITED,
    references: References | None = None,
    hedge_share: float = 0.0,
    **options: Any,
) -> Scheduler:
    numbers = itertools.count(1)
    specs = {
        digest: ModelSpec(digest, name, size_bytes=23_000_000, min_memory_mb=512)
        for digest, name in ((MODEL, "model"), (OTHER, "other"))
    }
    return Scheduler(
        models=specs,
        rng=random.Random(seed),
        new_attempt_id=lambda: AttemptId(f"a{next(numbers)}"),
        references=references,
        policy=policy,
        options=Options(
            edge_budget_s=edge_budget_s,
            max_queued=max_queued,
            hedge_share=hedge_share,
            project_share=options.pop("project_share", 1.0),
            **options,
        ),
    )


def job(
    name: str,
    *,
    tokens: int = 10,
    placement: Placement = "any",
    verify: Verify = "adaptive",
    region: str = "",
    weight: float = 1.0,
    replays: bool = True,
    priority: Priority = "interactive",
    project: str = "p",
    deadline_s: float = 30.0,
    digest: ModelDigest = MODEL,
    stream: bool = False,
    request_tokens: int = 0,
) -> NewJob:
    return NewJob(
        job_id=JobId(name),
        digest=digest,
        input=f"text of {name}",
        tokens=tokens,
        project_id=ProjectId(project),
        rules=Rules(verify, placement, region, weight, replays),
        deadline_s=deadline_s,
        priority=priority,
        stream=stream,
        request_tokens=request_tokens,
    )


def proven(node_id: str) -> Standing:
    """Return the record of a node that has been honest for long."""
    return Standing(Identity(node_id), RUNTIME, consecutive=1000, real=1000, agreed=1000)


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
    newcomer: bool = False,
    network: str = "",
    region: str = "",
    standing: Standing | None = None,
) -> list[fx.Effect]:
    """Let a node join, calibrate and offer slots; return the effects of the last step."""
    identity = Identity("" if trusted else node_id)
    joined = ev.NodeJoined(
        node_id,
        trusted,
        memory_mb,
        identity=identity,
        runtime=RUNTIME,
        network=network,
        region=region,
    )
    s.handle(joined, now=now)
    if identity:
        standing = standing or (None if newcomer else proven(identity))
        s.handle(ev.StandingRecalled(identity, RUNTIME, standing), now=now)
    s.handle(ev.NodeHeard(node_id, rtt_s), now=now)
    s.handle(ev.CapacityChanged(node_id, slots, "active", ""), now=now)
    return s.handle(ev.ModelReady(node_id, MODEL, tokens_per_s), now=now)


def submit(s: Scheduler, *jobs: NewJob, now: float = 0.0) -> list[fx.Effect]:
    return s.handle(ev.JobsSubmitted(jobs), now=now)


def finish(s: Scheduler, node_id: NodeId, *attempts: str, now: float) -> list[fx.Effect]:
    results = tuple(ev.Finished(AttemptId(a), b"answer of " + a.encode(), 0.01) for a in attempts)
    return s.handle(ev.AttemptsFinished(node_id, results), now=now)


def progress(s: Scheduler, node_id: NodeId, attempt: str, text: str, now: float) -> list[fx.Effect]:
    return s.handle(ev.AttemptProgressed(node_id, AttemptId(attempt), text), now=now)


def relayed(effects: list[fx.Effect]) -> list[tuple[str, str, str]]:
    """Return (job, attempt, text) of every piece that goes to a customer."""
    return [(e.job_id, e.attempt_id, e.text) for e in effects if isinstance(e, fx.Progressed)]


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
