"""Where sentences end, and where they only seem to."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from browser_node.pipelines.sentences import (
    MAX_WORDS,
    grouped,
    is_finished,
    joined,
    split,
    word_count,
)


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("One. Two! Three? Four…", ["One.", "Two!", "Three?", "Four…"]),
        ("He paid $3.50 at example.com. Then he left.", 2),
        ("Dr. A. Smith met Mr. Jones on St. John St. yesterday.", 1),
        ("She moved to the U.S. in May. The U.S. The end.", 3),
        ("It opens at 9 a.m. Monday. It closes at 5 p.m. The bar stays open.", 3),
        ("See Fig. 3 and vol. 2, pp. 4 and 5. No. 7 is missing.", 2),
        ("He said no. Dogs bark.", 2),
        ("Acme Inc. makes tools, e.g. saws, i.e. things with teeth, etc. It sells them.", 2),
        ("So did I. Nobody else.", 2),
        ("Compare cf. Smith, i.e. The Times, or red vs. Blue.", 1),
        ("Wait... what? Yes... Fine.", ["Wait... what?", "Yes...", "Fine."]),
        ('"Stop. Now!" he said. She stopped.', ['"Stop. Now!" he said.', "She stopped."]),
        ("He wrote: “Lamp out. Lantern shown.” Nothing else.", 2),
        ("(It rained.) We stayed.", ["(It rained.)", "We stayed."]),
        ("It is 5\" long. The next is 6\" long. So it goes.", 3),
        ("¿Qué? ¡No! Ya está.", ["¿Qué?", "¡No!", "Ya está."]),
        ("你好。我们走吧！好吗？", ["你好。", "我们走吧！", "好吗？"]),
        ("「行く。」と言った。終わり。", ["「行く。」", "と言った。", "終わり。"]),
        ("यह एक है। यह दो है।", 2),
        ("هل هذا سؤال؟ نعم هذا سؤال.", 2),
        ("Das kostet 62 Mio. Euro, z. B. für Rohre. Gut.", 2),
        ("Über uns. Älter als gedacht.", 2),
        ("no end", ["no end"]),
        ("", []),
        (" \n\t\n ", []),
    ],
)  # fmt: skip
def test_a_sentence_ends_where_a_reader_says_so(text: str, sentences: int | list[str]) -> None:
    found = split(text)
    assert len(found) == sentences if isinstance(sentences, int) else found == sentences


def test_wrapped_lines_are_one_paragraph_and_a_heading_is_not_part_of_it() -> None:
    text = (
        "THE KEEPER\n\n"
        "For thirty-one years the lighthouse at the cape was kept by one man, who\n"
        "never missed a night. His name was Elias Fenn, and he came from near\n"
        "Bergen.\n"
    )
    assert split(text) == [
        "THE KEEPER",
        "For thirty-one years the lighthouse at the cape was kept by one man, who never missed a "
        "night.",
        "His name was Elias Fenn, and he came from near Bergen.",
    ]


def test_list_items_stand_alone_without_their_markers() -> None:
    text = (
        "Decisions:\n- Launch in March\n* Tell nobody\n1. Merge first.\n2) Then check\n(3) Rest\n"
    )
    assert split(text) == [
        "Decisions:",
        "Launch in March",
        "Tell nobody",
        "Merge first.",
        "Then check",
        "Rest",
    ]


def test_a_marker_inside_a_line_stays() -> None:
    assert split("We are three years. Then vitamin C. helped - a bit.")[0] == "We are three years."


def test_long_lines_are_paragraphs_of_their_own() -> None:
    first = "A title without a stop that somebody pasted above the text of an article " * 2
    second = "The article says things. " * 8
    assert split(f"{first}\n{second}")[0] == first.strip()


def test_text_without_punctuation_comes_in_pieces() -> None:
    pieces = split(" ".join(f"word{at}" for at in range(300)))
    assert len(pieces) == 8
    assert all(word_count(piece) <= 40 for piece in pieces)
    assert " ".join(pieces).split() == [f"word{at}" for at in range(300)]


def test_a_piece_ends_at_a_pause_if_there_is_one() -> None:
    phrases = [f"there were {at} good reasons to go on with the work at hand" for at in range(9)]
    pieces = split(", ".join(phrases))
    assert all(piece.endswith((",", "hand")) for piece in pieces)
    assert [word_count(piece) for piece in pieces] == [39, 39, 39]


@given(st.text(alphabet=st.sampled_from("aAbI.!?。中\" “”'()-\n\t1,;é"), max_size=200))
def test_no_visible_character_but_a_list_marker_gets_lost(text: str) -> None:
    markers = set("-()1aAbI.")
    kept = [char for char in "".join(split(text)) if not char.isspace()]
    wanted = [char for char in text if not char.isspace()]
    assert all(sentence.strip() for sentence in split(text))
    rest = iter(wanted)
    skipped = []
    for char in kept:
        for other in rest:
            if other == char:
                break
            skipped.append(other)
        else:
            pytest.fail(f"{char!r} is out of order")
    assert set(skipped) | set(rest) <= markers


@given(
    st.lists(st.integers(1, 60).map(lambda size: " ".join(["w"] * size) + "."), max_size=600),
    st.integers(2, 130),
)
def test_groups_keep_every_sentence_in_order_within_the_limit(
    sentences: list[str], limit: int
) -> None:
    groups = grouped(sentences, limit=limit)
    assert len(groups) <= limit
    assert [sentence for group in groups for sentence in group] == sentences


def test_groups_of_sentences_of_one_length_keep_within_the_limit() -> None:
    for count in range(2, 60):
        for limit in range(2, count):
            assert len(grouped(["One."] * count, limit=limit)) <= limit


def test_cjk_parts_are_joined_without_a_space() -> None:
    assert joined(["开放。", "气象厅", "said so."]) == "开放。气象厅 said so."


@pytest.mark.parametrize(
    ("sentence", "words"), [("three little words", 3), ("今天天气很好", 4), ("", 0)]
)
def test_words_are_counted_in_scripts_with_and_without_spaces(sentence: str, words: int) -> None:
    assert word_count(sentence) == words


def test_a_heading_is_not_finished_and_a_quotation_is() -> None:
    assert not is_finished("Open questions:")
    assert is_finished("He said “no.”)")


@pytest.mark.parametrize("unit", ["A. ", '"a. ', "a;", "x. Y ", "。", "- a\n", "((", "1. ", "“A. "])
def test_sixteen_times_the_text_does_not_take_its_square(unit: str) -> None:
    def seconds(characters: int) -> float:
        text = unit * (characters // len(unit))
        taken = []
        for _ in range(3):
            started = time.process_time()
            split(text)
            taken.append(time.process_time() - started)
        return min(taken)

    # 16 times as long is linear, 256 times quadratic: no busy machine comes between the two.
    assert seconds(131_072) < 64 * seconds(8_192) + 0.02


def test_a_long_sentence_is_longer_than_a_piece() -> None:
    assert len(split(" ".join(["w"] * MAX_WORDS))) == 1
