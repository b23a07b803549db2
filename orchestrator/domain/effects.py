"""What the scheduler wants done: one frozen value per kind, performed by the engine in order."""

from __future__ import annotations

from typing import Literal

import msgspec

from browser_node.protocol import (
    Answer,
    AttemptId,
    CloseCode,
    JobItem,
    ModelDigest,
    NodeId,
    Task,
)
from orchestrator.domain.model import Answered, Cause, CheckId, Fault, JobFailure, JobId
from orchestrator.domain.trust import Identity, Level, RuntimeClass, Standing


class SendJobs(msgspec.Struct, frozen=True, gc=False):
    node_id: NodeId
    items: tuple[JobItem, ...]


class SendCancel(msgspec.Struct, frozen=True):
    node_id: NodeId
    attempt_ids: tuple[AttemptId, ...]


class SendPing(msgspec.Struct, frozen=True):
    node_id: NodeId


class CloseNode(msgspec.Struct, frozen=True):
    """The node is lost; ``jobs_done`` is what it answered in this session."""

    node_id: NodeId
    code: CloseCode
    reason: str
    jobs_done: int


class Deliver(msgspec.Struct, frozen=True, gc=False):
    answer: Answered


class Progressed(msgspec.Struct, frozen=True):
    """A piece of the text with which the job's answer begins.

    With another ``attempt_id`` than before, the text begins anew: the attempt before it was lost.
    """

    job_id: JobId
    attempt_id: AttemptId
    text: str


class Fail(msgspec.Struct, frozen=True):
    failure: JobFailure


class Rerouted(msgspec.Struct, frozen=True):
    """A job's attempt ended without an answer and the job moves on (for the record only)."""

    job_id: JobId
    node_id: NodeId
    cause: Cause


class LoadModel(msgspec.Struct, frozen=True):
    """The node is to download, calibrate and hold the model (`NodeSession.load`)."""

    node_id: NodeId
    digest: ModelDigest


class UnloadModel(msgspec.Struct, frozen=True):
    node_id: NodeId
    digest: ModelDigest


class Tell(msgspec.Struct, frozen=True):
    """A sentence for the person at the node."""

    node_id: NodeId
    text: str


class RecallStanding(msgspec.Struct, frozen=True):
    """Look up what is known of an identity and say it with `events.StandingRecalled`."""

    identity: Identity
    runtime: RuntimeClass


class Reveal(msgspec.Struct, frozen=True):
    """The node is to show the evidence that an answer of it rests on (`events.EvidenceShown`)."""

    node_id: NodeId
    attempt_id: AttemptId


class Compare(msgspec.Struct, frozen=True):
    """Hold ``answer`` against ``trusted`` and say with `events.Judged` whether they agree.

    ``fault`` says why there is no evidence to judge by: ``unshown``, the node did not show it, so
    the output has to tell; ``forged``, it showed other evidence than it had committed to.
    """

    check_id: CheckId
    digest: ModelDigest
    task: Task
    trusted: Answer
    answer: Answer
    fault: Fault | None = None


class Evidence(msgspec.Struct, frozen=True):
    """One disagreement, as an operator may see it: neither prompt nor answer."""

    node_id: NodeId
    model_id: str
    kind: Literal["audit", "replay", "pair"]
    min_cosine: float
    reason: str


class StandingChanged(msgspec.Struct, frozen=True):
    """The record of an identity is now ``standing`` (a copy), to be kept.

    ``evidence`` comes with a disagreement; ``before`` and ``after`` are its levels,
    ``node_id`` one of its nodes that is here.
    """

    standing: Standing
    before: Level
    after: Level
    evidence: Evidence | None = None
    node_id: NodeId | None = None


Effect = (
    SendJobs
    | SendCancel
    | SendPing
    | CloseNode
    | Deliver
    | Progressed
    | Fail
    | Rerouted
    | LoadModel
    | UnloadModel
    | Tell
    | RecallStanding
    | Reveal
    | Compare
    | StandingChanged
)
