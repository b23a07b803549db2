"""The frames: golden bytes, limits, and what hostile bytes may do."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import msgpack
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from browser_node import protocol as p
from tests.browser_node.frames import (
    DIGEST,
    EXAMPLES,
    NODE_FRAMES,
    ORCHESTRATOR_FRAMES,
    decode,
    frames,
)

GOLDEN = Path(__file__).parent / "golden"
ANY_FRAME = frames(NODE_FRAMES + ORCHESTRATOR_FRAMES)
BYTES_OR_TRUNCATED_FRAMES = st.one_of(
    st.binary(max_size=2000),
    st.builds(lambda frame, end: p.encode(frame)[:end], ANY_FRAME, st.integers(0, 400)),
)
PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=20)
    | st.binary(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=12), inner, max_size=5)
    ),
    max_leaves=20,
)


# ── golden files ─────────────────────────────────────────────────────────────────────────────────


def test_there_is_one_golden_file_for_every_frame_and_no_other() -> None:
    kinds = {kind.__struct_config__.tag for kind in NODE_FRAMES + ORCHESTRATOR_FRAMES}
    assert {path.stem for path in GOLDEN.glob("*.hex")} == kinds == set(EXAMPLES)


@pytest.mark.parametrize("tag", EXAMPLES)
def test_a_frame_has_the_bytes_it_had_when_protocol_1_was_fixed(tag: str) -> None:
    golden = bytes.fromhex((GOLDEN / f"{tag}.hex").read_text())

    assert p.encode(EXAMPLES[tag]) == golden
    assert decode(golden, type(EXAMPLES[tag])) == EXAMPLES[tag]


def test_a_result_without_its_evidence_has_a_commitment_behind_the_bytes_of_one_with_it() -> None:
    [item] = EXAMPLES["results"].items  # type: ignore[attr-defined]
    bare = msgspec.structs.replace(item, evidence=b"", commitment=bytes(range(32)))
    frame = p.Results(items=(bare,))
    golden = bytes.fromhex((GOLDEN / "results.hex").read_text())
    without = golden.replace(b"\xa8evidence\xc4\x04" + bytes(4), b"")

    said = b"\xaacommitment\xc4\x20" + bytes(range(32))
    assert p.encode(frame) == without + said
    assert p.decode_from_node(p.encode(frame)) == frame


def test_a_commitment_is_the_sha_256_of_the_evidence_and_nothing_of_none() -> None:
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"

    assert p.commitment_to(b"abc").hex() == digest
    assert p.commitment_to(b"") == b""


def test_an_item_that_streams_says_so_behind_the_bytes_of_one_that_does_not() -> None:
    [item] = EXAMPLES["jobs"].items  # type: ignore[attr-defined]
    streamed = p.Jobs(items=(msgspec.structs.replace(item, stream=True),))
    golden = bytearray.fromhex((GOLDEN / "jobs.hex").read_text())
    golden[golden.index(b"items") + 6] += 1  # the item's map has one entry more

    assert p.encode(streamed) == golden + bytes.fromhex("a6 73747265616d c3")
    assert p.decode_from_orchestrator(p.encode(streamed)) == streamed


def test_an_item_for_the_background_says_so_behind_the_bytes_of_one_that_is_not() -> None:
    [item] = EXAMPLES["jobs"].items  # type: ignore[attr-defined]
    waiting = p.Jobs(items=(msgspec.structs.replace(item, background=True),))
    golden = bytearray.fromhex((GOLDEN / "jobs.hex").read_text())
    golden[golden.index(b"items") + 6] += 1  # the item's map has one entry more

    assert p.encode(waiting) == golden + bytes.fromhex("aa 6261636b67726f756e64 c3")
    assert p.decode_from_orchestrator(p.encode(waiting)) == waiting


@pytest.mark.parametrize("tag", EXAMPLES)
def test_the_msgpack_library_reads_every_frame_as_one_tagged_map(tag: str) -> None:
    read = msgpack.unpackb(p.encode(EXAMPLES[tag]), strict_map_key=True)

    assert read["type"] == tag
    assert set(read) == {"type", *EXAMPLES[tag].__struct_fields__}


# ── laws ─────────────────────────────────────────────────────────────────────────────────────────


@given(frame=ANY_FRAME)
def test_decoding_what_was_encoded_returns_the_frame(frame: p.Frame) -> None:
    assert decode(p.encode(frame), type(frame)) == frame


@given(frame=frames((p.Jobs,)))
def test_jobs_have_the_same_bytes_whichever_library_wrote_them(frame: p.Frame) -> None:
    assert isinstance(frame, p.Jobs)

    assert p.encode_jobs(frame) == p.encode(frame)


@given(data=BYTES_OR_TRUNCATED_FRAMES)
@settings(max_examples=400)
def test_any_bytes_raise_only_protocol_errors(data: bytes) -> None:
    for read in (p.decode_from_node, p.decode_from_orchestrator):
        try:
            frame = read(data)
        except p.ProtocolError:
            continue
        assert isinstance(frame, p.Frame)


@given(tag=st.sampled_from(sorted(EXAMPLES)), fields=st.dictionaries(st.text(max_size=12), PLAIN))
def test_any_map_with_a_known_tag_raises_only_protocol_errors(
    tag: str, fields: dict[str, object]
) -> None:
    known = dict(zip(EXAMPLES[tag].__struct_fields__, fields.values(), strict=False))
    data = msgpack.packb({"type": tag, **fields, **known})
    for read in (p.decode_from_node, p.decode_from_orchestrator):
        try:
            read(data)
        except p.ProtocolError:
            continue


# ── what is refused ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("tag", EXAMPLES)
def test_a_frame_is_taken_only_from_the_side_that_may_send_it(tag: str) -> None:
    wrong_side = (
        p.decode_from_orchestrator if type(EXAMPLES[tag]) in NODE_FRAMES else p.decode_from_node
    )
    with pytest.raises(p.ProtocolError):
        wrong_side(p.encode(EXAMPLES[tag]))


@pytest.mark.parametrize("tag", EXAMPLES)
def test_an_unknown_field_is_refused(tag: str) -> None:
    read = msgpack.unpackb(p.encode(EXAMPLES[tag]))
    with pytest.raises(p.ProtocolError, match="unknown field"):
        decode(msgpack.packb({**read, "surprise": 1}), type(EXAMPLES[tag]))


@pytest.mark.parametrize(
    ("frame", "field", "value"),
    [
        ("pong", "busy_s", float("nan")),
        ("pong", "busy_s", float("inf")),
        ("pong", "busy_s", -1.0),
        ("pong", "n", -1),
        ("capacity", "state", "asleep"),
        ("capacity", "slots", 257),
        ("capacity", "reason", "x" * 201),
        ("unload", "digest", DIGEST.upper()),
        ("unload", "digest", DIGEST[:-1]),
        ("jobs", "items", []),
        ("cancel", "attempt_ids", [""]),
        ("hello", "signature", "bm90IGJ5dGVz"),
        ("delta", "text", ""),
        ("delta", "text", "x" * 16_385),
        ("delta", "seq", -1),
        ("hello", "versions", []),
        ("hello", "versions", ["1"]),
        ("welcome", "node_id", b"node"),
    ],
)
def test_a_value_outside_its_limits_is_refused(frame: str, field: str, value: object) -> None:
    read = msgpack.unpackb(p.encode(EXAMPLES[frame]))
    with pytest.raises(p.ProtocolError) as refusal:
        decode(msgpack.packb({**read, field: value}), type(EXAMPLES[frame]))

    assert refusal.value.close_code == p.CloseCode.BAD_FRAME


def test_an_oversized_frame_is_refused_unread_with_its_own_close_code() -> None:
    with pytest.raises(p.ProtocolError) as refusal:
        p.decode_from_node(b"\xc1" * 20_000, limit_bytes=p.MAX_FRAME_BYTES_BEFORE_WELCOME)

    assert refusal.value.close_code == p.CloseCode.TOO_BIG


def test_a_frame_too_big_to_send_is_refused_at_the_sender() -> None:
    result = p.Result(attempt_id="a", output=bytes(p.MAX_FRAME_BYTES), compute_s=0.0)
    with pytest.raises(p.ProtocolError) as refusal:
        p.encode(p.Results(items=(result,)))

    assert refusal.value.close_code == p.CloseCode.TOO_BIG


HOSTILE = {
    "a megabyte of empty maps": b"\xdd\x00\x0f\xff\xf0" + b"\x80" * 0xFFFF0,
    "empty arrays where items belong": msgpack.packb({"type": "results", "items": []})[:-1]
    + b"\xdd\x00\x0f\xff\x00"
    + b"\x90" * 0xFFF00,
    "deep nesting": b"\x91" * 0xFFFFF,
    "nested maps": b"\x81\xa1a" * 0x50000,
    "a promised gigabyte": b"\xc6\x3f\xff\xff\xff" + b"x" * 100,
    "a promised billion items": b"\xdd\x3f\xff\xff\xff" + b"\x01" * 1000,
    "many small keys": b"\xdf\x00\x05\x00\x00" + b"\xa1k\xc0" * 0x50000,
    "tiny results": msgpack.packb({"type": "results"})[:1].replace(b"\x81", b"\x82")
    + msgpack.packb("type")
    + msgpack.packb("results")
    + msgpack.packb("items")
    + b"\xdd\x00\x01\x00\x00"
    + msgpack.packb({"attempt_id": "a", "output": b"", "compute_s": 0}) * 0x7000,
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_megabyte_costs_little_memory(kind: str) -> None:
    data = HOSTILE[kind]
    assert len(data) <= p.MAX_FRAME_BYTES
    tracemalloc.start()
    try:
        for read in (p.decode_from_node, p.decode_from_orchestrator):
            with pytest.raises(p.ProtocolError):
                read(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 12 * p.MAX_FRAME_BYTES


def test_the_signed_message_binds_version_nonce_and_origin() -> None:
    message = p.signed_message(nonce="n", origin="https://example.org")

    assert message == b"zerogpu node\n1\nn\nhttps://example.org"
