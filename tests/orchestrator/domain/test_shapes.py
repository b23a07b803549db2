"""What counts as an answer: vectors of the right length with numbers in them, text, categories."""

from __future__ import annotations

import math
from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.domain.shapes import MAX_OUTPUT_CHARS, well_formed
from tests.arena import manifest

SIZE = manifest().dimensions
ANY_FLOAT32 = st.integers(0, 2**32 - 1)


@given(st.lists(ANY_FLOAT32, min_size=SIZE, max_size=SIZE))
def test_a_vector_is_an_answer_exactly_if_all_of_it_are_numbers(words: list[int]) -> None:
    output = array("I", words).tobytes()

    assert well_formed(manifest(), output) == all(map(math.isfinite, array("f", output)))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("at", [0, SIZE - 1])
def test_one_value_that_is_no_number_makes_it_no_answer(value: float, at: int) -> None:
    vector = array("f", [0.5] * SIZE)
    vector[at] = value

    assert not well_formed(manifest(), vector.tobytes())


@pytest.mark.parametrize("value", [3.4e38, -1.8e38, 1.7e38, 1e-45, -0.0])
def test_the_largest_and_smallest_numbers_are_numbers(value: float) -> None:
    vector = array("f", [0.5] * SIZE)
    vector[1] = value

    assert well_formed(manifest(), vector.tobytes())


def test_a_vector_of_another_length_is_no_answer() -> None:
    assert not well_formed(manifest(), bytes(4 * SIZE + 4))


@pytest.mark.parametrize(
    ("output", "is_text"),
    [
        (b"A sentence.", True),
        ("Ein Satz für sich.".encode(), True),
        (b"\xff a sentence", False),
        (b"x" * MAX_OUTPUT_CHARS, True),
        (b"x" * (MAX_OUTPUT_CHARS + 1), False),
        (("ü" * MAX_OUTPUT_CHARS).encode(), True),
        (("ü" * (MAX_OUTPUT_CHARS + 1)).encode(), False),
    ],
    ids=["ascii", "letters", "no utf-8", "long", "too long", "long letters", "too many letters"],
)
def test_a_summary_is_text_of_a_bounded_number_of_characters(output: bytes, is_text: bool) -> None:
    assert well_formed(manifest("extractive-summary"), output) == is_text
