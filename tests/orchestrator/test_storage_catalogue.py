"""The catalogue of a build, and how it measures texts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from browser_node.protocol import MAX_INPUT_CHARS
from browser_node.tokenizer import RustTokenizer
from orchestrator.errors import CatalogueError
from orchestrator.storage.catalogue import Catalogue, load_catalogue, load_manifests, read_file
from orchestrator.storage.token_counter import Limit, Measured, TokenCounter
from tests.orchestrator.fakes import (
    EMBEDDINGS,
    IAB,
    IAB_ALIAS,
    SUMMARY,
    tiny_tokenizer,
    tiny_wordpiece,
    write_build,
)

RUST = RustTokenizer(tiny_tokenizer())
WHOLE = Limit(max_tokens=1_000_000, cuts=False)
CUT_TO_16 = Limit(max_tokens=16, cuts=True)
PRINTABLE = st.text(st.characters(min_codepoint=32, max_codepoint=126))


@pytest.fixture(scope="module")
def counter() -> Iterator[TokenCounter]:
    made = TokenCounter(tokenizer_json=tiny_tokenizer(), wordpiece_json=tiny_wordpiece())
    yield made
    made.close()


@pytest.fixture
def build_dir(tmp_path: Path) -> Path:
    return write_build(tmp_path / "build")


@pytest.fixture
def catalogue(build_dir: Path) -> Iterator[Catalogue]:
    made = load_catalogue(build_dir)
    yield made
    made.close()


def test_models_are_found_by_id_and_by_alias(catalogue: Catalogue) -> None:
    model = catalogue.find(IAB)

    assert model is not None
    assert catalogue.find(IAB_ALIAS) is model
    assert catalogue.find("gpt-4") is None
    assert catalogue.names == sorted([EMBEDDINGS, IAB, IAB_ALIAS, SUMMARY])
    assert {manifest.id for manifest in catalogue.manifests.values()} == {EMBEDDINGS, IAB, SUMMARY}


def test_models_of_one_vocabulary_share_its_counter(catalogue: Catalogue) -> None:
    assert len({id(model.counter) for model in catalogue.models}) == 1


def test_a_missing_build_is_answered_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(CatalogueError, match=r"nothing has been built yet.*wasm_build"):
        load_catalogue(tmp_path)


def test_a_changed_manifest_or_part_is_not_used(build_dir: Path) -> None:
    [digest, *_] = load_manifests(build_dir)
    manifest = load_manifests(build_dir)[digest]
    part = build_dir / "models" / "parts" / manifest.file("tokenizer.json").parts[0].sha256
    part.write_bytes(part.read_bytes() + b" ")
    with pytest.raises(CatalogueError, match="vocabulary"):
        load_catalogue(build_dir)

    path = build_dir / "models" / "manifests" / f"{digest}.json"
    path.write_bytes(path.read_bytes().replace(b"Apache", b"Apathy"))
    with pytest.raises(CatalogueError, match="manifest of"):
        load_manifests(build_dir)


def test_an_index_that_does_not_parse_is_named(build_dir: Path) -> None:
    (build_dir / "index.json").write_text(json.dumps({"models": "none"}))

    with pytest.raises(CatalogueError, match=r"index\.json cannot be read"):
        load_catalogue(build_dir)


def test_a_file_is_put_together_from_its_parts(build_dir: Path) -> None:
    manifest = next(iter(load_manifests(build_dir).values()))

    assert read_file(build_dir, manifest, "tokenizer.json") == tiny_tokenizer()


@given(PRINTABLE)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_short_texts_are_counted_as_the_library_counts_them(
    counter: TokenCounter, text: str
) -> None:
    assert counter.measure_now([text], WHOLE) == [Measured(text, RUST.count(text))]


@pytest.mark.parametrize(
    "text", ['{"a":[1.25,"cat"]}', "[CLS] the [MASK]cat[SEP]", "", "the cats sat, on a mat!"]
)
async def test_what_a_model_wrote_is_counted_without_the_special_tokens(
    counter: TokenCounter, text: str
) -> None:
    assert await counter.count_output(text) == RUST.count(text) - 2


async def test_long_output_is_counted_in_a_thread_alike(counter: TokenCounter) -> None:
    text = '{"name":"cat","score":0.125},' * 500

    assert await counter.count_output(text) == RUST.count(text) - 2


async def test_long_texts_are_left_to_a_thread(counter: TokenCounter) -> None:
    texts = ["the cat sat " * 100, "a dog " * 200]

    assert counter.measure_now(texts, WHOLE) is None
    measured = await counter.measure_in_thread(texts, WHOLE)
    assert [one.tokens for one in measured] == [302, 402]


WORDS = st.sampled_from(["cat", "dogs", "z9", "[SEP]", "x" * 120, "", "a-b"])


@given(st.lists(WORDS, max_size=60))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_a_cut_text_is_read_by_the_node_as_the_whole_would_be(
    counter: TokenCounter, words: list[str]
) -> None:
    text = " ".join(words)[:1999]
    [measured] = counter.measure_now([text], CUT_TO_16) or []

    assert measured.tokens == min(RUST.count(text), 16)
    assert RUST.encode(measured.text, max_tokens=16) == RUST.encode(text, max_tokens=16)


async def test_no_text_is_longer_than_a_frame_may_carry(counter: TokenCounter) -> None:
    [blank] = await counter.measure_in_thread([" " * 300_000 + "cat"], CUT_TO_16)
    [solid] = await counter.measure_in_thread(["x" * 300_000], CUT_TO_16)

    assert len(blank.text) <= MAX_INPUT_CHARS
    assert len(solid.text) <= MAX_INPUT_CHARS
    assert (blank.tokens, solid.tokens) == (2, 3)


BUILD_DIR = Path(__file__).resolve().parents[2] / "build"


@pytest.fixture(scope="module")
def real() -> Iterator[tuple[TokenCounter, RustTokenizer]]:
    """The counter of the built models, and the published tokenizer to hold it to."""
    manifest = next(iter(load_manifests(BUILD_DIR).values()))
    tokenizer, wordpiece = (
        read_file(BUILD_DIR, manifest, name) for name in ("tokenizer.json", "wordpiece.json")
    )
    counter = TokenCounter(tokenizer_json=tokenizer, wordpiece_json=wordpiece)
    yield counter, RustTokenizer(tokenizer)
    counter.close()


@pytest.mark.slow
@given(text=st.text(max_size=300))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_the_real_vocabulary_counts_any_text_alike(
    real: tuple[TokenCounter, RustTokenizer], text: str
) -> None:
    counter, published = real
    expected = published.count(text)

    assert counter.measure_now([text], WHOLE) == [Measured(text, expected)]
    assert asyncio.run(counter.count_output(text)) == expected - 2


@pytest.mark.slow
@given(answer=st.dictionaries(st.text(max_size=20), st.text(max_size=20) | st.floats(0, 1)))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_the_real_vocabulary_counts_any_compact_json_alike(
    real: tuple[TokenCounter, RustTokenizer], answer: dict[str, str | float]
) -> None:
    counter, published = real
    text = json.dumps(answer, separators=(",", ":"), ensure_ascii=False)

    assert asyncio.run(counter.count_output(text)) == published.count(text) - 2
