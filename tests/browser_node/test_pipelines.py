"""Embeddings and extractive summaries, with arithmetic for a model."""

from __future__ import annotations

import math
from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from browser_node.models import STREAMING
from browser_node.pipelines import InputError, Pipeline, Streaming, build
from browser_node.pipelines import vectors as vector_math
from browser_node.pipelines.embeddings import EmbeddingsPipeline
from browser_node.pipelines.sentences import split
from browser_node.pipelines.summary import (
    MAX_VECTORS,
    SummaryPipeline,
    default_count,
    is_cut,
    rank,
)
from browser_node.protocol import Answer, Params, Task
from tests.browser_node.arithmetic import (
    DIMENSIONS,
    WordTokenizer,
    manifest_of,
    near_ties,
    vector_of,
)

SENTENCES = [
    "The council closed the bridge to cars on Tuesday night.",
    "Buses and bicycles may still cross the bridge.",
    "The council closed the bridge to cars on Tuesday.",
    "Shops on the east bank fear for their trade.",
    "It rained.",
    "Work on the new crossing begins in January next year.",
]
TEXT = " ".join(SENTENCES)


def summary_pipeline(max_tokens: int = 4096) -> SummaryPipeline:
    return SummaryPipeline(
        manifest_of("extractive-summary", max_tokens=max_tokens), WordTokenizer()
    )


def answer(pipeline: Pipeline, task: Task) -> Answer:
    plan = pipeline.plan(task)
    return pipeline.finish(plan, [vector_of(sequence) for sequence in plan.sequences], [])


def summary(text: str, **params: int) -> str:
    return answer(summary_pipeline(), Task(input=text, params=dict(params))).output.decode()


# ── vectors ──────────────────────────────────────────────────────────────────────────────────────


def test_vectors_travel_as_little_endian_float32() -> None:
    blob = vector_math.to_bytes([array("f", [1.0, 0.0]), array("f", [-2.0, 0.5])])
    assert blob == bytes.fromhex("0000803f 00000000 000000c0 0000003f")
    assert list(vector_math.floats(blob)) == [1.0, 0.0, -2.0, 0.5]


def test_part_of_a_float_is_refused() -> None:
    with pytest.raises(ValueError, match="multiple"):
        vector_math.floats(b"\0\0\0\0\0")


def test_evidence_travels_as_little_endian_float16_and_is_used_as_it_travels() -> None:
    rounded, blob = vector_math.halved([array("f", [1.0, 0.1]), array("f", [-2.0, 1 / 3])])
    assert blob == bytes.fromhex("003c 662e 00c0 5535")
    assert rounded == [(1.0, 0.0999755859375), (-2.0, 0.333251953125)]
    assert vector_math.halved(rounded) == (rounded, blob)
    assert vector_math.halves(blob) == (*rounded[0], *rounded[1])


def test_nothing_is_rounded_to_nothing() -> None:
    assert vector_math.halved([]) == ([], b"")
    assert vector_math.halved([[]]) == ([()], b"")


def test_what_half_precision_cannot_hold_is_refused() -> None:
    with pytest.raises(OverflowError):
        vector_math.halved([[1e5]])
    with pytest.raises(ValueError, match="3 bytes"):
        vector_math.halves(b"\0\0\0")


def test_the_cosine_with_nothing_is_nothing() -> None:
    assert vector_math.cosine([0.0, 0.0], [1.0, 0.0]) == 0.0
    assert vector_math.cosine([3.0, 0.0], [4.0, 3.0]) == pytest.approx(0.8)


def test_the_centroid_is_the_unit_vector_between() -> None:
    assert vector_math.centroid([[1.0, 0.0], [0.0, 1.0]]) == pytest.approx([math.sqrt(0.5)] * 2)
    assert vector_math.centroid([[1.0], [-1.0]]) == [0.0]


def test_the_mean_leans_to_the_heavier_vector() -> None:
    assert vector_math.mean([[1.0, 0.0], [0.0, 1.0]], (3, 4)) == pytest.approx([0.6, 0.8])
    assert vector_math.mean([[1.0], [-1.0]], (2, 2)) == [0.0]


