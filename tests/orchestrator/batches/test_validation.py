"""What the check of an input file says."""

from __future__ import annotations

import json
import os
import tracemalloc
from itertools import chain
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.batches.validate import check, lines_of
from orchestrator.batches.validation import Problem, Rules, Validated

CHAT: Final = "/v1/chat/completions"
EMBEDDINGS: Final = "/v1/embeddings"
RULES: Final = Rules(
    endpoint=CHAT,
    allowed=(CHAT, EMBEDDINGS, "/v1/responses"),
    max_bytes=200 << 20,
    max_lines=50_000,
    line_max_bytes=1 << 20,
)
GOOD: Final = {"custom_id": "a", "method": "POST", "url": CHAT, "body": {"model": "m"}}


def line(**fields: object) -> bytes:
    """Return a good line with some fields replaced; a field that is given as `...` is left out."""
    merged = {**GOOD, **fields}
    return json.dumps({name: value for name, value in merged.items() if value is not ...}).encode()


def found_in(folder: Path, content: bytes, *, rules: Rules = RULES) -> Validated:
    """Check a file of this content, here and now."""
    path = folder / "input.jsonl"
    path.write_bytes(content)
    return check(str(path), str(folder / "index"), rules, parent=os.getppid())


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def messages(found: Validated) -> list[str]:
    return [problem.message for problem in found.problems]


LINES = {
    "Line 2 is not valid JSON": b'{"custom_id": "b", ',
    "Line 2 must be a JSON object": b"[1, 2]",
    "Line 2 exceeds maximum size of 1048576 bytes": line(custom_id="b", body={"a": "x" * 2**20}),
    "Line 2 is missing custom_id": line(custom_id=...),
    'Line 2 duplicates custom_id "a"': line(),
    'Line 2 method must be "POST"': line(custom_id="b", method="GET"),
    "Line 2 is missing url": line(custom_id="b", url=...),
    'Line 2 url "/v1/files" is not an allowed batch endpoint': line(custom_id="b", url="/v1/files"),
    f'Line 2 url "{EMBEDDINGS}" does not match the batch endpoint "{CHAT}"': line(
        custom_id="b", url=EMBEDDINGS
    ),
    "Line 2 is missing body": line(custom_id="b", body=...),
    "Line 2 has stream=true; streaming is not supported in batch mode": line(
        custom_id="b", body={"model": "m", "stream": True}
    ),
}


@pytest.mark.parametrize("message", LINES, ids=lambda message: message[7:40])
def test_a_bad_line_is_told_with_its_number_in_these_very_words(
    message: str, tmp_path: Path
) -> None:
    found = found_in(tmp_path, line() + b"\n" + LINES[message] + b"\n")

    assert found.problems == (Problem(message, 2),)
    assert found.total == 2
    assert not (tmp_path / "index").exists()


@pytest.mark.parametrize(
    "text",
    [
        b'"text"', b"null", b"7", b"[]",
    ],
)  # fmt: skip
def test_whatever_else_is_json_must_be_an_object(text: bytes, tmp_path: Path) -> None:
    assert messages(found_in(tmp_path, text)) == ["Line 1 must be a JSON object"]


@pytest.mark.parametrize(
    "text",
    [
        b"{", b"[1,", b"nul", b'{"a": NaN}', b"{'a': 1}", b'{"a": 1,}', b'{"a": 1} {}', b"\x0c",
        b'{"body": {"a": tru}}', b'{"body": {"a": "\\x"}}', b'{"b": "\xff"}',
        b'{"\xed\xa0\x80": 1}',
        b'{"body": {"a": [1, 2}}', b"[" * 100_000, b'{"custom_id": 5, "body": [', b"\xff[]",
        '{"a": 1}'.encode("utf-16"), b'["\xff"]',
    ],
    ids=range(18),
)  # fmt: skip
def test_what_is_no_json_anywhere_in_a_line_is_told_once(text: bytes, tmp_path: Path) -> None:
    assert messages(found_in(tmp_path, text)) == ["Line 1 is not valid JSON"]


@pytest.mark.parametrize("value", ["", None, ...])
def test_a_custom_id_and_a_url_are_not_empty(value: object, tmp_path: Path) -> None:
    found = found_in(tmp_path, line(custom_id=value) + b"\n" + line(url=value))

    assert messages(found) == ["Line 1 is missing custom_id", "Line 2 is missing url"]


@pytest.mark.parametrize("value", [5, 0, [], {}, False])
def test_a_custom_id_and_a_url_are_strings(value: object, tmp_path: Path) -> None:
    found = found_in(tmp_path, line(custom_id=value) + b"\n" + line(url=value))

    assert messages(found) == ["Line 1 custom_id must be a string", "Line 2 is missing url"]


