"""What the scheduler reasons about: models, jobs, attempts, nodes. Plain values, no behaviour.

Times are monotonic seconds handed in by the caller; ``tokens`` are model tokens.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal, NewType

import msgspec

from browser_node.protocol import Answer, AttemptId, ModelDigest, NodeId, NodeState, Task
from orchestrator.domain.trust import Level, Standing

if TYPE_CHECKING:
    from orchestrator.domain.decisions import Placed

JobId = NewType("JobId", str)
ProjectId = NewType("ProjectId", str)
KeyId = NewType("KeyId", str)
CheckId = NewType("CheckId", int)

NO_MODEL: Final = ModelDigest("")

Cause = Literal["closed", "silence", "lease", "failed", "handed_back", "distrusted"]
"""Why an attempt ended without an answer."""

Place = Literal["edge", "cloud"]
Placement = Literal["any", "trusted", "cloud"]
Verify = Literal["adaptive", "always"]
Priority = Literal["interactive", "batch"]
Purpose = Literal["serve", "trial", "hedge", "audit", "replay"]
"""Why an attempt runs: ``serve`` and ``hedge`` answers may be delivered at once, a ``trial``'s only
when it was compared with another; ``audit`` repeats an answer on the CPU worker, ``replay`` puts a
task to a node whose right answer is known. Nodes cannot tell one from another."""
ParamValue = str | int | float | bool


class Location(msgspec.Struct, frozen=True):
    """Where a node roughly is: its 1° cell's region and distance from this server.

    ``region`` is a continent, or a continent and country: "EU", "EU-DE"; empty if unknown.
    """

    region: str = ""
    distance_km: float | None = None


NOWHERE = Location()


class ModelSpec(msgspec.Struct, frozen=True):
    """What placement needs to know of a model."""

    digest: ModelDigest
    model_id: str
    size_bytes: int
    min_memory_mb: int


class Rules(msgspec.Struct, frozen=True):
    """What a project demands of placement.

    ``verify`` always: no answer of one node alone. ``placement`` trusted: only nodes that audits
    have shown to be honest. ``region``: a continent ("EU") or a country in one ("EU-DE"); empty is
    anywhere. ``weight``: its share of a busy fleet against other projects. ``replays``: whether its
    texts may be put to further nodes to learn whether those are honest.
    """

    verify: Verify = "adaptive"
    placement: Placement = "any"
    region: str = ""
    weight: float = 1.0
    replays: bool = True


DEFAULT_RULES = Rules()


@dataclass(eq=False)
class NewJob:
    """A job as the API submits it. ``deadline_s`` counts from submission.

    ``priority`` batch: it runs in the background of all that are interactive, and waits for its
    turn until its deadline.
    ``stream``: its text is wanted as it comes, where the pipeline answers bit by bit.
    ``request_tokens``: of the first job of a request, the tokens of all its jobs; 0 of the others.
    """

    job_id: JobId
    digest: ModelDigest
    input: str
    tokens: int
    project_id: ProjectId
    params: Mapping[str, ParamValue] = field(default_factory=dict)
    rules: Rules = DEFAULT_RULES
    deadline_s: float = 30.0
    priority: Priority = "interactive"
    stream: bool = False
    request_tokens: int = 0


class Answered(msgspec.Struct, frozen=True, gc=False):
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
    """A job's one truthful error. ``message`` is a sentence for the customer.

    ``skipped`` counts, for want of a node, why each group of nodes was passed over.
    """

    job_id: JobId
    code: FailureCode
    message: str
    retry_after_s: float | None = None
    skipped: Mapping[str, int] | None = None


class Subject(msgspec.Struct, gc=False):
    """Whom a comparison is about: an identity's record, and the session it answered in.

    ``real``: the text was a customer's, and new to the node.
    """

    node_id: NodeId
    standing: Standing
    digest: ModelDigest
    real: bool = True


Fault = Literal["unshown", "forged"]
"""Why a node's answer has no evidence to judge it by."""


class Claim(msgspec.Struct, eq=False):
    """What a stranger answered, and what that rests on once the node has shown it.

    pending --(it is shown)--> there; pending --(something else is)--> ``forged``
    pending --(nothing is, in time)--> ``unshown``
    """

    node_id: NodeId
    attempt_id: AttemptId
    output: bytes
    evidence: bytes = b""
    commitment: bytes = b""
    since: float = 0.0  # when it was made
    pending: bool = False
    fault: Fault | None = None


class Held(msgspec.Struct):
    """A trial's answer that waits for another to be compared with."""

    subject: Subject
    answer: Claim
    compute_s: float


