"""Counts the tokens that are billed, and cuts texts to what a model reads.

Two engines with identical results (see `browser_node.tokenizer`): the pure-Python one remembers
words, which makes it the faster one for short texts, on the event loop; the library's releases the
interpreter while it works, which makes it the one for long texts, in a thread.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import msgspec

from browser_node.protocol import MAX_INPUT_CHARS
from browser_node.tokenizer import (
    RustTokenizer,
    Tokenizer,
    WordPieceTokenizer,
    longest_start,
)

try:
    from orchestrator.storage.chunk_table import ChunkTable
except ImportError:
    # Not compiled (`orchestrator.compiled`).
    ChunkTable = None  # type: ignore[assignment,misc]

INLINE_CHARS: Final = 2_000
_THREADS: Final = 2
_SPACE: Final = re.compile("[ \t\n\r]")
# Bounds of what is remembered, so that no input can make it grow: chunks, characters of a chunk.
_CACHED_CHUNKS: Final = 50_000
_CACHED_CHUNK_CHARS: Final = 48
# English has four to five characters a token: nearly always the first try at a cut holds enough.
_CHARS_PER_TOKEN: Final = 6
# A longer word is one [UNK]: no word has more tokens than this has characters.
_WORD_MAX_CHARS: Final = 100
# [CLS] and [SEP], which a model reads but does not write.
_SPECIAL_TOKENS: Final = 2


class Measured(msgspec.Struct, frozen=True, gc=False):
    """A text as a node gets it and its billed tokens, [CLS] and [SEP] included.

    Where the model cuts, ``tokens`` is at most its limit and ``text`` is as much of the start of
    the text as holds them: the node, cutting by tokens, reads the same as from the whole.
    Where it does not, a text that is too long is counted until that is certain: ``text`` is the
    start that was, and ``tokens`` are its own, more than the limit.
    """

    text: str
    tokens: int


@dataclass(frozen=True, slots=True)
class Limit:
    """A model's longest input, and whether a longer one is cut.

    ``exactly``: to what fits, as the node would refuse more; else the node does the fine cut.
    """

    max_tokens: int
    cuts: bool
    exactly: bool = False


class Chunks(dict[str, int]):
    """Tokens of chunks of text, remembered, so that a text is summed up in C.

    Chunks end at ``separator``, which has ``each`` tokens itself; a text has ``whole`` more.
    """

    def __init__(self, engine: Tokenizer, separator: str, *, each: int, whole: int) -> None:
        self._engine = engine
        self._separator = separator
        self._each, self._whole = each, whole

    def __missing__(self, chunk: str) -> int:
        tokens = self._engine.count(chunk) - _SPECIAL_TOKENS
        if len(chunk) <= _CACHED_CHUNK_CHARS:
            if len(self) >= _CACHED_CHUNKS:
                self.clear()
            self[chunk] = tokens
        return tokens

    def count(self, text: str) -> int:
        """Return the tokens of ``text``."""
        chunks = text.split(self._separator)
        return sum(map(self.__getitem__, chunks), self._whole + self._each * (len(chunks) - 1))


def summed_up(engine: Tokenizer, separator: str, *, each: int, whole: int) -> Callable[[str], int]:
    """Return what counts as `Chunks` does: itself, or its compiled form where there is one."""
    chunks = Chunks(engine, separator, each=each, whole=whole)
    if ChunkTable is None:
        return chunks.count
    table = ChunkTable(engine, separator, each=each, whole=whole, special=_SPECIAL_TOKENS)

    def count(text: str) -> int:
        try:
            return table.count(text)
        except UnicodeEncodeError:
            # Half of a surrogate pair, which has no UTF-8.
            return chunks.count(text)

    return count


class TokenCounter:
    """One vocabulary. Made of the two files that a model pack carries for it."""

    def __init__(self, *, tokenizer_json: bytes, wordpiece_json: bytes) -> None:
        words = WordPieceTokenizer(wordpiece_json)
        # A space always ends a word.
        self._inline = summed_up(words, " ", each=0, whole=_SPECIAL_TOKENS)
        # So does a comma, which is one itself. What stands between two of them in compact JSON, as
        # a name and a number, recurs from answer to answer.
        self._json = summed_up(words, ",", each=1, whole=0)
        engine = RustTokenizer(tokenizer_json)
        self._threaded, self._encode = engine.count, engine.encode
        table = json.loads(wordpiece_json)
        self._pieces: list[str] = table["vocab"].split("\n")
        self._cls: int = table["cls"]
        self._sep: int = table["sep"]
        self._pad: int | None = table["special"].get("[PAD]")
        self._prefix: str = table["prefix"]
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="tokens")
        self._background = ThreadPoolExecutor(1, thread_name_prefix="tokens-background")

    def text_of(self, ids: Sequence[int]) -> str | None:
        """Return a text whose tokens are ``ids``; None where none was found.

        The [CLS] before and the [SEP] behind them may be there or not, and [PAD]s at the end, which
        no model reads. All inside are tokens.
        """
        if any(not 0 <= one < len(self._pieces) for one in ids):
            return None
        inner = list(ids)
        while inner and inner[-1] == self._pad:
            inner.pop()
        if inner[:1] == [self._cls]:
            del inner[0]
        if inner[-1:] == [self._sep]:
            del inner[-1]
        text = " ".join(self._pieces[one] for one in inner).replace(f" {self._prefix}", "")
        again = self._encode(text, max_tokens=len(inner) + _SPECIAL_TOKENS + 1)
        return text if again[1:-1] == inner else None

    def measure_now(self, texts: Sequence[str], limit: Limit) -> list[Measured] | None:
        """Measure ``texts`` in order, or return None if together they are too long for that."""
        if sum(map(len, texts)) > INLINE_CHARS:
            return None
        return [_measure(self._inline, text, limit) for text in texts]

    def measure_one_now(self, text: str, limit: Limit) -> Measured | None:
        """Measure one text as `measure_now` does several."""
        return None if len(text) > INLINE_CHARS else _measure(self._inline, text, limit)

    async def measure_in_thread(
        self, texts: Sequence[str], limit: Limit, *, background: bool = False
    ) -> list[Measured]:
        """Measure ``texts`` in order; those in the ``background`` one after the other.

        They have a thread of their own: nobody who waits for an answer waits for them.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            self._background if background else self._threads,
            lambda: [_measure(self._threaded, text, limit) for text in texts],
        )

    def count_output_now(self, text: str) -> int | None:
        """Return the tokens of something a model wrote, or None if it is too long for that."""
        if len(text) > 2 * INLINE_CHARS:
            return None
        if text.startswith(("{", "[")):
            return self._json(text)
        return self._inline(text) - _SPECIAL_TOKENS

    async def count_output(self, text: str) -> int:
        """Return the tokens of something a model wrote."""
        tokens = self.count_output_now(text)
        if tokens is not None:
            return tokens
        whole = Limit(max_tokens=len(text) + _SPECIAL_TOKENS, cuts=False)
        [measured] = await self.measure_in_thread((text,), whole)
        return measured.tokens - _SPECIAL_TOKENS

    def close(self) -> None:
        for threads in (self._threads, self._background):
            threads.shutdown(wait=False, cancel_futures=True)


