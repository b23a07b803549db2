"""Evidence as arrays, for who judges: numpy takes a thirtieth of the time that plain Python does.

Nodes do not need this, and have no numpy in a tab: only `agreement` imports it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]


class Form(NamedTuple):
    """What evidence is made of.

    How many vectors (None: as many as there are whole ones before the scores), how many scores
    (None: what is left behind the vectors), and the weights of the vectors whose mean they are of.
    """

    vectors: int | None
    scores: int | None
    weights: tuple[int, ...] = ()


class Evidence(NamedTuple):
    """``vectors`` has a row each, ``scores`` are the head's."""

    vectors: Floats
    scores: Floats


class Pairs(NamedTuple):
    """Of each of their vectors the cosine to ours, and by what part of ours it is longer."""

    cosines: Floats
    changes: Floats

    @property
    def worst(self) -> float:
        """The least cosine: 1 without vectors, NaN where one is no number."""
        return float(self.cosines.min(initial=1.0))


def read(blob: bytes, number: str, form: Form, dimensions: int) -> Evidence:
    """Return the evidence in ``blob``, whose numbers are of the kind ``number`` ("<f2", "<f4").

    Raises `ValueError` for numbers that cannot be that.
    """
    size = np.dtype(number).itemsize
    if len(blob) % size:
        raise ValueError(f"{len(blob):,} bytes are no whole number of float{8 * size}")
    # What a stranger sends may be infinite, or no number, or one that signals: it compares as such.
    with np.errstate(all="ignore"):
        flat = np.frombuffer(blob, number).astype(np.float64)
    scores = len(flat) % dimensions if form.scores is None else form.scores
    end = len(flat) - scores
    found = end // dimensions
    # Scores are of vectors that are there.
    if (
        end % dimensions
        or (form.vectors is not None and found != form.vectors)
        or (scores and found < len(form.weights))
    ):
        of = "vectors" if form.vectors is None else f"{form.vectors} vectors"
        raise ValueError(f"{len(flat):,} numbers are no evidence for {of} of {dimensions}")
    return Evidence(flat[:end].reshape(found, dimensions), flat[end:])


def pairs(ours: Evidence, theirs: Evidence) -> Pairs:
    """Return how their vectors compare with ours; what has no length is like nothing."""
    with np.errstate(all="ignore"):
        own, other = _lengths(ours.vectors), _lengths(theirs.vectors)
        dots = np.einsum("ij,ij->i", ours.vectors, theirs.vectors)
        cosines = np.where(own * other == 0.0, 0.0, dots / (own * other))
        return Pairs(cosines, np.where(own == 0.0, -1.0, other / own - 1.0))


def spread(scores: Floats) -> float:
    """Return how far the scores lie from their mean, at most; NaN where not all are finite."""
    if not np.isfinite(scores).all():
        return math.nan
    mean = scores.mean()
    return float(max(scores.max() - mean, mean - scores.min()))


def furthest(ours: Floats, theirs: Floats) -> float:
    """Return the largest distance of two scores in the same place; NaN where one is no number."""
    with np.errstate(all="ignore"):
        return float(np.abs(ours - theirs).max())


def apart(ours: Evidence, theirs: Evidence, weights: Sequence[int]) -> float:
    """Return the distance of the weighted means of the first vectors, of length 1 each."""
    own, other = (_mean(one.vectors[: len(weights)], weights) for one in (ours, theirs))
    return math.sqrt(max(0.0, 2.0 - 2.0 * float(own @ other)))


def _lengths(vectors: Floats) -> Floats:
    found: Floats = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
    return found


def _mean(vectors: Floats, weights: Sequence[int]) -> Floats:
    total = np.asarray(weights, np.float64) @ vectors
    length = math.sqrt(float(total @ total))
    return total / length if length else total
