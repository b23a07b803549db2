"""Lines by position: what a check accepts is found again, byte for byte."""

from __future__ import annotations

import json
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from orchestrator.batches.lines import Line, LineLost, Lines
from orchestrator.batches.validate import Rules, Validated, check
from orchestrator.errors import StorageError

URL: Final = "/v1/embeddings"
RULES: Final = Rules(URL, (URL,), max_bytes=1 << 20, max_lines=100, line_max_bytes=4096)


def line(custom_id: str, body: str = '{"a":1}') -> bytes:
    name = json.dumps(custom_id)
    return f'{{"custom_id":{name},"method":"POST","url":"{URL}","body":{body}}}'.encode()


def checked(folder: Path, content: bytes) -> tuple[Path, Path, Validated]:
    """Check a file of this content; return it, its index and what was found."""
    path, index = folder / "input.jsonl", folder / "index"
    path.write_bytes(content)
    found = check(str(path), str(index), RULES, parent=os.getppid())
    return path, index, found


def test_a_body_comes_back_byte_for_byte(tmp_path: Path) -> None:
    body = '{ "b" : 1.0e2,"a":"\\u00e9é", "n": 12345678901234567890123 ,"a":[ ] }'

    path, index, _ = checked(tmp_path, line("first") + b"\n" + line("é", body))

    with Lines(path, index) as lines:
        assert lines[1] == Line(2, "é", body.encode())


def test_positions_leave_out_blank_lines_and_numbers_count_them(tmp_path: Path) -> None:
    content = b"\xef\xbb\xbf\r\n" + line("a") + b"\r\n\n  \n \t" + line("b") + b"\n\n" + line("c")
    path, index, _ = checked(tmp_path, content)

    with Lines(path, index) as lines:
        assert len(lines) == 3
        assert [(found.number, found.custom_id) for found in lines] == [
            (2, "a"),
            (5, "b"),
            (7, "c"),
        ]


@pytest.mark.parametrize("at", [-1, 2])
def test_there_are_no_other_positions(at: int, tmp_path: Path) -> None:
    path, index, _ = checked(tmp_path, line("a") + b"\n" + line("b"))

    with Lines(path, index) as lines, pytest.raises(IndexError, match=f"position {at} of 2 lines"):
        lines[at]


def test_many_threads_read_at_once(tmp_path: Path) -> None:
    path, index, _ = checked(tmp_path, b"\n".join(line(str(n)) for n in range(100)))

    with Lines(path, index) as lines, ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda n: lines[n % 100].custom_id, range(2000)))

    assert found == [str(n % 100) for n in range(2000)]


def test_lines_are_read_on_after_their_files_are_removed(tmp_path: Path) -> None:
    path, index, _ = checked(tmp_path, line("a"))

    with Lines(path, index) as lines:
        path.unlink()
        index.unlink()
        assert lines[0].custom_id == "a"


@pytest.mark.parametrize("missing", ["input.jsonl", "index"])
def test_a_missing_file_is_a_storage_error_in_words(missing: str, tmp_path: Path) -> None:
    path, index, _ = checked(tmp_path, line("a"))
    (tmp_path / missing).unlink()

    with pytest.raises(StorageError, match="cannot be read: No such file or directory"):
        Lines(path, index)


@pytest.mark.parametrize("size_bytes", [0, 15, 17])
def test_an_index_that_is_not_whole_is_refused(size_bytes: int, tmp_path: Path) -> None:
    path, index, _ = checked(tmp_path, line("a") + b"\n" + line("b"))
    index.write_bytes(index.read_bytes()[:size_bytes])

    with pytest.raises(StorageError, match="check the file again"):
        Lines(path, index)


def test_an_input_file_that_became_shorter_is_refused(tmp_path: Path) -> None:
    path, index, _ = checked(tmp_path, line("a") + b"\n" + line("b"))
    os.truncate(path, path.stat().st_size - 1)

    with pytest.raises(StorageError, match="check the file again"):
        Lines(path, index)


def test_files_that_change_under_a_reader_are_an_error_in_words(tmp_path: Path) -> None:
    path, index, _ = checked(tmp_path, line("a") + b"\n" + line("b"))

    with Lines(path, index) as lines:
        os.truncate(path, len(line("a")))
        os.truncate(index, 16)
        assert lines[0].custom_id == "a"
        with pytest.raises(StorageError, match="check the file again"):
            lines[1]
        path.write_bytes(b"\xff" * len(line("a")))
        with pytest.raises(LineLost, match="Line 1 of the batch's input is not what it was"):
            lines[0]


def both(pair: tuple[str, bytes]) -> bytes:
    """Return a line that has the fields of two, some of them twice."""
    before, after = pair
    return before.encode()[:-1] + (b"," if len(before) > 2 else b"") + after[1:]


_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
_FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "custom_id": st.text(max_size=6) | _VALUES,
        "method": st.sampled_from(["POST", "post"]) | _VALUES,
        "url": st.just(URL) | _VALUES,
        "body": st.dictionaries(st.text(), _VALUES, max_size=3) | _VALUES,
        "more": _VALUES,
    },
)
_GOOD = st.builds(
    lambda custom_id, body, indent: json.dumps(
        {"custom_id": custom_id, "method": "Post", "url": URL, "body": body},
        ensure_ascii=indent,
    ).encode(),
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=6),
    st.dictionaries(st.text(st.characters(codec="utf-8")), _VALUES, min_size=1, max_size=3),
    st.just(True),
)
_LINES = (
    _GOOD
    | st.tuples(_FIELDS.map(json.dumps), _GOOD).map(both)
    | _FIELDS.map(lambda fields: json.dumps(fields).encode())
    | st.binary(max_size=40)
    | st.sampled_from([b"", b" ", b"\r", b"\xef\xbb\xbf", b"{}"])
)
_ENDS = st.sampled_from([b"\n", b"\r\n", b"\n\n", b" \n"])


@given(st.lists(st.tuples(_LINES, _ENDS).map(b"".join), max_size=6).map(b"".join))
def test_any_bytes_are_checked_and_nothing_is_accepted_that_was_not_asked_for(
    content: bytes,
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path, index, found = checked(Path(folder), content)
        assert bool(found.problems) != index.exists()
        if index.exists():
            with Lines(path, index) as lines:
                assert all(line.custom_id and json.loads(line.body) for line in lines)


@given(
    st.lists(
        st.tuples(_GOOD, st.sampled_from([b"\n", b"\r\n", b"\n\n\n", b" \n\t"])),
        min_size=1, max_size=6, unique_by=lambda pair: json.loads(pair[0])["custom_id"],
    ),
    st.booleans(),
)  # fmt: skip
@example([(line("a"), b"")], True)
def test_every_line_that_is_accepted_is_found_with_the_same_content(
    pairs: list[tuple[bytes, bytes]], has_bom: bool
) -> None:
    content = b"\xef\xbb\xbf" * has_bom + b"".join(text + end for text, end in pairs)
    with tempfile.TemporaryDirectory() as folder:
        path, index, found = checked(Path(folder), content)
        assert found == Validated(len(pairs), URL, ())
        with Lines(path, index) as lines:
            assert len(lines) == len(pairs)
            for got, (text, _) in zip(lines, pairs, strict=True):
                sent = json.loads(text)
                assert got.custom_id == sent["custom_id"]
                assert json.loads(got.body) == sent["body"]
                assert got.body in text
                assert content.split(b"\n")[got.number - 1].strip(b"\xef\xbb\xbf \t\r") == text