@dataclass(eq=False)
class Job:
    """A job the scheduler holds until it is answered or failed.

    ``live`` are its attempts under way; it waits in a queue exactly when ``waits_in`` is set, and
    while neither holds, its answers are being compared (``judging``). ``relayed`` is the attempt
    whose pieces the customer gets: from the first on, only an answer that begins alike will do.
    """

    spec: NewJob
    submitted_at: float
    deadline_at: float
    attempts: int = 0
    edge_attempts: int = 0
    cloud_attempts: int = 0
    tried: list[NodeId] = field(default_factory=list)
    live: list[AttemptId] = field(default_factory=list)
    waits_in: object | None = None
    cloud_only: bool = False
    judging: bool = False
    hedged: bool = False
    relayed: AttemptId | None = None
    deaths: int = 0
    accuser: NodeId | None = None  # a stranger that blamed the input; the CPU worker decides
    held: list[Held] | None = None
    ended: list[Attempt] | None = None


@dataclass(eq=False)
class Attempt:
    """One placement of one job on one node.

    ``job_id`` is None where no customer waits for it (`Purpose`); ``known`` is then the right
    answer to ``task``, or, of an audit, ``claimed`` what ``subject`` answered. ``hard_at`` is the
    end that progress cannot extend. ``background``: its node computes it when nothing else waits.
    """

    attempt_id: AttemptId
    job_id: JobId | None
    node_id: NodeId
    digest: ModelDigest
    tokens: int
    started_at: float
    expected_s: float
    lease_at: float
    hard_at: float
    purpose: Purpose = "serve"
    hedge_at: float = math.inf
    overdue: bool = False  # it took twice as long as it should have, and has no hedge yet
    task: Task | None = None
    known: Answer | None = None
    claimed: Claim | None = None
    subject: Subject | None = None
    real: bool = False
    project_id: ProjectId | None = None  # of an audit whose text may be put to others
    alone: bool = False
    background: bool = False
    placed: Placed | None = None


@dataclass(eq=False)
class Speed:
    """Measured throughput of one model on one node and how well forecasts held.

    A run of answers is expected to take ``overhead_s`` + tokens ÷ ``tokens_per_s``; the four after
    them are moments of the runs seen (`speeds`). ``ratio`` and ``deviation`` are EWMAs of actual ÷
    expected answer time: they size the leases. ``calibrated_s`` are the seconds per token that a
    CPU worker has measured itself, 0 for others. ``elsewhen`` keeps the line of the node's other
    visibility states. The rest belongs to the index and to the statistics of answers.
    """

    tokens_per_s: float
    overhead_s: float = 0.0
    tokens: float = 0.0
    seconds: float = 0.0
    variance: float = 0.0
    covariance: float = 0.0
    ratio: float = 1.0
    deviation: float = 0.5
    samples: int = 0
    calibrated_s: float = 0.0
    elsewhen: dict[NodeState, tuple[float, ...]] | None = None
    group: str = ""
    tier: str = ""
    step: int = 0
    supply: float = 0.0
    trait: int = 0
    asked: int = 0
    repeats: int = 0


@dataclass(eq=False)
class Node:
    """A connected node as the scheduler sees it.

    ``background`` of its attempts, with ``background_tokens`` of its ``outstanding_tokens``, run
    when no others wait; ``requested_at`` is when the last of those others came.
    """

    node_id: NodeId
    trusted: bool
    memory_mb: int | None
    joined_at: float
    last_frame_at: float
    standing: Standing
    level: Level = "newcomer"
    recalled: bool = False
    network: str = ""
    region: str = ""
    rtt_guess_s: float | None = None
    data_saver: bool = False
    last_answer_at: float = 0.0
    requested_at: float = -math.inf
    run_at: float = 0.0
    run_tokens: int = 0
    run_digest: ModelDigest = NO_MODEL
    state: NodeState = "active"
    reason: str = ""
    slots: int = 0
    rtt_s: float | None = None
    download_bytes_per_s: float = 2.5e6
    cached: tuple[ModelDigest, ...] = ()
    loading: tuple[ModelDigest, ...] = ()
    load_began_at: float = 0.0
    lost: tuple[ModelDigest, ...] = ()
    speeds: dict[ModelDigest, Speed] = field(default_factory=dict)
    attempts: dict[AttemptId, Attempt] = field(default_factory=dict)
    outstanding_tokens: int = 0
    background: int = 0
    background_tokens: int = 0
    stale: bool = False
    late: bool = False  # an answer of it is overdue, and it has not been heard since
    owing: int = 0  # answers whose evidence it should have shown by now
    probed_at: float = 0.0
    draining: bool = False
    alone: bool = False
    seen: frozenset[int] = frozenset()  # hashes of the known texts it was put
    consecutive_failures: int = 0
    retry_at: float = 0.0
    jobs_done: int = 0
    failures: int = 0
    reroutes: int = 0

    @property
    def slots_used(self) -> int:
        return len(self.attempts)
