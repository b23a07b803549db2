"""Checks the input file of a batch in one pass: what the server starts as a process of its own.

    python -P orchestrator/batches/validate.py INPUT INDEX RULES PARENT

RULES is a `Rules` as JSON, PARENT the pid of the starter. What was found comes to standard output
as the JSON of a `Validated`. A file without problems leaves INDEX: a record for each line that is
not blank, in the order of the file, each of 16 bytes, little-endian (`RECORD`):

    offset  u64  where the line's JSON begins, in bytes from the start of the file
    length  u32  bytes up to its end, without CR and LF
    number  u32  of the line, the first being 1, blank lines counted

The process has only to begin quickly, so it imports next to nothing, and of this package nothing.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from hashlib import blake2b
from struct import Struct
from typing import Final

import msgspec

RECORD: Final = Struct("<QII")
PARTIAL_SUFFIX: Final = ".partial"
PROBLEMS_MAX: Final = 100
QUOTED_MAX_CHARACTERS: Final = 64
# A busy server keeps three quarters of the core it shares with a check; ten would starve the check.
_NICE: Final = 5
# Half of Python's own limit on nesting: who reads an accepted line again may stand deeper in calls.
_DEPTH_MAX: Final = 500
_BLOCK_BYTES: Final = 256 << 10
_BOM: Final = b"\xef\xbb\xbf"
_BLANKS: Final = b" \t\r"
_BLANK_LINES: Final = re.compile(rb"[ \t\r\n]*\n")
_EMPTY_OBJECT: Final = re.compile(rb"\{[ \t\r\n]*\}")
# What is no custom_id, whichever way it is left out.
_NOTHING: Final = frozenset({b"", b"null", b'""'})
_TRUE: Final = msgspec.Raw(b"true")


class Rules(msgspec.Struct, frozen=True):
    """What an input file must keep to; ``endpoint`` is the batch's, ``allowed`` are all routes.

    A line's bytes are those of its JSON, without the blanks before it and its end.
    """

    endpoint: str
    allowed: tuple[str, ...]
    max_bytes: int
    max_lines: int
    line_max_bytes: int


class Problem(msgspec.Struct, frozen=True):
    """One reason to refuse the file; ``line`` is where, if it is about a line, from 1."""

    message: str
    line: int | None = None
    param: str | None = None


class Validated(msgspec.Struct, frozen=True):
    """What a check has found: the file is good, and has an index, where there are no problems.

    ``total`` counts the lines that are not blank, as far as the file was read. ``url`` is what
    all lines that name an allowed one agree on. Problems of the whole file come first, then those
    of lines in their order, at most `PROBLEMS_MAX`, then a sentence that counts the others.
    """

    total: int
    url: str | None
    problems: tuple[Problem, ...]


class _Fields(msgspec.Struct):
    """A line's fields as they stand there; empty where there is none."""

    custom_id: msgspec.Raw = msgspec.Raw()
    method: msgspec.Raw = msgspec.Raw()
    url: msgspec.Raw = msgspec.Raw()
    body: msgspec.Raw = msgspec.Raw()


class _Body(msgspec.Struct):
    stream: msgspec.Raw = msgspec.Raw()


_decode_fields: Final = msgspec.json.Decoder(_Fields).decode
_decode_any: Final = msgspec.json.Decoder(msgspec.Raw).decode
_decode_text: Final = msgspec.json.Decoder(str).decode
_decode_body: Final = msgspec.json.Decoder(_Body).decode