def _measure(count: Callable[[str], int], text: str, limit: Limit) -> Measured:
    if limit.cuts:
        # No frame could carry more; it matters only to texts that are mostly white space.
        text = text[:MAX_INPUT_CHARS]
    size = limit.max_tokens * _CHARS_PER_TOKEN
    if len(text) <= size:
        # Nearly all are so short.
        tokens = count(text)
        if tokens <= limit.max_tokens:
            return Measured(text, tokens)
    while True:
        start, doubtful = _start(text, size)
        tokens = count(start)
        # One token more than fits: what follows cannot be read, or is refused, whatever it is.
        if tokens - doubtful > limit.max_tokens:
            if not limit.cuts:
                return Measured(start, tokens)
            if limit.exactly:
                start = longest_start(start, limit.max_tokens, count)
                return Measured(start, count(start))
            return Measured(start, limit.max_tokens)
        if len(start) == len(text):
            return Measured(text, tokens)
        size *= 2


def _start(text: str, size: int) -> tuple[str, int]:
    """Return about the first ``size`` characters of ``text``, ending where a word ends if it can.

    And how many of its tokens may be others than those of the whole, as it ends inside a word.
    """
    if len(text) <= size:
        return text, 0
    space = _SPACE.search(text, size, size + _WORD_MAX_CHARS)
    if space is None:
        return text[:size], _WORD_MAX_CHARS
    return text[: space.start()], 0
