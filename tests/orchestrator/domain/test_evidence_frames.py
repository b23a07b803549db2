"""Commitments and evidence as frames: what reaches the scheduler, and what closes the socket."""

from __future__ import annotations

import pytest

from browser_node import protocol as p
from browser_node.protocol import AttemptId, CloseCode, ModelDigest
from orchestrator.domain import events as ev
from orchestrator.domain.node_session import Close, NodeSession, Notify
from tests.fakes import DIMENSIONS
from tests.orchestrator.domain.sessions import EMBEDDING, NODE, SUMMARY, serving


def session(digest: ModelDigest = SUMMARY) -> NodeSession:
    """Return the session of a node that holds attempt "a"."""
    made = serving()
    made.hold((p.JobItem(attempt_id="a", digest=digest, lease_s=5, tokens=3, input="text"),))
    return made


def result(*, output: bytes = b"out", evidence: bytes = b"", commitment: bytes = b"") -> bytes:
    one = p.Result(
        attempt_id="a", output=output, evidence=evidence, compute_s=0.1, commitment=commitment
    )
    return p.encode(p.Results(items=(one,)))


def revealed(*attempt_ids: str) -> bytes:
    items = tuple(p.Shown(attempt_id=one, evidence=b"seen") for one in attempt_ids)
    return p.encode(p.Revealed(items=items))


def test_a_commitment_reaches_the_scheduler() -> None:
    [step] = session().receive(result(commitment=bytes(range(32))), now=1.0)

    assert isinstance(step, Notify)
    assert isinstance(step.event, ev.AttemptsFinished)
    assert step.event.results[0].commitment == bytes(range(32))


def test_a_commitment_to_the_evidence_of_an_embedding_is_none_as_it_is_its_own() -> None:
    vector = bytes(4 * DIMENSIONS)
    frame = result(output=vector, commitment=bytes(range(32)))
    [step] = session(EMBEDDING).receive(frame, now=1.0)

    assert isinstance(step, Notify)
    assert isinstance(step.event, ev.AttemptsFinished)
    assert step.event.results[0].commitment == b""


@pytest.mark.parametrize(
    "fields",
    [{"commitment": bytes(31)}, {"commitment": bytes(32), "evidence": b"as well"}],
)
def test_a_commitment_that_is_none_closes_the_socket(fields: dict[str, bytes]) -> None:
    [step] = session().receive(result(**fields), now=1.0)

    assert isinstance(step, Close)
    assert step.code == CloseCode.BAD_FRAME


def test_what_a_node_shows_when_asked_reaches_the_scheduler_once() -> None:
    node = session()
    frame = node.reveal(AttemptId("a"))

    [step] = node.receive(revealed("a"), now=1.0)
    [again] = node.receive(revealed("a"), now=1.0)

    assert frame == p.Reveal(attempt_ids=("a",))
    assert step == Notify(ev.EvidenceShown(NODE, AttemptId("a"), b"seen"))
    assert isinstance(again, Close)


def test_evidence_that_nobody_asked_the_node_for_closes_the_socket() -> None:
    [step] = session().receive(revealed("a"), now=1.0)

    assert isinstance(step, Close)
    assert step.code == CloseCode.OUT_OF_ORDER
    assert "not asked for" in step.reason
