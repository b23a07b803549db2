"""What happens to the scheduler: one frozen value per kind of event."""

from __future__ import annotations

import msgspec

from browser_node.protocol import AttemptId, Blame, ModelDigest, NodeId, NodeState
from orchestrator.domain.model import JobId, NewJob


class JobsSubmitted(msgspec.Struct, frozen=True):
    """A request's jobs arrive together, so that one node gets its share in one frame."""

    jobs: tuple[NewJob, ...]


class JobsCancelled(msgspec.Struct, frozen=True):
    job_ids: tuple[JobId, ...]


class NodeJoined(msgspec.Struct, frozen=True):
    """``trusted`` is true for the CPU worker only, as the transport authenticated it."""

    node_id: NodeId
    trusted: bool
    memory_mb: int | None = None


class NodeLeft(msgspec.Struct, frozen=True):
    node_id: NodeId
    reason: str


class NodeHeard(msgspec.Struct, frozen=True):
    """Any frame came from the node; ``rtt_s`` if it was a pong of an idle node."""

    node_id: NodeId
    rtt_s: float | None = None


class ModelLoading(msgspec.Struct, frozen=True):
    node_id: NodeId
    digest: ModelDigest


class ModelReady(msgspec.Struct, frozen=True):
    """The model is loaded there and its known answers were right."""

    node_id: NodeId
    digest: ModelDigest
    tokens_per_s: float


class ModelLost(msgspec.Struct, frozen=True):
    node_id: NodeId
    digest: ModelDigest


class CapacityChanged(msgspec.Struct, frozen=True):
    node_id: NodeId
    slots: int
    state: NodeState
    reason: str


class Finished(msgspec.Struct, frozen=True):
    """One result of a node, already checked for shape."""

    attempt_id: AttemptId
    output: bytes
    compute_s: float


class AttemptsFinished(msgspec.Struct, frozen=True):
    node_id: NodeId
    results: tuple[Finished, ...]


class AttemptFailed(msgspec.Struct, frozen=True):
    node_id: NodeId
    attempt_id: AttemptId
    blame: Blame
    code: str
    message: str = ""


class WorkerExpected(msgspec.Struct, frozen=True):
    """Whether a CPU worker is being started or restarted: then jobs wait instead of failing."""

    expected: bool


class DrainStarted(msgspec.Struct, frozen=True):
    """The orchestrator is going down: nothing new is accepted, what is held is finished."""


class Tick(msgspec.Struct, frozen=True):
    """Time has passed: leases, deadlines, silences and probes that are due are dealt with."""


Event = (
    JobsSubmitted
    | JobsCancelled
    | NodeJoined
    | NodeLeft
    | NodeHeard
    | ModelLoading
    | ModelReady
    | ModelLost
    | CapacityChanged
    | AttemptsFinished
    | AttemptFailed
    | WorkerExpected
    | DrainStarted
    | Tick
)
