"""Cuts text into sentences by punctuation, abbreviations, line shape and list markers.

Works for scripts that end sentences with ``. ! ?`` and a space or with signs of their own (CJK,
Arabic, Devanagari, Armenian, Ethiopic). Every sentence keeps its words and punctuation; runs of
white space become one space and list markers go.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

# Longer than this is a list or a transcript without punctuation: nothing to quote in a summary.
MAX_WORDS: Final = 80
_PIECE_WORDS: Final = 40
# Lines longer than this are paragraphs of their own: nobody wraps there.
_WRAP_COLUMNS: Final = 120

_CJK: Final = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_CJK_CHARACTER: Final = re.compile(f"[{_CJK}]")
_CJK_JOIN: Final = re.compile(f"[{_CJK}\u3000-\u303f\uff00-\uffef]{{2}}")
_BULLET: Final = re.compile(
    r"(?:[-*+•‣◦▪●–—·]|\(?(?:\d{1,3}|[a-zA-Z])[.)]|\(\d{1,3}\)|#{1,6})\s+(?=\S)"
)
_END: Final = re.compile(r"""(?:[.!?…؟۔।॥։።]+|(?P<wide>[。！？｡]+))["'”’»)\]」』）】]*""")
_FINISHED: Final = re.compile(r"""[.!?…؟۔।॥։።。！？｡]["'”’»)\]」』）】]*$""")
_DOTTED: Final = re.compile(r"[^\W\d_]{1,2}(?:\.[^\W\d_]{1,2})+")
_INITIAL: Final = re.compile(r"[A-Z]\.")
_NOT_IN_WORD: Final = re.compile(r"[^\w]")
_WINDOW: Final = 64
_QUOTE_WINDOW: Final = 240
_OPENING: Final = " \"'“‘«([{¿¡「『（【-–—"
_PAUSE: Final = re.compile(r"(?<=[;:,，、；])\s?|\s(?=[-–—]\s)")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# A full stop after one of these never ends a sentence;
_INSIDE: Final = _words("e.g i.e cf viz vs approx resp z.b d.h u.a bzw sog inkl")
# after these it does only before a word that begins sentences,
_ANYWHERE: Final = _words(
    "mr mrs ms mx dr prof rev hon gen col maj sgt lt capt cmdr adm sen rep gov pres amb messrs "
    "mme mlle fr mt ft st ave rd blvd inc ltd co corp llc plc bros jr sr esq dept univ assn etc al "
    "mio mrd usw"
)
# and after these it does not before a number.
_BEFORE_NUMBER: Final = _words(
    "no nos nr fig figs eq eqs vol vols ch chap sec art p pp para ca c v ver ext tel "
    "jan feb mar apr jun jul aug sep sept oct nov dec"
)
_STARTERS: Final = _words(
    "a an the this that these those he she it they we i you his her its their our my your there "
    "here in on at for from with by as if when while after before since although though but and "
    "or so yet however moreover meanwhile instead still also then what why how who where some "
    "many most all both each no not only even to"
)


def split(text: str) -> list[str]:
    """Return the sentences of ``text`` in order, none of them empty."""
    return [
        piece
        for block in _blocks(text)
        for sentence in _sentences(block)
        for piece in _pieces(sentence)
    ]


def word_count(sentence: str) -> int:
    """Return the number of words; scripts without spaces count two characters as one."""
    return len(sentence.split()) + len(_CJK_CHARACTER.findall(sentence)) // 2


def is_finished(sentence: str) -> bool:
    """Return whether it ends as sentences do; headings and list items do not."""
    return _FINISHED.search(sentence) is not None


