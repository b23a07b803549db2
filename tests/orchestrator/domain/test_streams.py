"""The text of one answer, from whichever attempts it comes: never taken back, never repeated."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from browser_node.protocol import AttemptId
from orchestrator import errors
from orchestrator.domain.streams import StreamedText

FIRST, SECOND = AttemptId("a1"), AttemptId("a2")


def interrupted(error: pytest.ExceptionInfo[errors.InternalError]) -> tuple[Any, ...]:
    return error.value.status, error.value.code, error.value.retry_after_s


def test_pieces_that_wait_are_taken_as_one() -> None:
    text = StreamedText()
    text.add(FIRST, "One.")
    text.add(FIRST, " Two.")

    assert text.take() == "One. Two."
    assert text.take() == ""
    text.add(FIRST, " Three.")
    assert text.take() == " Three."


def test_what_no_piece_told_of_the_answer_comes_with_it() -> None:
    text = StreamedText()
    text.add(FIRST, "One.")
    text.take()
    text.add(FIRST, " Two.")

    assert text.finish(b"One. Two. Three.") == " Two. Three."


def test_an_answer_without_pieces_has_no_text_of_its_own() -> None:
    assert StreamedText().finish(b"\xff\x00 a vector") == ""


def test_an_attempt_that_takes_over_repeats_what_was_taken_and_it_is_left_out() -> None:
    text = StreamedText()
    text.add(FIRST, "One. Two.")
    text.take()

    text.add(SECOND, "One.")
    assert text.take() == ""
    text.add(SECOND, " Two. Three.")
    assert text.take() == " Three."
    assert text.finish(b"One. Two. Three. Four.") == " Four."


def test_what_nobody_has_taken_need_not_be_repeated() -> None:
    text = StreamedText()
    text.add(FIRST, "Of the lost node.")

    text.add(SECOND, "Of the other.")

    assert text.take() == "Of the other."


@pytest.mark.parametrize("other", ["Two.", "One! Two.", "O", "Onx"])
def test_an_attempt_that_begins_otherwise_breaks_the_stream_off(other: str) -> None:
    text = StreamedText()
    text.add(FIRST, "One.")
    text.take()

    text.add(SECOND, other)
    if "One.".startswith(other):
        assert text.take() == ""
        text.add(SECOND, "ther")
    with pytest.raises(errors.InternalError, match="Send the request again") as error:
        text.take()

    assert interrupted(error) == (500, "stream_interrupted", None)


@pytest.mark.parametrize("output", [b"", b"One", b"Another.", b"\xff\xfe"])
def test_an_answer_that_does_not_begin_with_what_was_taken_breaks_the_stream_off(
    output: bytes,
) -> None:
    text = StreamedText()
    text.add(FIRST, "One.")
    text.take()

    with pytest.raises(errors.InternalError) as error:
        text.finish(output)

    assert interrupted(error)[1] == "stream_interrupted"


def test_a_third_attempt_may_go_on_where_the_second_could_not() -> None:
    text = StreamedText()
    text.add(FIRST, "One.")
    text.take()
    text.add(SECOND, "Uno.")

    text.add(AttemptId("a3"), "One. Two.")

    assert text.take() == " Two."


attempts = st.lists(
    st.tuples(st.lists(st.integers(1, 9), max_size=6), st.lists(st.booleans(), min_size=6)),
    min_size=1,
    max_size=4,
)


@given(output=st.text(max_size=30), attempts=attempts)
def test_however_attempts_follow_each_other_the_customer_gets_the_answer_once(
    output: str, attempts: list[tuple[list[int], list[bool]]]
) -> None:
    text = StreamedText()
    got = ""
    began = False
    for number, (lengths, takes) in enumerate(attempts):
        at = 0
        for length, take in zip(lengths, takes, strict=False):
            if piece := output[at : at + length]:
                text.add(AttemptId(f"a{number}"), piece)
                began = True
            at += length
            if take:
                got += text.take()
                assert output.startswith(got)

    got += text.finish(output.encode())

    assert got == (output if began else "")
