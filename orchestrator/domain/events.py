"""What happens to the scheduler: one frozen value per kind of event."""

from __future__ import annotations

from typing import Literal

import msgspec

from browser_node.protocol import AttemptId, Blame, ModelDigest, NodeId, NodeState
from orchestrator.domain.model import CheckId, JobId, NewJob
from orchestrator.domain.trust import Identity, RuntimeClass, Standing


class JobsSubmitted(msgspec.Struct, frozen=True, gc=False):
    """A request's jobs arrive together, so that one node gets its share in one frame."""

    jobs: tuple[NewJob, ...]


class JobsCancelled(msgspec.Struct, frozen=True):
    job_ids: tuple[JobId, ...]


class NodeJoined(msgspec.Struct, frozen=True):
    """A node was welcomed. ``trusted`` is true for the CPU worker only, as its socket proves.

    ``network`` is a salted hash of the network it comes from (never an address), ``region`` its
    continent or continent and country ("EU", "EU-DE"; empty if unknown), ``distance_km`` how far
    from this server its 1° cell is. ``data_saver``: it should download no model unasked.
    """

    node_id: NodeId
    trusted: bool
    memory_mb: int | None = None
    identity: Identity = Identity("")
    runtime: RuntimeClass = RuntimeClass("")
    network: str = ""
    region: str = ""
    distance_km: float | None = None
    cached: tuple[ModelDigest, ...] = ()
    data_saver: bool = False


class StandingRecalled(msgspec.Struct, frozen=True):
    """What the records say of an identity (None: never seen); answers `effects.RecallStanding`."""

    identity: Identity
    runtime: RuntimeClass
    standing: Standing | None


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


class Finished(msgspec.Struct, frozen=True, gc=False):
    """One result of a node, already checked for shape.

    ``commitment`` is the SHA-256 of evidence that the node keeps until it is asked for it.
    ``trait`` stands for what a lazy liar would repeat (an answer's label, a vector): equal traits
    of unequal inputs are suspicious.
    """

    attempt_id: AttemptId
    output: bytes
    compute_s: float
    evidence: bytes = b""
    trait: int = 0
    commitment: bytes = b""


class AttemptsFinished(msgspec.Struct, frozen=True, gc=False):
    node_id: NodeId
    results: tuple[Finished, ...]


class EvidenceShown(msgspec.Struct, frozen=True):
    """What a node shows on `effects.Reveal`: evidence, or None for what it does not have."""

    node_id: NodeId
    attempt_id: AttemptId
    evidence: bytes | None


class AttemptProgressed(msgspec.Struct, frozen=True):
    """The next piece of an answer's text, in order (`NodeSession` sees to that)."""

    node_id: NodeId
    attempt_id: AttemptId
    text: str


class AttemptFailed(msgspec.Struct, frozen=True):
    node_id: NodeId
    attempt_id: AttemptId
    blame: Blame
    code: str
    message: str = ""


class Judged(msgspec.Struct, frozen=True):
    """The outcome of an `effects.Compare`.

    ``undecided`` when judging failed, which is nobody's fault, or (``unshown``) when the node
    showed no evidence and its output does not tell.
    """

    check_id: CheckId
    agrees: bool
    min_cosine: float = 1.0
    reason: str = ""
    undecided: bool = False
    unshown: bool = False


class NodeOrdered(msgspec.Struct, frozen=True):
    """An operator takes a node out of service (``drain``) or back in (``resume``)."""

    node_id: NodeId
    order: Literal["drain", "resume"]


class StandingOrdered(msgspec.Struct, frozen=True):
    """An operator's word on an identity; ``standing`` is its record if no node of it is here.

    ``quarantine``: no work; ``ban``: refused at the door; ``release``: undoes both.
    """

    identity: Identity
    runtime: RuntimeClass
    order: Literal["quarantine", "ban", "release"]
    standing: Standing | None = None


class WorkerExpected(msgspec.Struct, frozen=True):
    """Whether a CPU worker is being started or restarted: then jobs wait instead of failing."""

    expected: bool


class DrainStarted(msgspec.Struct, frozen=True):
    """The orchestrator is going down: nothing new is accepted, what is held is finished."""


class Overslept(msgspec.Struct, frozen=True):
    """This process did not run for ``late_s`` seconds (suspended, stopped, starved).

    Comes before whatever happened meanwhile: nobody is to be blamed for time that we missed.
    """

    late_s: float


class Tick(msgspec.Struct, frozen=True):
    """Time has passed: leases, deadlines, silences and probes that are due are dealt with."""


Event = (
    JobsSubmitted
    | JobsCancelled
    | NodeJoined
    | StandingRecalled
    | NodeLeft
    | NodeHeard
    | ModelLoading
    | ModelReady
    | ModelLost
    | CapacityChanged
    | AttemptsFinished
    | EvidenceShown
    | AttemptProgressed
    | AttemptFailed
    | Judged
    | NodeOrdered
    | StandingOrdered
    | WorkerExpected
    | DrainStarted
    | Overslept
    | Tick
)