def lines_of(
    read: Callable[[], bytes], *, line_max_bytes: int
) -> Iterator[tuple[int, int, bytes | None]]:
    """Yield (number, offset, JSON) of each line that is not blank; None for one that is too long.

    ``read`` returns the file's next bytes, none at its end. Of a line that is too long, no more
    than ``line_max_bytes`` and a block are held.
    """
    number, offset, held = 1, 0, b""
    too_long = False  # the line that ``held`` goes on with, whose beginning was let go
    first = True
    while block := read():
        held += block
        if first and held.startswith(_BOM):
            offset, held = len(_BOM), held[len(_BOM) :]
        first = False
        start = 0
        while True:
            # Blank lines in one go: a file can have as many of them as bytes.
            if not too_long and (blank := _BLANK_LINES.match(held, start)):
                number += held.count(b"\n", start, blank.end())
                start = blank.end()
            end = held.find(b"\n", start)
            if end < 0:
                break
            line = held[start:end]
            json = line.lstrip(_BLANKS)
            at = offset + start + len(line) - len(json)
            json = json.removesuffix(b"\r")
            yield number, at, None if too_long or len(json) > line_max_bytes else json
            too_long = False
            number += 1
            start = end + 1
        offset += start
        line = held[start:]
        held = line.lstrip(_BLANKS)
        offset += len(line) - len(held)
        if too_long or len(held) > line_max_bytes + 1:  # more than the JSON and a CR
            too_long = True
            offset += len(held)
            held = b""
    if held or too_long:
        json = held.removesuffix(b"\r")
        yield number, offset, None if too_long or len(json) > line_max_bytes else json