@pytest.mark.parametrize("value", [{}, [], [1], None, "text", ...])
def test_a_body_is_an_object_that_is_not_empty(value: object, tmp_path: Path) -> None:
    assert messages(found_in(tmp_path, line(body=value))) == ["Line 1 is missing body"]


def test_an_empty_body_with_blanks_in_it_is_empty(tmp_path: Path) -> None:
    found = found_in(tmp_path, line(body="X").replace(b'"X"', b"{ \t}"))

    assert messages(found) == ["Line 1 is missing body"]


@pytest.mark.parametrize("value", [None, 1, "", "PUT", ["POST"], ...])
def test_a_method_is_post(value: object, tmp_path: Path) -> None:
    assert messages(found_in(tmp_path, line(method=value))) == ['Line 1 method must be "POST"']


def test_the_letter_case_of_a_method_does_not_matter(tmp_path: Path) -> None:
    assert messages(found_in(tmp_path, line(method="pOsT"))) == []


@pytest.mark.parametrize("value", [b"false", b"null", b'"true"', b'{"stream": true}'])
def test_a_stream_that_is_not_true_is_for_the_endpoint_to_judge(
    value: bytes, tmp_path: Path
) -> None:
    body = line(body="X").replace(b'"X"', b'{"stream": ' + value + b"}")

    assert messages(found_in(tmp_path, body)) == []


def test_stream_is_seen_however_it_is_spelt(tmp_path: Path) -> None:
    found = found_in(tmp_path, line(body="X").replace(b'"X"', b'{"str\\u0065am" : true }'))

    assert messages(found) == [
        "Line 1 has stream=true; streaming is not supported in batch mode",
    ]


def test_a_custom_id_is_the_same_however_it_is_spelt(tmp_path: Path) -> None:
    content = line(custom_id="é") + b"\n" + line(custom_id="X").replace(b"X", "é".encode())

    assert messages(found_in(tmp_path, content)) == ['Line 2 duplicates custom_id "é"']


def test_all_problems_of_a_line_and_of_a_file_are_listed_in_their_order(tmp_path: Path) -> None:
    bad = line(custom_id="", method=..., url="/v1/nothing", body={"stream": True})
    content = b"\n".join([bad, line(), line(custom_id="b", url=EMBEDDINGS, body={}), b"x"])

    assert found_in(tmp_path, content).problems == (
        Problem("Line 1 is missing custom_id", 1),
        Problem('Line 1 method must be "POST"', 1),
        Problem('Line 1 url "/v1/nothing" is not an allowed batch endpoint', 1),
        Problem("Line 1 has stream=true; streaming is not supported in batch mode", 1),
        Problem("Line 3 is missing body", 3),
        Problem(f'Line 3 url "{EMBEDDINGS}" does not match the batch endpoint "{CHAT}"', 3),
        Problem("Line 4 is not valid JSON", 4),
    )


@pytest.mark.parametrize(("bad", "last"), [(101, "1 more problem"), (350, "250 more problems")])
def test_after_a_hundred_problems_the_others_are_counted(
    bad: int, last: str, tmp_path: Path
) -> None:
    found = found_in(tmp_path, b"x\n" * bad)

    assert messages(found)[:100] == [f"Line {n} is not valid JSON" for n in range(1, 101)]
    assert found.problems[100:] == (Problem(f"Input file has {last}; the first 100 are listed"),)


def test_a_hundred_problems_are_all(tmp_path: Path) -> None:
    assert len(found_in(tmp_path, b"x\n" * 100).problems) == 100


def test_when_all_lines_agree_on_another_url_the_request_is_wrong_once(tmp_path: Path) -> None:
    lines = [line(custom_id=str(n), url=EMBEDDINGS) for n in range(150)]

    found = found_in(tmp_path, b"\n".join([*lines, b"x"]))

    assert found.url == EMBEDDINGS
    assert found.problems == (
        Problem(
            f'endpoint "{CHAT}" does not match the url "{EMBEDDINGS}" used by the input file',
            param="endpoint",
        ),
        Problem("Line 151 is not valid JSON", 151),
    )


def test_lines_that_disagree_have_no_url(tmp_path: Path) -> None:
    found = found_in(tmp_path, line(url="/v1/responses") + b"\n" + line(custom_id="b", url=CHAT))

    assert found.url is None
    assert messages(found) == [
        f'Line 1 url "/v1/responses" does not match the batch endpoint "{CHAT}"'
    ]


def test_no_more_than_64_characters_of_a_customer_are_quoted(tmp_path: Path) -> None:
    long = "é" * 65
    content = b"\n".join([line(custom_id=long), line(custom_id=long, url=long)])

    assert messages(found_in(tmp_path, content)) == [
        f'Line 2 duplicates custom_id "{"é" * 64}…"',
        f'Line 2 url "{"é" * 64}…" is not an allowed batch endpoint',
    ]


