"""Makes `wordpiece.json`, the pure-Python tokenizer's table, by measuring the `tokenizers` library.

Every code point is put through the library's normalizer and pre-tokenizer, so the table knows what
this library version does and no interpreter's Unicode database has a say. One code point at a time
is enough: for a BERT normalizer every step but canonical reordering looks at one character, and
reordering permutes combining marks, which are dropped or make the whole word unknown either way
(checked here against the vocabulary).
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable
from itertools import pairwise
from typing import Any, Final

from tokenizers import Tokenizer

SCHEMA: Final = 1
_CODE_POINTS: Final = 0x110000
_SURROGATES: Final = range(0xD800, 0xE000)
_HANGUL: Final = range(0xAC00, 0xD7A4)
_AT_ONCE: Final = 4096


def build_table(tokenizer_json: bytes) -> bytes:
    """Return the bytes of `wordpiece.json` for a published lower-casing BERT ``tokenizer.json``.

    Layout: ``vocab`` (tokens in id order, newline-separated), ``special`` (added tokens by text),
    ids ``cls``, ``sep``, ``unk``, ``prefix`` of continuing pieces, ``max_chars`` a word, and what
    becomes of a code point: ``drop`` and ``isolate`` (ranges as gap, length, gap, length …),
    ``map`` (character to replacement, with spaces where words end), ``hangul`` (syllables
    decompose); any other stays. Takes seconds. Raises `ValueError` for a tokenizer of another kind.
    """
    spec = json.loads(tokenizer_json)
    vocab = _checked_vocab(spec)
    engine: Tokenizer = Tokenizer.from_str(tokenizer_json.decode())
    alphabet = frozenset("".join(vocab))
    measured = _measured(engine)
    hangul = _takes_hangul_apart(measured)
    effects = {
        code: _simplified(chr(code), effect, alphabet)
        for code, effect in measured.items()
        if not (hangul and code in _HANGUL)
    }
    table = {
        "schema": SCHEMA,
        "cls": vocab.index("[CLS]"),
        "sep": vocab.index("[SEP]"),
        "unk": vocab.index(spec["model"]["unk_token"]),
        "prefix": spec["model"]["continuing_subword_prefix"],
        "max_chars": spec["model"]["max_input_chars_per_word"],
        "special": {token["content"]: token["id"] for token in spec["added_tokens"]},
        "hangul": hangul,
        # A str from a careless source can hold half of a surrogate pair; the library's Rust strings
        # cannot.
        "drop": _ranges([*_SURROGATES, *(code for code, to in effects.items() if not to)]),
        "isolate": _ranges(code for code, to in effects.items() if to == f" {chr(code)} "),
        "map": {
            chr(code): to
            for code, to in effects.items()
            if to and to not in (chr(code), f" {chr(code)} ")
        },
        "vocab": "\n".join(vocab),
    }
    return json.dumps(table, ensure_ascii=False, separators=(",", ":")).encode()


def _checked_vocab(spec: dict[str, Any]) -> list[str]:
    """Return the vocabulary in id order; raises `ValueError` for what Python cannot follow."""
    kinds = [spec[part]["type"] for part in ("normalizer", "pre_tokenizer", "model")]
    if kinds != ["BertNormalizer", "BertPreTokenizer", "WordPiece"]:
        raise ValueError(f"tokenizer is made of {kinds}, not of BERT's normalizer and WordPiece")
    for token in spec["added_tokens"]:
        if token["normalized"] or token["single_word"] or token["lstrip"] or token["rstrip"]:
            raise ValueError(f"added token {token['content']!r} is not matched literally")
        if " " in token["content"] or not token["content"].startswith("["):
            raise ValueError(f"added token {token['content']!r} is not a bracketed word")
    ids: dict[str, int] = spec["model"]["vocab"]
    vocab = sorted(ids, key=ids.__getitem__)
    if [ids[token] for token in vocab] != list(range(len(vocab))):
        raise ValueError("token ids are not consecutive from 0")
    if any("\n" in token for token in vocab):
        raise ValueError("a token of the vocabulary holds a newline")
    reordered = {char for token in vocab for char in token if unicodedata.combining(char)}
    if reordered:
        raise ValueError(f"combining marks in the vocabulary: {sorted(reordered)}")
    return vocab


def _measured(engine: Tokenizer) -> dict[int, str]:
    """Return what each code point becomes between two letters, with a space where words end."""
    letter = "\u0298"
    codes = [code for code in range(_CODE_POINTS) if code not in _SURROGATES]
    effects: dict[int, str] = {}
    for at in range(0, len(codes), _AT_ONCE):
        some = codes[at : at + _AT_ONCE]
        text = letter.join(["", *map(chr, some), ""])
        words = engine.pre_tokenizer.pre_tokenize_str(engine.normalizer.normalize_str(text))
        found = " ".join(word for word, _ in words).split(letter)[1:-1]
        # The letter itself is among the code points, and leaves two empty effects of its own.
        if ord(letter) in some:
            place = some.index(ord(letter))
            found[place : place + 2] = [letter]
        effects.update(zip(some, found, strict=True))
    for code, effect in effects.items():
        if any(char.isspace() and char != " " for char in effect):
            raise ValueError(f"U+{code:04X} stays as white space that `str.split` would take")
    return effects


def _simplified(char: str, effect: str, alphabet: frozenset[str]) -> str:
    """Return a shorter effect with the same token ids.

    A word with a character outside the vocabulary's alphabet is unknown whatever the character is,
    so a replacement by such a character can as well be left out where the original is outside too.
    """
    if char in alphabet:
        return effect
    words = effect.split(" ")
    if len(words) == 1 and effect and not alphabet.issuperset(effect):
        return char
    if len(words) == 3 and not words[0] and not words[2] and words[1] not in alphabet:
        return f" {char} "
    return effect


def _takes_hangul_apart(effects: dict[int, str]) -> bool:
    """Return whether all 11,172 syllables decompose as in Unicode §3.12, or none does."""
    apart = {effects[code] == unicodedata.normalize("NFD", chr(code)) for code in _HANGUL}
    if len(apart) != 1:
        raise ValueError("only some Hangul syllables decompose")
    return apart.pop()


def _ranges(codes: Iterable[int]) -> list[int]:
    """Return ascending runs as gap from the end of the last run, length, gap, length …"""
    ordered = sorted(codes)
    if not ordered:
        return []
    cuts = [at for at, (left, right) in enumerate(pairwise(ordered), 1) if right != left + 1]
    runs, end = [], 0
    for first, after in pairwise([0, *cuts, len(ordered)]):
        runs += [ordered[first] - end, after - first]
        end = ordered[after - 1] + 1
    return runs
