"""What the scheduler reasons about: models, jobs, attempts, nodes. Plain values, no behaviour.

Times are monotonic seconds handed in by the caller; ``tokens`` are model tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NewType

import msgspec

from browser_node.protocol import (
    AttemptId,
    ModelDigest,
    NodeId,
    NodeState,
)

JobId = NewType("JobId", str)
ProjectId = NewType("ProjectId", str)
KeyId = NewType("KeyId", str)

Place = Literal["edge", "cloud"]
Placement = Literal["any", "cloud"]
ParamValue = str | int | float | bool


class ModelSpec(msgspec.Struct, frozen=True):
    """What placement needs to know of a model."""

    digest: ModelDigest
    model_id: str
    size_bytes: int
    min_memory_mb: int


class NewJob(msgspec.Struct, frozen=True):
    """A job as the API submits it. ``deadline_s`` counts from submission."""

    job_id: JobId
    digest: ModelDigest
    input: str
    tokens: int
    project_id: ProjectId
    params: Mapping[str, ParamValue] = msgspec.field(default_factory=dict)
    placement: Placement = "any"
    deadline_s: float = 30.0


class Answered(msgspec.Struct, frozen=True):
    """A job's one answer. ``output`` is what the pipeline produced (`browser_node.pipelines`)."""

    job_id: JobId
    output: bytes
    place: Place
    node_id: NodeId
    attempts: int
    compute_s: float


FailureCode = Literal[
    "no_capacity",  # no node and no CPU worker can take it
    "overloaded",  # the queue is full
    "shutting_down",  # nothing new is accepted
    "deadline_exceeded",  # nobody answered in time
    "invalid_input",  # the pipeline refused the input
    "internal_error",  # every attempt failed and it is our fault
]


class JobFailure(msgspec.Struct, frozen=True):
    """A job's one truthful error. ``message`` is a sentence for the customer."""

    job_id: JobId
    code: FailureCode
    message: str
    retry_after_s: float | None = None


class Job(msgspec.Struct):
    """A job the scheduler holds until it is answered or failed."""

    spec: NewJob
    submitted_at: float
    deadline_at: float
    attempts: int = 0
    edge_attempts: int = 0
    tried: set[NodeId] = msgspec.field(default_factory=set)
    running: AttemptId | None = None
    cloud_only: bool = False
    accuser: NodeId | None = None  # a stranger that blamed the input; the CPU worker decides


class Attempt(msgspec.Struct):
    """One placement of one job on one node."""

    attempt_id: AttemptId
    job_id: JobId
    node_id: NodeId
    digest: ModelDigest
    tokens: int
    started_at: float
    expected_s: float
    lease_at: float


class Speed(msgspec.Struct):
    """Measured throughput of one model on one node and how well forecasts held.

    ``ratio`` and ``deviation`` are EWMAs of actual ÷ expected answer time: they size the leases.
    """

    tokens_per_s: float
    ratio: float = 1.0
    deviation: float = 0.5
    samples: int = 0


class Node(msgspec.Struct):
    """A connected node as the scheduler sees it."""

    node_id: NodeId
    trusted: bool
    memory_mb: int | None
    joined_at: float
    last_frame_at: float
    last_answer_at: float = 0.0
    state: NodeState = "active"
    reason: str = ""
    slots: int = 0
    rtt_s: float | None = None
    download_bytes_per_s: float = 2.5e6
    loading: set[ModelDigest] = msgspec.field(default_factory=set)
    lost: set[ModelDigest] = msgspec.field(default_factory=set)
    speeds: dict[ModelDigest, Speed] = msgspec.field(default_factory=dict)
    attempts: dict[AttemptId, Attempt] = msgspec.field(default_factory=dict)
    outstanding_tokens: int = 0
    stale: bool = False
    draining: bool = False
    consecutive_failures: int = 0
    retry_at: float = 0.0
    jobs_done: int = 0
    failures: int = 0
    reroutes: int = 0

    @property
    def slots_used(self) -> int:
        return len(self.attempts)