@pytest.mark.parametrize("content", [b"", b"\n", b"\r\n \t\r\n\n", b"\xef\xbb\xbf", b"  "])
def test_a_file_of_nothing_has_no_lines(content: bytes, tmp_path: Path) -> None:
    found = found_in(tmp_path, content)

    assert found == Validated(0, None, (Problem("Input file contains no JSONL lines"),))


def test_a_file_of_too_many_bytes_is_not_read(tmp_path: Path) -> None:
    rules = Rules(CHAT, (CHAT,), max_bytes=9, max_lines=5, line_max_bytes=64)

    assert found_in(tmp_path, b"x" * 10, rules=rules) == Validated(
        0, None, (Problem("Input file exceeds maximum size of 9 bytes"),)
    )
    assert messages(found_in(tmp_path, b"x" * 9, rules=rules)) == ["Line 1 is not valid JSON"]


def test_a_file_of_too_many_lines_is_read_no_further(tmp_path: Path) -> None:
    rules = Rules(CHAT, (CHAT,), max_bytes=1000, max_lines=2, line_max_bytes=200)
    lines = [line(custom_id="a"), b"", b"x", b"y", b"z"]

    assert messages(found_in(tmp_path, b"\n".join(lines), rules=rules)) == [
        "Input file exceeds maximum of 2 lines",
        "Line 3 is not valid JSON",
    ]
    assert messages(found_in(tmp_path, b"\n".join(lines[:3]), rules=rules)) == [
        "Line 3 is not valid JSON"
    ]


def test_a_bom_crlf_blank_lines_and_a_missing_last_line_feed_are_no_problem(
    tmp_path: Path,
) -> None:
    content = b"\xef\xbb\xbf" + line() + b"\r\n\r\n \t\n  " + line(custom_id="b") + b"\r"

    assert found_in(tmp_path, content) == Validated(2, CHAT, ())
    assert (tmp_path / "index").stat().st_size == 2 * 16


def test_a_bom_further_on_is_no_json(tmp_path: Path) -> None:
    found = found_in(tmp_path, line() + b"\n\xef\xbb\xbf" + line(custom_id="b"))

    assert messages(found) == ["Line 2 is not valid JSON"]


def test_blank_lines_count_in_the_numbers_of_lines(tmp_path: Path) -> None:
    found = found_in(tmp_path, b"\n\n" + line() + b"\n" * 600_000 + b"x\n")

    assert messages(found) == ["Line 600003 is not valid JSON"]
    assert found.total == 2


def test_a_line_may_have_exactly_the_most_bytes(tmp_path: Path) -> None:
    size = len(line())
    rules = Rules(CHAT, (CHAT,), max_bytes=1000, max_lines=9, line_max_bytes=size)
    longer = line(custom_id="bb")

    found = found_in(tmp_path, b"  " + line() + b"\r\n" + longer + b"\n" + longer, rules=rules)

    assert messages(found) == [f"Line {n} exceeds maximum size of {size} bytes" for n in (2, 3)]


@pytest.mark.parametrize("end", [b"", b"\n" + line()])
def test_of_a_line_that_is_far_too_long_little_is_held(end: bytes) -> None:
    blocks = chain([line(custom_id="first") + b"\n{"], (b"x" * 1000 for _ in range(5000)), [end])

    tracemalloc.start()
    try:
        lines = lines_of(lambda: next(blocks, b""), line_max_bytes=4096)
        found = [(number, json is None) for number, _, json in lines]
        most_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert found == [(1, False), (2, True), (3, False)][: 2 + bool(end)]
    assert most_bytes < 100_000


_PIECES = st.one_of(
    st.binary(max_size=12),
    st.sampled_from(
        [
            b"\n",
            b"\r\n",
            b" ",
            b"\t",
            b"\xef\xbb\xbf",
            b"{}",
            line(),
            line(custom_id="b"),
            b"x" * 90,
        ]
    ),
)


@given(st.lists(_PIECES, max_size=12).map(b"".join), st.integers(1, 40))
def test_lines_are_the_same_whatever_the_blocks_they_are_read_in(content: bytes, size: int) -> None:
    blocks = [content[at : at + size] for at in range(0, len(content), size)]
    read = iter(blocks)

    found = list(lines_of(lambda: next(read, b""), line_max_bytes=80))

    bom = 3 if content.startswith(b"\xef\xbb\xbf") and size >= 3 else 0
    expected: list[tuple[int, bytes | None]] = []
    for number, text in enumerate(content[bom:].split(b"\n"), 1):
        if text.strip(b" \t\r"):
            json_text = text.lstrip(b" \t\r").removesuffix(b"\r")
            expected.append((number, json_text if len(json_text) <= 80 else None))
    assert [(number, json_text) for number, _, json_text in found] == expected
    for _, offset, whole in found:
        assert whole is None or content[offset : offset + len(whole)] == whole
