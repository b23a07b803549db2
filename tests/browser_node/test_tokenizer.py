"""The pure-Python tokenizer against the `tokenizers` library."""

from __future__ import annotations

import json
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors

from browser_node.tokenizer import RustTokenizer, WordPieceTokenizer, load
from tests.browser_node import built
from tests.browser_node.stress import stress_texts
from wasm_build.wordpiece import build_table

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
# Of the others, Unicode has assigned no code point, or left all to private use.
PLANES_WITH_CHARACTERS = (0, 1, 2, 3, 14)
Engines = tuple[RustTokenizer, WordPieceTokenizer]

text_of_few_kinds = st.text(
    st.one_of(
        st.sampled_from("aabcdeé  .,-[]#'İßΣς中가각\u0301\u302e\u200b\ufffd\x00\x1c\n\u2028\ud800"),
        st.characters(),
    ),
    max_size=80,
)


def small_tokenizer_json() -> bytes:
    """Return a published-style `tokenizer.json` with a vocabulary of letters and a few pieces."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789ßσςдабשलが中가각"
    pieces = [*SPECIAL, *letters, *(f"##{letter}" for letter in letters), *".,-[]#'!?·。"]
    pieces += ["the", "fox", "##es", "##ing", "jump", "straße", "extraordinary", "##extraordinary"]
    vocab = {piece: at for at, piece in enumerate(dict.fromkeys(pieces))}
    engine = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]", max_input_chars_per_word=100))
    engine.normalizer = normalizers.BertNormalizer()
    engine.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    engine.add_special_tokens([AddedToken(word, normalized=False) for word in SPECIAL])
    engine.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return engine.to_str().encode()


@pytest.fixture(scope="module")
def small() -> Engines:
    tokenizer_json = small_tokenizer_json()
    return RustTokenizer(tokenizer_json), WordPieceTokenizer(build_table(tokenizer_json))


@pytest.fixture(scope="module")
def published() -> Engines:
    _, files = built.model("all-minilm-l6-v2")
    engine = load(files)
    assert isinstance(engine, WordPieceTokenizer)
    return RustTokenizer(files["tokenizer.json"]), engine


def assert_identical(engines: Engines, text: str, *, max_tokens: int = 256) -> None:
    rust, python = engines
    assert python.encode(text, max_tokens=max_tokens) == rust.encode(text, max_tokens=max_tokens)
    assert python.count(text) == rust.count(text)


@given(text=text_of_few_kinds, max_tokens=st.integers(2, 40))
def test_both_engines_give_the_same_ids_for_any_text_and_length(
    small: Engines, text: str, max_tokens: int
) -> None:
    assert_identical(small, text, max_tokens=max_tokens)


def test_both_engines_give_the_same_ids_for_every_script(small: Engines) -> None:
    for text in stress_texts(600):
        assert_identical(small, text)


def test_other_threads_run_while_the_library_works_on_a_long_text(small: Engines) -> None:
    text = "the foxes jumping, " * 7_000
    turn, ran = threading.Lock(), threading.Event()
    turn.acquire()

    def run() -> None:
        with turn:
            ran.set()

    other = threading.Thread(target=run)
    other.start()
    interval_s = sys.getswitchinterval()
    # No thread is made to let another one run: it does so by itself, or not at all.
    sys.setswitchinterval(3600)
    try:
        turn.release()
        ran_before = ran.is_set()
        for _ in range(20):
            small[0].count(text)
            if ran.is_set():
                break
        ran_meanwhile = ran.is_set()
    finally:
        sys.setswitchinterval(interval_s)
    other.join()

    assert (ran_before, ran_meanwhile) == (False, True)


def test_a_cut_text_still_ends_with_the_separator(small: Engines) -> None:
    for engine in small:
        ids = engine.encode("the fox jumping " * 50, max_tokens=9)
        assert len(ids) == 9
        assert (ids[0], ids[-1]) == (2, 3)


def test_a_special_token_inside_text_is_that_token(small: Engines) -> None:
    _, python = small
    assert python.encode("a[SEP]b", max_tokens=16)[2] == 3
    assert 3 not in python.encode("a[sep]b", max_tokens=16)[1:-1]


def test_a_word_of_over_a_hundred_characters_is_unknown(small: Engines) -> None:
    _, python = small
    assert python.count("x" * 100) == 102
    assert python.encode("x" * 101, max_tokens=16) == [2, 1, 3]


def test_the_longest_pieces_are_found_at_the_start_and_inside_of_a_word(small: Engines) -> None:
    assert small[1].count("extraordinaryextraordinarys") == 5
    assert_identical(small, "extraordinaryextraordinarys")


def test_lone_surrogates_count_for_nothing(small: Engines) -> None:
    for engine in small:
        expected = engine.encode("fox", max_tokens=16)
        assert engine.encode("f\ud83do\udfffx", max_tokens=16) == expected


def test_remembered_words_stay_bounded_and_right(small: Engines) -> None:
    rust, python = small
    for start in range(0, 60_000, 1000):
        python.count(" ".join(map(str, range(start, start + 1000))))
    assert len(python._cache) <= 20_000
    python.count("".join(map(chr, range(0x20000, 0x30000))))
    assert len(python._characters) <= 10_000
    for text in ("the foxes 123", "中가Σ\u0301"):
        assert python.encode(text, max_tokens=16) == rust.encode(text, max_tokens=16)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"pre_tokenizer": {"type": "Whitespace"}}, "not of BERT"),
        ({"model": {"vocab": {"[UNK]": 0, "a": 2}}}, "not consecutive"),
        ({"model": {"vocab": {"[UNK]": 0, "a\u0301": 1}}}, "combining"),
        ({"added_tokens": [{"content": "x", "lstrip": True}]}, "not matched literally"),
        ({"added_tokens": [{"content": "x y", "lstrip": False}]}, "not a bracketed word"),
    ],
)
def test_a_tokenizer_of_another_kind_is_refused(change: dict[str, object], reason: str) -> None:
    spec = json.loads(small_tokenizer_json())
    for part, value in change.items():
        if part == "added_tokens" and isinstance(value, list):
            spec[part] = [{**spec[part][0], **token} for token in value]
        else:
            spec[part] = {**spec[part], **value} if isinstance(value, dict) else value
    with pytest.raises(ValueError, match=reason):
        build_table(json.dumps(spec).encode())


@pytest.mark.slow
def test_the_published_tokenizer_is_matched_on_every_code_point(published: Engines) -> None:
    rust, python = published
    for start in range(0, 0x110000, 64):
        # In planes with characters also without letters beside it: alone, it may be in no piece.
        alone = start >> 16 in PLANES_WITH_CHARACTERS
        text = " ".join(
            f"a{chr(c)}b {chr(c)}{chr(c)}" if alone else f"a{chr(c)}b"
            for c in range(start, start + 64)
        )
        assert python.encode(text, max_tokens=4096) == rust.encode(text, max_tokens=4096)


@pytest.mark.slow
def test_the_published_tokenizer_is_matched_on_the_stress_set(published: Engines) -> None:
    for text in stress_texts(5000):
        assert_identical(published, text)


@pytest.mark.slow
@given(text=text_of_few_kinds, max_tokens=st.integers(2, 40))
def test_the_published_tokenizer_is_matched_on_any_text(
    published: Engines, text: str, max_tokens: int
) -> None:
    assert_identical(published, text, max_tokens=max_tokens)


@pytest.mark.slow
def test_the_table_is_small_beside_the_vocabulary(published: Engines) -> None:
    _, files = built.model("all-minilm-l6-v2")
    table = json.loads(files["wordpiece.json"])
    vocab = len(json.dumps(table["vocab"], ensure_ascii=False).encode())
    assert len(files["wordpiece.json"]) - vocab < 25_000