class Check:
    """What is known of a file so far: lines go in by `add`, the verdict comes from `end`."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._problems: list[Problem] = []
        # Of lines whose url is allowed, but is not the batch's. If it proves to be the url of all
        # lines, the mistake is in the request, and is told once.
        self._mismatches: list[Problem] = []
        self._found = 0
        self._mismatched = 0
        self._urls: set[str] = set()
        # Digests: the ids of a file may be as long as the file.
        self._custom_ids: set[bytes] = set()
        self._total = 0

    @property
    def is_good(self) -> bool:
        return not self._found and not self._mismatched

    def add(self, number: int, line: bytes | None) -> bool:
        """Take the next line, None if it is too long; return whether there may be more lines."""
        self._total += 1
        if self._total > self._rules.max_lines:
            return False
        if line is None:
            self._tell(number, f"exceeds maximum size of {self._rules.line_max_bytes} bytes")
            return True
        try:
            if not line.isascii():
                line.decode()  # what is only skipped over may be anything to msgspec
            fields = _decode_fields(line)
        except msgspec.ValidationError:
            self._tell(number, "must be a JSON object" if _is_json(line) else "is not valid JSON")
        except (msgspec.DecodeError, UnicodeDecodeError):
            self._tell(number, "is not valid JSON")
        except RecursionError:
            self._tell(number, "nests arrays and objects too deeply")
        else:
            self._add_custom_id(number, fields.custom_id)
            if _text(fields.method).upper() != "POST":
                self._tell(number, 'method must be "POST"')
            self._add_url(number, _text(fields.url))
            self._add_body(number, fields.body)
        return True

    def end(self) -> Validated:
        """Return the verdict on the lines that were added."""
        rules = self._rules
        whole: list[Problem] = []
        if self._total == 0:
            whole.append(Problem("Input file contains no JSONL lines"))
        if self._total > rules.max_lines:
            whole.append(Problem(f"Input file exceeds maximum of {rules.max_lines} lines"))
        url = self._urls.copy().pop() if len(self._urls) == 1 else None
        if url is not None and url != rules.endpoint:
            self._mismatches.clear()
            self._mismatched = 0
            asked = f'endpoint "{_quoted(rules.endpoint)}"'
            message = f'{asked} does not match the url "{url}" used by the input file'
            whole.append(Problem(message, param="endpoint"))
        # Each is sorted already, and a line's problems stay in the order they were found.
        lines = sorted(self._problems + self._mismatches, key=lambda problem: problem.line or 0)
        listed = (whole + lines)[:PROBLEMS_MAX]
        more = len(whole) + self._found + self._mismatched - len(listed)
        if more:
            others = "1 more problem" if more == 1 else f"{more} more problems"
            rest = f"Input file has {others}; the first {PROBLEMS_MAX} are listed"
            listed.append(Problem(rest))
        return Validated(self._total, url, tuple(listed))

    def _tell(self, number: int, what: str) -> None:
        self._found += 1
        if len(self._problems) < PROBLEMS_MAX:
            self._problems.append(Problem(f"Line {number} {what}", number))

    def _add_custom_id(self, number: int, field: msgspec.Raw) -> None:
        custom_id = _text(field)
        if not custom_id:
            is_there = bytes(field) not in _NOTHING
            return self._tell(
                number, "custom_id must be a string" if is_there else "is missing custom_id"
            )
        digest = blake2b(custom_id.encode(), digest_size=16).digest()
        if digest in self._custom_ids:
            return self._tell(number, f'duplicates custom_id "{_quoted(custom_id)}"')
        return self._custom_ids.add(digest)

    def _add_url(self, number: int, url: str) -> None:
        if not url:
            return self._tell(number, "is missing url")
        if url not in self._rules.allowed:
            return self._tell(number, f'url "{_quoted(url)}" is not an allowed batch endpoint')
        self._urls.add(url)
        if url == self._rules.endpoint:
            return None
        self._mismatched += 1
        if len(self._mismatches) < PROBLEMS_MAX:
            asked = _quoted(self._rules.endpoint)
            message = f'Line {number} url "{url}" does not match the batch endpoint "{asked}"'
            self._mismatches.append(Problem(message, number))
        return None

    def _add_body(self, number: int, body: msgspec.Raw) -> None:
        try:
            stream = _decode_body(body).stream
        except msgspec.DecodeError:  # not an object, or not there
            return self._tell(number, "is missing body")
        if _EMPTY_OBJECT.fullmatch(body):
            return self._tell(number, "is missing body")
        if stream == _TRUE:
            self._tell(number, "has stream=true; streaming is not supported in batch mode")
        return None


def _is_json(line: bytes) -> bool:
    try:
        _decode_any(line)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True


def _text(field: msgspec.Raw) -> str:
    """Return the string; empty where the field is something else, or is not there."""
    try:
        return _decode_text(field)
    except msgspec.DecodeError:
        return ""


def _quoted(text: str) -> str:
    return text if len(text) <= QUOTED_MAX_CHARACTERS else f"{text[:QUOTED_MAX_CHARACTERS]}…"


def check(path: str, index: str, rules: Rules, *, parent: int) -> Validated:
    """Check a file and leave its index, whole or not at all; ends the process without a parent."""

    def read() -> bytes:
        if os.getppid() != parent:
            raise SystemExit("The server that asked for this check is gone.")
        return file.read(_BLOCK_BYTES)

    with open(path, "rb", buffering=0) as file:
        if os.fstat(file.fileno()).st_size > rules.max_bytes:
            most = f"Input file exceeds maximum size of {rules.max_bytes} bytes"
            return Validated(0, None, (Problem(most),))
        partial = index + PARTIAL_SUFFIX
        with open(partial, "wb") as records:
            checked = Check(rules)
            for number, offset, line in lines_of(read, line_max_bytes=rules.line_max_bytes):
                if not checked.add(number, line):
                    break
                if line is not None and checked.is_good:
                    records.write(RECORD.pack(offset, len(line), number))
            found = checked.end()
            if not found.problems:
                records.flush()
                os.fsync(records.fileno())
    if found.problems:
        os.unlink(partial)
    else:
        os.replace(partial, index)
    return found


def main(path: str, index: str, rules: str, parent: str) -> None:
    os.nice(_NICE)
    sys.setrecursionlimit(_DEPTH_MAX)
    found = check(path, index, msgspec.json.decode(rules, type=Rules), parent=int(parent))
    sys.stdout.buffer.write(msgspec.json.encode(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
