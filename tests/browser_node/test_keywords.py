"""Keyword candidates from text, and the choice among them by their vectors."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from browser_node.pipelines.keywords import (
    MAX_CANDIDATES,
    MAX_KEYWORDS,
    MAX_WORDS,
    candidates,
    select,
)
from browser_node.pipelines.stopwords import STOPWORDS, WEAK


def found(text: str) -> list[str]:
    return candidates(text, rarity=lambda word: 0.5)


def test_phrases_end_at_stop_words_and_punctuation() -> None:
    text = "A central bank of the euro zone, with interest rates."
    assert found(text) == ["central bank", "euro zone", "interest rates"]


def test_what_is_found_oftener_comes_first() -> None:
    text = "The orchestra met a conductor. The violin waited. A violin and again a violin."
    assert found(text)[0] == "violin"


def test_rarer_words_come_first() -> None:
    rare = {"quokka": 1.0}
    words = candidates("Water, bread and quokka.", rarity=lambda word: rare.get(word, 0.4))
    assert words[0] == "quokka"


def test_words_are_in_lower_case_without_possessive_endings() -> None:
    assert found("London’s Underground") == ["london", "underground"]


def test_a_long_noun_phrase_is_cut_from_both_ends() -> None:
    words = found("premium electric vehicle battery chemistry")
    assert "vehicle battery chemistry" in words
    assert all(len(phrase.split()) <= MAX_WORDS for phrase in words)


def test_verbs_adverbs_and_superlatives_are_no_keywords() -> None:
    text = "He quickly stretched the funniest banner, wondering about the forest and its speed."
    assert found(text) == ["banner", "forest", "speed"]


def test_what_a_plural_does_is_no_part_of_a_phrase() -> None:
    assert found("Octopuses taste with their suckers.") == ["octopuses", "suckers"]
    assert found("The inhaler calms the inflammation.") == ["inhaler", "inflammation"]


def test_plurals_that_modify_stay_in_their_phrase() -> None:
    assert found("a sports car and a savings account") == ["sports car", "savings account"]


def test_a_weak_word_counts_only_when_it_is_repeated() -> None:
    assert found("A cheap book about pottery.") == ["pottery"]
    assert "book" in found("A book, a new book, the third book.")


def test_numbers_and_symbols_are_no_keywords() -> None:
    assert found("3.5 % of 2,000 × 12") == []


def test_the_lists_of_words_do_not_contradict_each_other() -> None:
    assert not STOPWORDS & WEAK


@given(st.text(max_size=400))
def test_any_text_gives_few_short_lower_case_phrases(text: str) -> None:
    words = found(text)
    assert len(words) <= MAX_CANDIDATES
    assert len(set(words)) == len(words)
    for phrase in words:
        assert phrase == phrase.lower()
        assert 1 <= len(phrase.split()) <= MAX_WORDS


# ── selection ────────────────────────────────────────────────────────────────────────────────────


def test_the_nearest_phrase_is_chosen_first() -> None:
    vectors = [[0.6, 0.8, 0.0], [1.0, 0.0, 0.0]]
    assert select(["side note", "topic"], vectors, [1.0, 0.0, 0.0]) == ["topic", "side note"]


def test_a_phrase_that_says_the_same_waits_for_one_that_says_something_else() -> None:
    vectors = [[1.0, 0.0, 0.0], [0.98, 0.2, 0.0], [0.7, 0.0, 0.71]]
    center = [0.95, 0.05, 0.3]
    assert select(["river", "stream", "bridge"], vectors, center) == ["river", "bridge", "stream"]


def test_what_is_far_from_the_text_is_left_out() -> None:
    assert select(["topic", "nothing"], [[1.0, 0.0], [0.0, 1.0]], [1.0, 0.0]) == ["topic"]


def test_a_part_of_a_chosen_phrase_is_left_out() -> None:
    vectors = [[1.0, 0.0], [0.9, 0.43], [0.8, 0.6]]
    chosen = select(["green tea", "teas", "kettle"], vectors, [1.0, 0.0])
    assert chosen == ["green tea", "kettle"]


def test_at_most_ten_are_chosen() -> None:
    phrases = [f"word{chr(97 + at)}" for at in range(20)]
    assert len(select(phrases, [[1.0, 0.0]] * 20, [1.0, 0.0])) == MAX_KEYWORDS


def test_nothing_is_chosen_from_nothing() -> None:
    assert select([], [], [1.0, 0.0]) == []
