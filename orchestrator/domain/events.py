"""What happens to the scheduler: one frozen value per kind of event."""

from __future__ import annotations

from dataclasses import dataclass

from browser_node.protocol import AttemptId, Blame, ModelDigest, NodeId, NodeState
from orchestrator.domain.model import JobId, NewJob


@dataclass(frozen=True, slots=True)
class JobsSubmitted:
    """A request's jobs arrive together, so that one node gets its share in one frame."""

    jobs: tuple[NewJob, ...]


@dataclass(frozen=True, slots=True)
class JobsCancelled:
    job_ids: tuple[JobId, ...]


@dataclass(frozen=True, slots=True)
class NodeJoined:
    """``trusted`` is true for the CPU worker only, as the transport authenticated it."""

    node_id: NodeId
    trusted: bool
    memory_mb: int | None = None


@dataclass(frozen=True, slots=True)
class NodeLeft:
    node_id: NodeId
    reason: str


@dataclass(frozen=True, slots=True)
class NodeHeard:
    """Any frame came from the node; ``rtt_s`` if it was a pong of an idle node."""

    node_id: NodeId
    rtt_s: float | None = None


@dataclass(frozen=True, slots=True)
class ModelLoading:
    node_id: NodeId
    digest: ModelDigest


@dataclass(frozen=True, slots=True)
class ModelReady:
    """The model is loaded there and its known answers were right."""

    node_id: NodeId
    digest: ModelDigest
    tokens_per_s: float


@dataclass(frozen=True, slots=True)
class ModelLost:
    node_id: NodeId
    digest: ModelDigest


@dataclass(frozen=True, slots=True)
class CapacityChanged:
    node_id: NodeId
    slots: int
    state: NodeState
    reason: str


@dataclass(frozen=True, slots=True)
class Finished:
    """One result of a node, already checked for shape."""

    attempt_id: AttemptId
    output: bytes
    compute_s: float


@dataclass(frozen=True, slots=True)
class AttemptsFinished:
    node_id: NodeId
    results: tuple[Finished, ...]


@dataclass(frozen=True, slots=True)
class AttemptFailed:
    node_id: NodeId
    attempt_id: AttemptId
    blame: Blame
    code: str
    message: str = ""


@dataclass(frozen=True, slots=True)
class WorkerExpected:
    """Whether a CPU worker is being started or restarted: then jobs wait instead of failing."""

    expected: bool


@dataclass(frozen=True, slots=True)
class DrainStarted:
    """The orchestrator is going down: nothing new is accepted, what is held is finished."""


@dataclass(frozen=True, slots=True)
class Tick:
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
