"""Text to WordPiece ids, by two engines with identical results: the Rust library and pure Python.

The pure-Python engine runs in every runtime (there is no build of `tokenizers` for Pyodide). What
it knows of Unicode comes from a table measured from the library (`wasm_build.wordpiece`), not from
the interpreter.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Callable, Mapping
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from tokenizers import Encoding

# Bounds of what one tokenizer remembers, so that no input can make it grow: entries, characters an
# entry.
_CACHED_WORDS: Final = 20_000
_CACHED_WORD_CHARS: Final = 48
_CACHED_CODE_POINTS: Final = 10_000
_FIRST_SYLLABLE, _LAST_SYLLABLE = 0xAC00, 0xD7A3
_SPACE: Final = re.compile(r"\s")
_SURROGATE: Final = re.compile("[\ud800-\udfff]")


class Tokenizer(Protocol):
    """Turns text into the ids the backbone was trained on."""

    def encode(self, text: str, *, max_tokens: int) -> list[int]:
        """Return [CLS] … [SEP], cut before the [SEP] to ``max_tokens`` ids in all (at least 2)."""

    def count(self, text: str) -> int:
        """Return how many ids the uncut text has, [CLS] and [SEP] included."""


def longest_start(text: str, max_tokens: int, count: Callable[[str], int]) -> str:
    """Return the start of ``text`` that ``count`` finds no more than ``max_tokens`` in.

    It ends between two words, or in one without which it would have less than half of them.
    """
    size = bisect_right(range(1, len(text) + 1), max_tokens, key=lambda n: count(text[:n]))
    # Parts of a word may have more tokens than all of it: other words may fit behind it.
    while size < len(text):
        space = _SPACE.search(text, size + 1)
        end = len(text) if space is None else space.start()
        if count(text[:end]) > max_tokens:
            more = range(size + 1, end + 1)
            size += bisect_right(more, max_tokens, key=lambda n: count(text[:n]))
            break
        size = end
    if size == len(text) or text[size].isspace():
        return text[:size].rstrip()
    at = next((at for at in range(size - 1, 0, -1) if text[at].isspace()), 0)
    words = text[:at].rstrip()
    return words if words and 2 * count(words) >= max_tokens else text[:size]


def load(files: Mapping[str, bytes]) -> Tokenizer:
    """Return the engine for a model's files by path; raises `KeyError` without `wordpiece.json`.

    It is the Python one natively too: 1.4 times as fast as the library there on words it has not
    seen, 13 times on those it has (one thread, texts of 24 words).
    """
    return WordPieceTokenizer(files["wordpiece.json"])


class RustTokenizer:
    """The `tokenizers` library; other threads run while it works.

    Lone surrogates, which it refuses, go in as U+FFFD.
    """

    def __init__(self, tokenizer_json: bytes) -> None:
        from tokenizers import Tokenizer as Engine  # noqa: PLC0415  # absent in Pyodide

        self._engine = Engine.from_str(tokenizer_json.decode())
        self._engine.no_truncation()
        self._engine.no_padding()

    def encode(self, text: str, *, max_tokens: int) -> list[int]:
        ids: list[int] = self._encoding(text).ids
        return ids if len(ids) <= max_tokens else [*ids[: max_tokens - 1], ids[-1]]

    def count(self, text: str) -> int:
        return len(self._encoding(text))

    def _encoding(self, text: str) -> Encoding:
        # Of its methods, `encode` keeps the interpreter to itself until it is done, a batch does
        # not. A batch of one is encoded in this thread: the library's pool has nothing to do.
        [encoding] = self._engine.encode_batch_fast([_SURROGATE.sub("\ufffd", text)])
        return encoding


class WordPieceTokenizer:
    """WordPiece in pure Python, driven by the table in `wordpiece.json`."""

    def __init__(self, wordpiece_json: bytes) -> None:
        table: dict[str, Any] = json.loads(wordpiece_json)
        if table["schema"] != 1:
            raise ValueError(f"wordpiece.json has schema {table['schema']}, expected 1")
        self._cls: int = table["cls"]
        self._sep: int = table["sep"]
        self._unknown: list[int] = [table["unk"]]
        self._max_chars: int = table["max_chars"]
        self._special: dict[str, int] = table["special"]
        self._split_special = re.compile("(" + "|".join(map(re.escape, self._special)) + ")").split
        self._characters = _Characters(table)
        # Two dictionaries instead of joining the prefix to every candidate of a continuing piece.
        prefix: str = table["prefix"]
        vocab: list[str] = table["vocab"].split("\n")
        self._first = dict(zip(vocab, range(len(vocab)), strict=True))
        self._next = {
            token[len(prefix) :]: token_id
            for token, token_id in self._first.items()
            if token.startswith(prefix)
        }
        self._longest = max(map(len, self._first))
        self._cache: dict[str, list[int]] = {}

    def encode(self, text: str, *, max_tokens: int) -> list[int]:
        ids = [self._cls]
        cached = self._cache.get
        # A space always ends a word; other white space is rarer and left to the table.
        for chunk in text.split(" "):
            known = cached(chunk)
            ids += self._encoded(chunk) if known is None else known
            if len(ids) >= max_tokens:
                del ids[max_tokens - 1 :]
                break
        ids.append(self._sep)
        return ids

    def count(self, text: str) -> int:
        cached = self._cache.get
        total = 2
        for chunk in text.split(" "):
            known = cached(chunk)
            total += len(self._encoded(chunk) if known is None else known)
        return total

    def _encoded(self, chunk: str) -> list[int]:
        """Return the ids of text without spaces, and remember them if it is short."""
        ids: list[int] = []
        for piece in self._split_special(chunk) if "[" in chunk else (chunk,):
            special = self._special.get(piece)
            if special is not None:
                ids.append(special)
                continue
            for word in piece.translate(self._characters).split():
                known = self._first.get(word)
                if known is not None:
                    ids.append(known)
                else:
                    ids += self._word_pieces(word)
        if len(chunk) <= _CACHED_WORD_CHARS:
            if len(self._cache) >= _CACHED_WORDS:
                self._cache.clear()
            self._cache[chunk] = ids
        return ids

    def _word_pieces(self, word: str) -> list[int]:
        """Return the longest known start and continuations, or the unknown token."""
        size = len(word)
        if size > self._max_chars:
            return self._unknown
        ids: list[int] = []
        pieces, start = self._first, 0
        while start < size:
            for end in range(min(size, start + self._longest), start, -1):
                piece = pieces.get(word[start:end])
                if piece is not None:
                    ids.append(piece)
                    pieces, start = self._next, end
                    break
            else:
                return self._unknown
        return ids


class _Characters(dict[int, str]):
    """What each code point becomes, filled as `str.translate` asks."""

    def __init__(self, table: dict[str, Any]) -> None:
        super().__init__((ord(char), to) for char, to in table["map"].items())
        self._dropped = _bounds(table["drop"])
        self._isolated = _bounds(table["isolate"])
        self._hangul: bool = table["hangul"]

    def __missing__(self, code: int) -> str:
        # `bisect` over the alternating starts and ends of the ranges: odd means inside one.
        if bisect_right(self._dropped, code) % 2:
            to = ""
        elif bisect_right(self._isolated, code) % 2:
            to = f" {chr(code)} "
        elif self._hangul and _FIRST_SYLLABLE <= code <= _LAST_SYLLABLE:
            to = _syllable_parts(code - _FIRST_SYLLABLE)
        else:
            to = chr(code)
        if len(self) < _CACHED_CODE_POINTS:
            self[code] = to
        return to


def _bounds(ranges: list[int]) -> list[int]:
    """Return start, end, start, end … of ranges given as gap, length, gap, length …"""
    return list(accumulate(ranges))


def _syllable_parts(index: int) -> str:
    """Return the conjoining jamo of the Hangul syllable with this index (Unicode §3.12)."""
    lead, rest = divmod(index, 588)
    vowel, tail = divmod(rest, 28)
    parts = chr(0x1100 + lead) + chr(0x1161 + vowel)
    return parts + chr(0x11A7 + tail) if tail else parts
