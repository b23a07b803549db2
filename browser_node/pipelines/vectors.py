"""Arithmetic on embeddings without numpy, which a tab does not have; and their wire form."""

from __future__ import annotations

import math
import sys
from array import array
from collections.abc import Callable, Sequence
from operator import mul
from typing import Final

from browser_node.pipelines.plan import Vector

FLOAT_BYTES: Final = 4

# Python 3.12 has it in C: 8 µs instead of 15 for 384 dimensions.
_sumprod: Callable[[Vector, Vector], float] | None = getattr(math, "sumprod", None)


def dot(a: Vector, b: Vector) -> float:
    """Return the inner product: the cosine of two unit vectors."""
    return sum(map(mul, a, b)) if _sumprod is None else _sumprod(a, b)


def length(vector: Vector) -> float:
    """Return the Euclidean length: in C, a third of what a `dot` takes."""
    return math.hypot(*vector)


def cosine(a: Vector, b: Vector) -> float:
    """Return the cosine, or 0 where a vector has no length."""
    lengths = length(a) * length(b)
    return dot(a, b) / lengths if lengths else 0.0


def centroid(vectors: Sequence[Vector]) -> list[float]:
    """Return the unit vector in the direction of the sum (all zeros if that has no length)."""
    return _unit([sum(column) for column in zip(*vectors, strict=True)])


def mean(vectors: Sequence[Vector], weights: Sequence[int]) -> list[float]:
    """Return the `centroid` of as many vectors as there are weights, each times its own."""
    return _unit([dot(column, weights) for column in zip(*vectors, strict=True)])


def _unit(total: list[float]) -> list[float]:
    length = math.sqrt(dot(total, total))
    return [value / length for value in total] if length else total


def to_bytes(vectors: Sequence[Vector]) -> bytes:
    """Return the vectors one after the other as little-endian float32."""
    flat = array("f")
    for vector in vectors:
        flat.extend(vector)
    if sys.byteorder == "big":
        flat.byteswap()
    return flat.tobytes()


def floats(blob: bytes) -> array[float]:
    """Return the numbers in little-endian float32 ``blob``; raises `ValueError` for part of one."""
    flat = array("f")
    flat.frombytes(blob)
    if sys.byteorder == "big":
        flat.byteswap()
    return flat