# ── embeddings ───────────────────────────────────────────────────────────────────────────────────


def test_an_embedding_is_the_bytes_of_its_one_vector() -> None:
    pipeline = EmbeddingsPipeline(manifest_of("embeddings"), WordTokenizer())
    plan = pipeline.plan(Task(input="two words"))
    assert [len(sequence) for sequence in plan.sequences] == [4]
    assert plan.tokens == 4
    vector = vector_of(plan.sequences[0])
    assert pipeline.finish(plan, [vector], []) == Answer(output=vector.tobytes())


def test_a_model_that_cuts_takes_the_start_of_a_longer_text() -> None:
    pipeline = EmbeddingsPipeline(
        manifest_of("embeddings", max_tokens=5, cuts=True), WordTokenizer()
    )
    plan = pipeline.plan(Task(input="one two three four five"))
    assert plan.sequences == pipeline.plan(Task(input="one two three")).sequences
    assert plan.tokens == 5


def test_a_model_that_does_not_cut_refuses_a_longer_text_and_says_both_lengths() -> None:
    pipeline = EmbeddingsPipeline(manifest_of("embeddings", max_tokens=5), WordTokenizer())
    with pytest.raises(InputError, match=r"6 tokens; .* at most 5") as caught:
        pipeline.plan(Task(input="one two three four"))
    assert caught.value.code == "too_many_tokens"


# ── summaries ────────────────────────────────────────────────────────────────────────────────────


def test_a_summary_is_sentences_of_the_text_in_their_order() -> None:
    for count in range(1, len(SENTENCES) + 1):
        chosen = [s for s in SENTENCES if s in summary(TEXT, sentences=count)]
        assert summary(TEXT, sentences=count) == " ".join(chosen)


def test_the_number_of_sentences_is_what_was_asked_for() -> None:
    for count in range(1, len(SENTENCES) + 1):
        assert summary(TEXT, sentences=count).count(".") == count


def test_more_sentences_than_there_are_give_the_whole_text() -> None:
    assert summary(TEXT, sentences=50) == TEXT


def test_the_length_of_the_text_decides_unless_told() -> None:
    assert [default_count(size) for size in (1, 3, 5, 10, 20, 40, 128)] == [1, 1, 2, 3, 4, 5, 8]
    assert summary(TEXT).count(".") == 2


def test_a_repeated_sentence_is_not_taken_twice() -> None:
    text = f"{SENTENCES[0]} {SENTENCES[3]} {SENTENCES[0]} {SENTENCES[1]}"
    for count in (1, 2, 3):
        assert summary(text, sentences=count).count(SENTENCES[0]) <= 1


def test_a_fragment_is_taken_last() -> None:
    assert "It rained." not in summary(TEXT, sentences=5)
    assert "Contents" not in summary(f"Contents\n\n{TEXT}", sentences=5)


def test_the_first_sentence_counts_more_in_a_short_summary_than_in_a_long_one() -> None:
    units = [f"Sentence {at} is as long as all of the others here." for at in range(12)]
    # The last seven are nearer to the centroid than the first five.
    vectors = [[1.0, 0.0] if at < 5 else [0.8, 0.6] for at in range(12)]
    assert next(rank(units, vectors, count=1)) == 0
    assert next(rank(units, vectors, count=10)) != 0


def test_equal_sentences_are_ranked_by_their_order() -> None:
    units = ["All of these sentences are the same."] * 5
    assert list(rank(units, [[1.0, 0.0]] * 5, count=5)) == [0, 1, 2, 3, 4]


def test_rounding_of_another_runtime_does_not_change_the_order() -> None:
    units = [sentence for sentence in SENTENCES for _ in range(3)]
    vectors = [list(vector_of(WordTokenizer().encode(unit, max_tokens=64))) for unit in units]
    nudged = [[value * (1 + at % 3 * 1e-12) for value in v] for at, v in enumerate(vectors)]
    assert list(rank(units, vectors, count=6)) == list(rank(units, nudged, count=6))


