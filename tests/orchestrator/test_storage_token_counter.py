"""What is counted of a long text and in which thread, and texts found for token ids."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from browser_node.tokenizer import RustTokenizer, WordPieceTokenizer
from orchestrator.storage.catalogue import load_manifests, read_file
from orchestrator.storage.token_counter import Limit, TokenCounter
from tests.orchestrator.fakes import VOCABULARY, tiny_tokenizer, tiny_wordpiece

BUILD_DIR = Path(__file__).resolve().parents[2] / "build"
RUST = RustTokenizer(tiny_tokenizer())
PYTHON = WordPieceTokenizer(tiny_wordpiece())
WHOLE = Limit(max_tokens=1_000_000, cuts=False)
AT_MOST_16 = Limit(max_tokens=16, cuts=False)
CUT_TO_16 = Limit(max_tokens=16, cuts=True)
FITTED_TO_16 = Limit(max_tokens=16, cuts=True, exactly=True)

PAD, UNK, CLS, SEP, MASK, CAT, DOG, PLURAL = (
    VOCABULARY.index(token)
    for token in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "cat", "dog", "##s")
)
WORDS = st.sampled_from(["cat", "dogs", "z9", "[SEP]", "x" * 120, "", "a-b", "cat-" * 30])
SPACED_WORDS = st.lists(st.tuples(WORDS, st.sampled_from(" \t\n\r")), max_size=60).map(
    lambda pairs: "".join(word + space for word, space in pairs)[:1999]
)
with_one_counter = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def bare(ids: list[int]) -> list[int]:
    """Return ``ids`` without [PAD]s at their end, one [CLS] before and one [SEP] behind them."""
    while ids and ids[-1] == PAD:
        ids = ids[:-1]
    start = 1 if ids[:1] == [CLS] else 0
    end = len(ids) - 1 if ids[start:] and ids[-1] == SEP else len(ids)
    return ids[start:end]


@pytest.fixture(scope="module")
def counter() -> Iterator[TokenCounter]:
    made = TokenCounter(tokenizer_json=tiny_tokenizer(), wordpiece_json=tiny_wordpiece())
    yield made
    made.close()


async def test_a_text_that_is_refused_is_counted_until_that_is_certain(
    counter: TokenCounter,
) -> None:
    text = "cat\n" * 30_000

    [measured] = await counter.measure_in_thread([text], AT_MOST_16)

    assert text.startswith(measured.text)
    assert len(measured.text) < 200
    assert measured.tokens == RUST.count(measured.text) > 16


@given(SPACED_WORDS)
@with_one_counter
def test_a_text_is_counted_whole_unless_its_start_is_too_long(
    counter: TokenCounter, text: str
) -> None:
    [measured] = counter.measure_now([text], AT_MOST_16) or []

    assert measured.tokens == RUST.count(measured.text)
    if measured.tokens > 16:
        assert text.startswith(measured.text)
        assert RUST.count(text) >= measured.tokens
    else:
        assert measured.text == text


@given(SPACED_WORDS)
@with_one_counter
def test_a_text_cut_at_any_white_space_is_read_as_the_whole_would_be(
    counter: TokenCounter, text: str
) -> None:
    [measured] = counter.measure_now([text], CUT_TO_16) or []

    assert measured.tokens == min(RUST.count(text), 16)
    assert RUST.encode(measured.text, max_tokens=16) == RUST.encode(text, max_tokens=16)


@given(SPACED_WORDS, st.sampled_from(["", " ", "\n", "Date: "]))
@with_one_counter
def test_a_text_cut_to_what_fits_keeps_most_of_that(
    counter: TokenCounter, text: str, before: str
) -> None:
    text = (before + text)[:1999]
    [measured] = counter.measure_now([text], FITTED_TO_16) or []

    assert text.startswith(measured.text)
    assert measured.tokens == RUST.count(measured.text) <= 16
    assert measured.text == text or measured.tokens >= 8


@pytest.mark.parametrize("before", ["", " ", "cat: ", "\n"])
@pytest.mark.parametrize("limit", [CUT_TO_16, FITTED_TO_16, AT_MOST_16])
async def test_of_a_text_without_spaces_a_short_start_tells_all(
    counter: TokenCounter, before: str, limit: Limit
) -> None:
    text = before + "cat-" * 30_000

    [measured] = await counter.measure_in_thread([text], limit)

    assert text.startswith(measured.text)
    assert len(measured.text) < 1_000
    assert measured.tokens == 16 if limit.cuts else measured.tokens > 16
    wanted = RUST.encode(text, max_tokens=16)
    assert RUST.encode(measured.text, max_tokens=16) == wanted


async def test_texts_in_the_background_keep_nobody_waiting(counter: TokenCounter) -> None:
    long_text = "the cats sat on a mat, " * 5_000
    backlog = [
        asyncio.ensure_future(counter.measure_in_thread([long_text], WHOLE, background=True))
        for _ in range(30)
    ]
    await asyncio.sleep(0)  # They are begun in their order, before what comes now.

    [measured] = await counter.measure_in_thread(["a cat " * 400], WHOLE)

    assert measured.tokens == 802
    assert not backlog[15].done()
    [[first], *_] = await asyncio.gather(*backlog[:1])
    assert first.tokens == RUST.count(long_text)
    for one in backlog:
        one.cancel()


@pytest.mark.parametrize(
    ("ids", "text"),
    [
        ([CAT, PLURAL], "cats"),
        ([CLS, CAT, PLURAL, SEP], "cats"),
        ([CLS, CAT], "cat"),
        ([CAT, SEP], "cat"),
        ([CAT, UNK, DOG], "cat [UNK] dog"),
        ([MASK, DOG], "[MASK] dog"),
        ([CAT, SEP, DOG], "cat [SEP] dog"),
        ([CAT, CLS, DOG], "cat [CLS] dog"),
        ([CLS, CLS, CAT, SEP, SEP], "[CLS] cat [SEP]"),
        ([MASK, PLURAL], None),
        ([CAT, -1], None),
        ([len(VOCABULARY)], None),
    ],
)
def test_token_ids_are_found_a_text_that_has_them(
    counter: TokenCounter, ids: list[int], text: str | None
) -> None:
    assert counter.text_of(ids) == text


@given(st.lists(st.integers(0, len(VOCABULARY) - 1), max_size=20))
@with_one_counter
def test_a_text_found_for_token_ids_has_exactly_these(
    counter: TokenCounter, ids: list[int]
) -> None:
    text = counter.text_of(ids)

    if text is not None:
        for engine in (RUST, PYTHON):
            assert engine.encode(text, max_tokens=64) == [CLS, *bare(ids), SEP]


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=60) | SPACED_WORDS)
@with_one_counter
def test_the_token_ids_of_any_text_are_found_one(counter: TokenCounter, text: str) -> None:
    ids = RUST.encode(text, max_tokens=4_000)

    found = counter.text_of(ids)

    assert found is not None
    assert RUST.encode(found, max_tokens=4_000) == ids


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ids", "inner"),
    [
        ([1037, 100, 1038], [1037, 100, 1038]),
        ([101, 1037, 100, 1038, 102], [1037, 100, 1038]),
        ([103, 1060], [103, 1060]),
        ([1037, 102, 1038], [1037, 102, 1038]),
        ([1037, 101, 1038], [1037, 101, 1038]),
    ],
)
def test_token_ids_of_the_real_vocabulary_are_answered_exactly(
    ids: list[int], inner: list[int]
) -> None:
    manifest = next(iter(load_manifests(BUILD_DIR).values()))
    tokenizer, wordpiece = (
        read_file(BUILD_DIR, manifest, name) for name in ("tokenizer.json", "wordpiece.json")
    )
    counter = TokenCounter(tokenizer_json=tokenizer, wordpiece_json=wordpiece)

    text = counter.text_of(ids)

    counter.close()
    assert text is not None
    for engine in (RustTokenizer(tokenizer), WordPieceTokenizer(wordpiece)):
        assert engine.encode(text, max_tokens=64) == [101, *inner, 102]
