"""What a node may send of an answer before it is finished, and what closes its socket."""

from __future__ import annotations

import pytest

from browser_node import protocol as p
from browser_node.protocol import AttemptId, CloseCode, ModelDigest
from orchestrator.domain import events as ev
from orchestrator.domain.deltas import MAX_BYTES, TAKEN_BACK_KEPT, Deltas
from orchestrator.domain.node_session import Close, NodeSession, Notify, Step
from tests.orchestrator.domain.sessions import EMBEDDING, NODE, SUMMARY, serving


def hand_out(
    session: NodeSession, *ids: str, stream: bool = True, digest: ModelDigest = SUMMARY
) -> None:
    session.hold(
        tuple(
            p.JobItem(
                attempt_id=key, digest=digest, lease_s=5, tokens=3, input="text", stream=stream
            )
            for key in ids
        )
    )


def tell(session: NodeSession, seq: int, text: str = "piece", attempt_id: str = "a") -> list[Step]:
    frame = p.Delta(attempt_id=attempt_id, seq=seq, text=text)
    return session.receive(p.encode(frame), now=1.0)


def answer(session: NodeSession, attempt_id: str = "a") -> None:
    result = p.Result(attempt_id=attempt_id, output=b"piece", compute_s=0.1)
    session.receive(p.encode(p.Results(items=(result,))), now=1.0)


def close_code(steps: list[Step]) -> CloseCode:
    [close] = steps
    assert isinstance(close, Close)
    return close.code


def test_the_pieces_of_an_answer_are_told_in_order() -> None:
    session = serving()
    hand_out(session, "a", "b")

    steps = [
        *tell(session, 0, "One."), *tell(session, 0, "Eins.", "b"), *tell(session, 1, " Two."),
    ]  # fmt: skip

    assert steps == [
        Notify(ev.AttemptProgressed(NODE, AttemptId("a"), "One.")),
        Notify(ev.AttemptProgressed(NODE, AttemptId("b"), "Eins.")),
        Notify(ev.AttemptProgressed(NODE, AttemptId("a"), " Two.")),
    ]


@pytest.mark.parametrize("seqs", [(1,), (0, 0), (0, 2), (0, 1, 0)])
def test_a_piece_out_of_order_closes_the_socket(seqs: tuple[int, ...]) -> None:
    session = serving()
    hand_out(session, "a")
    *before, last = seqs
    for seq in before:
        tell(session, seq)

    assert close_code(tell(session, last)) == CloseCode.OUT_OF_ORDER


def test_a_piece_that_nobody_asked_for_closes_the_socket() -> None:
    session = serving()
    hand_out(session, "a", stream=False)

    assert close_code(tell(session, 0)) == CloseCode.BAD_FRAME


def test_a_piece_of_an_attempt_of_another_closes_the_socket() -> None:
    session = serving()
    hand_out(session, "a")

    assert close_code(tell(session, 0, attempt_id="b")) == CloseCode.BAD_FRAME


def test_a_piece_of_what_has_no_text_closes_the_socket() -> None:
    session = serving()
    hand_out(session, "a", digest=EMBEDDING)

    assert close_code(tell(session, 0)) == CloseCode.BAD_FRAME


def test_a_piece_after_the_result_closes_the_socket() -> None:
    session = serving()
    hand_out(session, "a")
    tell(session, 0)
    answer(session)

    assert close_code(tell(session, 1)) == CloseCode.BAD_FRAME


def test_a_piece_after_the_failure_closes_the_socket() -> None:
    session = serving()
    hand_out(session, "a")
    session.receive(p.encode(p.Failed(attempt_id="a", blame="node", code="x")), now=1.0)

    assert close_code(tell(session, 0)) == CloseCode.BAD_FRAME


def test_what_crosses_with_a_cancel_is_heard_and_dropped_but_must_be_in_order() -> None:
    session = serving()
    hand_out(session, "a")
    tell(session, 0)
    session.cancel((AttemptId("a"),))

    assert tell(session, 1) == [Notify(ev.NodeHeard(NODE))]
    assert close_code(tell(session, 1)) == CloseCode.OUT_OF_ORDER


def test_a_result_that_crosses_with_a_cancel_ends_the_pieces() -> None:
    session = serving()
    hand_out(session, "a")
    session.cancel((AttemptId("a"),))
    answer(session)

    assert close_code(tell(session, 0)) == CloseCode.BAD_FRAME


@pytest.mark.parametrize("text", ["x", "é" * p.MAX_DELTA_CHARS])
def test_all_pieces_of_an_attempt_together_are_bounded(text: str) -> None:
    session = serving()
    hand_out(session, "a")
    size_bytes, seq = 0, 0
    while (steps := tell(session, seq, text)) and isinstance(steps[0], Notify):
        size_bytes += len(text.encode())
        seq += 1

    assert close_code(steps) == CloseCode.TOO_BIG
    assert size_bytes <= MAX_BYTES
    assert seq < MAX_BYTES / 64


def test_of_what_was_taken_back_no_more_is_kept_than_a_node_can_hold() -> None:
    deltas = Deltas()
    for number in range(TAKEN_BACK_KEPT + 1):
        deltas.expect(AttemptId(f"a{number}"))
        deltas.taken_back(AttemptId(f"a{number}"))

    assert not deltas.receive(p.Delta(attempt_id="a1", seq=0, text="late"))
    with pytest.raises(p.ProtocolError):
        deltas.receive(p.Delta(attempt_id="a0", seq=0, text="later"))
