"""What the scheduler wants done: one frozen value per kind, performed by the engine in order."""

from __future__ import annotations

from typing import Literal

import msgspec

from browser_node.protocol import AttemptId, CloseCode, JobItem, NodeId
from orchestrator.domain.model import Answered, JobFailure, JobId


class SendJobs(msgspec.Struct, frozen=True):
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


class Deliver(msgspec.Struct, frozen=True):
    answer: Answered


class Fail(msgspec.Struct, frozen=True):
    failure: JobFailure


class Rerouted(msgspec.Struct, frozen=True):
    """A job's attempt ended without an answer and the job moves on (for the record only)."""

    job_id: JobId
    node_id: NodeId
    cause: Literal["closed", "silence", "lease", "failed", "handed_back"]


Effect = SendJobs | SendCancel | SendPing | CloseNode | Deliver | Fail | Rerouted