def grouped(sentences: list[str], *, limit: int) -> list[list[str]]:
    """Return the sentences in at most ``limit`` groups: beyond it, short neighbours share one."""
    if len(sentences) <= limit:
        return [[sentence] for sentence in sentences]
    # Every group but the last reaches this many words, so there can be no more than `limit`.
    sizes = [max(1, word_count(sentence)) for sentence in sentences]
    enough = -(-sum(sizes) // (limit - 1))
    groups: list[list[str]] = []
    words = enough
    for sentence, size in zip(sentences, sizes, strict=True):
        if words >= enough:
            groups.append([])
            words = 0
        groups[-1].append(sentence)
        words += size
    return groups


def joined(parts: Sequence[str]) -> str:
    """Return the parts as one text: a space between, but none between CJK characters."""
    return "".join(in_pieces(parts))


def in_pieces(parts: Sequence[str]) -> list[str]:
    """Return the parts of the text that `joined` makes, each with the space before it."""
    pieces = list(parts[:1])
    for before, part in pairwise(parts):
        pieces.append(part if _CJK_JOIN.fullmatch(before[-1] + part[0]) else f" {part}")
    return pieces


def _blocks(text: str) -> list[str]:
    """Return stretches of text that no sentence crosses: paragraphs, list items, headings."""
    blocks: list[str] = []
    paragraph: list[str] = []
    for line in [*(" ".join(line.split()) for line in text.splitlines()), ""]:
        if line:
            paragraph.append(line)
        elif paragraph:
            blocks += _unwrapped(paragraph)
            paragraph = []
    return blocks


def _unwrapped(lines: list[str]) -> list[str]:
    """Return the lines between two blank ones, those joined that are wrapped text."""
    widest = max(map(len, lines))
    is_wrapped = 50 <= widest <= _WRAP_COLUMNS
    blocks: list[list[str]] = []
    for before, line in pairwise(["", *lines]):
        bullet = _BULLET.match(line)
        if bullet or not before:
            blocks.append([line[bullet.end() :] if bullet else line])
        elif line[0].islower() or (is_wrapped and len(before) >= 0.6 * widest):
            blocks[-1].append(line)
        else:
            blocks.append([line])
    return [joined(block) for block in blocks]


def _sentences(block: str) -> list[str]:
    sentences = []
    start = 0
    for end in _END.finditer(block):
        if _ends_sentence(block, start, end):
            sentences.append(block[start : end.end()].strip())
            start = end.end()
    return [sentence for sentence in [*sentences, block[start:].strip()] if sentence]


def _ends_sentence(block: str, start: int, end: re.Match[str]) -> bool:
    # Windows instead of the rest of the text, which would make a long line quadratic.
    rest = block[end.end() : end.end() + _WINDOW]
    if not rest or end["wide"]:
        return True
    if rest[0] != " ":
        return False
    following = rest.lstrip(_OPENING)
    if not following or following[0].islower():
        return not following
    if _is_quoting(block, max(start, end.end() - _QUOTE_WINDOW), end.end()):
        return False
    if end[0] != ".":
        return True
    return not _is_abbreviation(block[max(start, end.start() - _WINDOW) : end.start()], following)


def _is_quoting(block: str, start: int, end: int) -> bool:
    """Return whether a quotation opened after ``start`` goes on at ``end``, and closes soon."""
    if block.rfind("“", start, end) > block.rfind("”", start, end):
        return block.find("”", end, end + _QUOTE_WINDOW) >= 0
    mark = block.rfind('"', start, end)
    opens = mark >= 0 and (mark == 0 or block[mark - 1] in " (") and block[mark + 1] != " "
    return opens and block.find('"', end, end + _QUOTE_WINDOW) >= 0


def _is_abbreviation(before: str, following: str) -> bool:
    """Return whether the full stop after ``before`` belongs to its last word."""
    word = before.rpartition(" ")[2].lstrip(_OPENING)
    lower = word.lower()
    if lower in _INSIDE or (following[0].isdigit() and lower in _BEFORE_NUMBER):
        return True
    is_initial = len(word) == 1 and word.isalpha() and word != "I"
    is_dotted = _DOTTED.fullmatch(word) is not None
    if is_initial or is_dotted or lower in _ANYWHERE:
        return _INITIAL.match(following) is not None or _first_word(following) not in _STARTERS
    return False


def _first_word(text: str) -> str:
    """Return the first word in lower case, without what apostrophes add ("it" of "It's")."""
    return _NOT_IN_WORD.split(text, maxsplit=1)[0].lower()


def _pieces(sentence: str) -> list[str]:
    """Cut what is too long for one sentence at pauses, or anywhere between words."""
    if word_count(sentence) <= MAX_WORDS:
        return [sentence]
    parts: list[str] = []
    for phrase in _PAUSE.split(sentence):
        whole = phrase.split(" ") if " " in phrase else _characters(phrase)
        gap = " " if " " in phrase else ""
        parts += [
            gap.join(whole[at : at + _PIECE_WORDS]) for at in range(0, len(whole), _PIECE_WORDS)
        ]
    pieces: list[list[str]] = []
    words = _PIECE_WORDS
    for part in filter(None, parts):
        words += word_count(part)
        if words > _PIECE_WORDS:
            pieces.append([])
            words = word_count(part)
        pieces[-1].append(part)
    return [joined(piece) for piece in pieces]


def _characters(phrase: str) -> list[str]:
    """Return a phrase without spaces as units of two characters (a word's worth)."""
    return [phrase[at : at + 2] for at in range(0, len(phrase), 2)]
