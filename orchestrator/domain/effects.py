"""What the scheduler wants done: one frozen value per kind, performed by the engine in order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from browser_node.protocol import AttemptId, CloseCode, JobItem, NodeId
from orchestrator.domain.model import Answered, JobFailure, JobId


@dataclass(frozen=True, slots=True)
class SendJobs:
    node_id: NodeId
    items: tuple[JobItem, ...]


@dataclass(frozen=True, slots=True)
class SendCancel:
    node_id: NodeId
    attempt_ids: tuple[AttemptId, ...]


@dataclass(frozen=True, slots=True)
class SendPing:
    node_id: NodeId


@dataclass(frozen=True, slots=True)
class CloseNode:
    """The node is lost; ``jobs_done`` is what it answered in this session."""

    node_id: NodeId
    code: CloseCode
    reason: str
    jobs_done: int


@dataclass(frozen=True, slots=True)
class Deliver:
    answer: Answered


@dataclass(frozen=True, slots=True)
class Fail:
    failure: JobFailure


@dataclass(frozen=True, slots=True)
class Rerouted:
    """A job's attempt ended without an answer and the job moves on (for the record only)."""

    job_id: JobId
    node_id: NodeId
    cause: Literal["closed", "silence", "lease", "failed", "handed_back"]


Effect = SendJobs | SendCancel | SendPing | CloseNode | Deliver | Fail | Rerouted