def test_the_output_keeps_to_the_tokens_allowed() -> None:
    tokenizer = WordTokenizer()
    for allowed in range(1, 60):
        assert tokenizer.count(summary(TEXT, sentences=6, max_tokens=allowed)) - 2 <= allowed


def test_a_sentence_that_does_not_fit_makes_room_for_one_that_does() -> None:
    assert summary(TEXT, sentences=1, max_tokens=9) in SENTENCES
    assert summary(TEXT, sentences=1, max_tokens=2) == SENTENCES[4]


def test_a_sentence_is_cut_inside_a_word_that_is_most_of_it() -> None:
    class Signs(WordTokenizer):
        """Counts signs that stand for words by themselves, as the models' vocabulary does."""

        def count(self, text: str) -> int:
            return sum(1 if word.isascii() else len(word) for word in text.split()) + 2

    manifest = manifest_of("extractive-summary", max_tokens=999)
    pipeline, signs = SummaryPipeline(manifest, Signs()), "足球" * 15
    for text, start in (
        (f"Sport {signs}。", f"Sport {signs[:9]}"),
        (f"{signs}。", signs[:10]),
        (f"One two three {signs}。", f"One two three {signs[:7]}"),
        (f"One two three four five {signs}。", "One two three four five"),
    ):
        cut = answer(pipeline, Task(input=text, params={"max_tokens": 10})).output.decode()
        assert cut == start


def test_where_no_sentence_fits_the_best_one_is_cut_between_words() -> None:
    assert summary(SENTENCES[0], max_tokens=4) == "The council closed the"
    assert summary(f"{SENTENCES[0]} {SENTENCES[1]}", max_tokens=3) == "The council closed"


@pytest.mark.parametrize(
    "text",
    [
        TEXT,
        SENTENCES[0],
        "It cost $500 to repair the bridge. The old (and rusty) ferry left at noon.",
        'The "old" ferry left the harbour at dawn',
        "He said: “go home now” and left us — at last.",
        "Dr. Mrs. Smith went. Mr. Jones did not.",
        "A heading\n\nA line that\nis wrapped, and goes on. - a point\n- another point",
        "桥关闭了所以商店担心 and on it goes",
        "   ",
        "",
    ],
)
def test_a_summary_is_cut_where_not_one_sentence_fits(text: str) -> None:
    tokenizer = WordTokenizer()
    shortest = min((tokenizer.count(unit) - 2 for unit in split(text)), default=0)
    for allowed in range(1, 20):
        assert is_cut(text, summary(text, sentences=2, max_tokens=allowed)) is (shortest > allowed)


@pytest.mark.parametrize("name", ["sentences", "max_tokens"])
@pytest.mark.parametrize("value", [0, -1, True, "3", 2.5])
def test_a_parameter_that_is_no_positive_whole_number_is_refused(
    name: str, value: int | bool | str | float
) -> None:
    with pytest.raises(InputError, match=f"{name} is {value!r}"):
        summary_pipeline().plan(Task(input=TEXT, params={name: value}))


def test_one_sentence_is_its_own_summary_and_costs_no_computing() -> None:
    plan = summary_pipeline().plan(Task(input="  One sentence\n alone. "))
    assert plan.sequences == ()
    assert summary("  One sentence\n alone. ") == "One sentence alone."


@pytest.mark.parametrize(
    "params", [{}, {"sentences": 3}, {"sentences": 50}, {"sentences": 1, "max_tokens": 2}]
)
@pytest.mark.parametrize(
    "text",
    [TEXT, "", "Only one.", "桥关闭了。商店担心。 It rained. 工作开始了。", "Half \ud83d. A pair."],
)
def test_a_summary_comes_in_pieces_that_are_its_sentences(text: str, params: Params) -> None:
    pipeline = summary_pipeline()
    plan = pipeline.plan(Task(input=text, params=params))
    vectors = [vector_of(sequence) for sequence in plan.sequences]

    answer, pieces = pipeline.finish_in_pieces(plan, vectors, [])

    assert answer == pipeline.finish(plan, vectors, [])
    assert "".join(pieces) == answer.output.decode()
    assert len(pieces) == len(split(answer.output.decode()))


