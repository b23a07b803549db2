"""Whether what a node sent has the shape of an answer, and what a lazy liar would repeat of it."""

from __future__ import annotations

import math
from array import array
from typing import Final

import msgspec

from browser_node.models import Manifest

MAX_OUTPUT_CHARS: Final = 1 << 20


def well_formed(manifest: Manifest, output: bytes) -> bool:
    """Whether ``output`` has the shape of an answer of this model's pipeline."""
    return trait_of(manifest, output) is not None


def trait_of(manifest: Manifest, output: bytes) -> int | None:
    """Return a number for what a lazy liar would repeat, or None for what is no answer at all.

    Of a classification that is its first category, of everything else the whole output. The same in
    this process only: hashes are salted.
    """
    match manifest.pipeline:
        case "embeddings":
            if len(output) != 4 * manifest.dimensions:
                return None
            return hash(output) if _finite(output) else None
        case "extractive-summary":
            return hash(output) if _is_text(output) else None
        case "iab-classification":
            if not _is_text(output):
                return None
            try:
                found = _categories.decode(output)
            except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
                return None
            first = found.content.iab_2_2[:1] or found.content.iab_1_0[:1]
            return hash((first[0].id, first[0].code)) if first else 0


def _finite(vector: bytes) -> bool:
    """Whether all of the float32 values (little-endian) are numbers."""
    # Infinities and NaN have all bits of the exponent set, seven of them in the last byte; so have
    # values above 10³⁸, which no vector holds.
    tops = vector[3::4]
    if 0x7F not in tops and 0xFF not in tops:
        return True
    # One infinity or NaN makes the sum one; float32 values cannot overflow it.
    return math.isfinite(sum(array("f", vector)))


class _Category(msgspec.Struct, gc=False):
    id: int | None = None
    code: str = ""


class _Content(msgspec.Struct, gc=False):
    iab_1_0: list[_Category] = []
    iab_2_2: list[_Category] = []


class _Categories(msgspec.Struct, gc=False):
    content: _Content = msgspec.field(default_factory=_Content)


_categories: Final = msgspec.json.Decoder(_Categories)


def _is_text(output: bytes) -> bool:
    if output.isascii():
        return len(output) <= MAX_OUTPUT_CHARS
    try:
        return len(output.decode()) <= MAX_OUTPUT_CHARS
    except UnicodeDecodeError:
        return False