def test_the_pieces_of_a_summary_are_told_apart_by_the_space_before_them() -> None:
    pipeline = summary_pipeline()
    plan = pipeline.plan(Task(input=TEXT, params={"sentences": 2}))
    vectors = [vector_of(sequence) for sequence in plan.sequences]

    _, [first, second] = pipeline.finish_in_pieces(plan, vectors, [])

    assert first in SENTENCES
    assert second.startswith(" ")
    assert second[1:] in SENTENCES


@pytest.mark.parametrize("seed", range(20))
def test_a_summary_follows_from_its_own_evidence(seed: int) -> None:
    pipeline = summary_pipeline()
    plan = pipeline.plan(Task(input=TEXT, params={"sentences": 2}))
    vectors = near_ties(len(plan.sequences), seed)
    as_sent, _ = vector_math.halved(vectors)
    assert pipeline.finish(plan, vectors, []) == pipeline.finish(plan, as_sent, [])


def test_only_the_summary_streams() -> None:
    assert isinstance(summary_pipeline(), Streaming)
    assert not isinstance(EmbeddingsPipeline(manifest_of("embeddings"), WordTokenizer()), Streaming)
    assert {"extractive-summary"} == STREAMING


@pytest.mark.parametrize("text", ["", "  ", "\n\n"])
def test_nothing_has_an_empty_summary(text: str) -> None:
    assert answer(summary_pipeline(), Task(input=text)) == Answer(output=b"", evidence=b"")


def test_half_a_surrogate_pair_does_not_keep_a_text_from_its_summary() -> None:
    assert summary("Half \ud83d of a pair.") == "Half ? of a pair."


def test_a_text_of_very_many_sentences_is_computed_as_a_bounded_number_of_units() -> None:
    text = " ".join(f"Sentence number {at} is here." for at in range(700))
    plan = summary_pipeline().plan(Task(input=text))
    assert len(plan.sequences) <= MAX_VECTORS
    assert len(plan.sequences) > MAX_VECTORS // 2


@pytest.mark.parametrize("size", [128, 129, 256, 300])
def test_sentences_that_share_a_vector_are_counted_and_cut_one_by_one(size: int) -> None:
    sentences = [f"Ferry {at} left harbour {at} with cargo." for at in range(size)]
    text = " ".join(sentences)
    for count in (1, 2, 5, 100):
        assert len(split(summary(text, sentences=count))) == count
    assert summary(text, sentences=1000) == text
    # Each has seven tokens here.
    two = summary(text, sentences=3, max_tokens=20)
    assert len(split(two)) == 2
    assert all(sentence in sentences for sentence in split(two))
    assert not is_cut(text, summary(text, sentences=3, max_tokens=9))
    assert is_cut(text, summary(text, max_tokens=5))


def test_of_sentences_that_share_a_vector_fragments_come_last() -> None:
    text = " ".join(f"Oh. Ferry {at} left harbour {at} with cargo." for at in range(200))
    assert "Oh." not in split(summary(text, sentences=50))


def test_the_evidence_is_a_vector_a_sentence() -> None:
    plan = summary_pipeline().plan(Task(input=TEXT))
    evidence = answer(summary_pipeline(), Task(input=TEXT)).evidence
    assert evidence == vector_math.halved([vector_of(one) for one in plan.sequences])[1]
    assert len(evidence) == len(SENTENCES) * DIMENSIONS * 2


def test_a_text_longer_than_the_model_takes_is_refused() -> None:
    with pytest.raises(InputError, match="at most 16"):
        summary_pipeline(max_tokens=16).plan(Task(input=TEXT))


@given(st.text(max_size=300), st.integers(1, 5), st.integers(1, 40))
def test_any_text_has_a_summary_within_the_limits(text: str, count: int, allowed: int) -> None:
    said = summary(text, sentences=count, max_tokens=allowed)
    assert WordTokenizer().count(said) - 2 <= allowed


# ── the built packs ──────────────────────────────────────────────────────────────────────────────


def test_a_model_without_its_tokenizer_table_is_refused() -> None:
    with pytest.raises(KeyError):
        build(manifest_of("embeddings"), {})
