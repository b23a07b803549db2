"""The arithmetic that stands for a model: every text has one right answer that depends on it alone.

Answers are embeddings of four dimensions. Honest runtimes differ from the CPU worker's exact vector
by a rotation of at most `CLASS_ERROR` + `NODE_ERROR` radians (cosine ≥ .998, the manifests' limit
is .996), the same for all nodes of one backend but for a little of each node's own. So two honest
nodes of different backends may disagree with each other while both agree with the worker.
"""

from __future__ import annotations

import hashlib
import math
import random
import struct
from functools import lru_cache
from typing import Final

from browser_node.models import FilePart, Manifest, ModelFile, Price, digest_of, encode_manifest
from browser_node.protocol import ModelDigest

Vector = tuple[float, float, float, float]

DIMENSIONS: Final = 4
MIN_COSINE: Final = 0.996
CLASS_ERROR: Final = 0.05
NODE_ERROR: Final = 0.01
_MAX_LENGTH_CHANGE: Final = 0.01
_FLOATS: Final = struct.Struct("<4f")
_WORDS: Final = struct.Struct("<4H")

REFUSED: Final = "refused"
"""Second word of a text that no pipeline accepts."""
DEADLY: Final = "deadly"
"""Second word of a text that crashes whatever tab starts it."""


def manifest(name: str, *, size_bytes: int, min_memory_mb: int) -> Manifest:
    part = FilePart(hashlib.sha256(name.encode()).hexdigest(), 1)
    return Manifest(
        id=name,
        version="1",
        name=name,
        pipeline="embeddings",
        files=(ModelFile("model.onnx", part.sha256, size_bytes, (part,)),),
        dimensions=DIMENSIONS,
        max_tokens=256,
        error_on_max_token=False,
        min_cosine=MIN_COSINE,
        min_memory_mb=min_memory_mb,
        price=Price(20_000, 0),
        languages=("en",),
        licence="Apache-2.0",
        created=0,
        parameters=1,
    )


def manifests() -> dict[ModelDigest, Manifest]:
    """Return a small model that most requests ask for, and a larger one."""
    made = (
        manifest("small", size_bytes=23_000_000, min_memory_mb=512),
        manifest("large", size_bytes=90_000_000, min_memory_mb=1_500),
    )
    return {digest_of(encode_manifest(one)): one for one in made}


@lru_cache(maxsize=1 << 15)
def vector_of(text: str) -> Vector:
    """Return the right answer to ``text``, a unit vector."""
    words = _WORDS.unpack(hashlib.blake2b(text.encode(), digest_size=8).digest())
    a, b, c, d = (word - 32767.5 for word in words)
    length = math.sqrt(a * a + b * b + c * c + d * d)
    return (a / length, b / length, c / length, d / length)


def pack(vector: Vector) -> bytes:
    return _FLOATS.pack(*vector)


def rotated(vector: Vector, angle: float) -> Vector:
    """Return ``vector`` turned by about ``angle`` (small), its length kept."""
    a, b, c, d = vector
    cos = 1.0 - angle * angle / 2
    return (
        a * cos - b * angle,
        b * cos + a * angle,
        c * cos - d * angle,
        d * cos + c * angle,
    )


def honest(vector: Vector, *, backend: str, own_error: float) -> Vector:
    """Return what an honest runtime of ``backend`` makes of a text whose answer is ``vector``."""
    # The same text gives the same rounding on every node of a backend.
    share = 0.5 + 0.5 * abs(vector[0])
    sign = 1.0 if backend == "wasm" else -1.0
    return rotated(vector, sign * CLASS_ERROR * share + own_error)


def random_vector(rng: random.Random) -> Vector:
    a, b, c, d = (rng.random() - 0.5 for _ in range(4))
    length = math.sqrt(a * a + b * b + c * c + d * d) or 1.0
    return (a / length, b / length, c / length, d / length)


def is_right(output: bytes, right: Vector) -> bool:
    """Whether ``output`` is within the tolerance of ``right``, worked out without `agreement`."""
    if len(output) != 4 * DIMENSIONS:
        return False
    a, b, c, d = _FLOATS.unpack(output)
    length = math.sqrt(a * a + b * b + c * c + d * d)
    if not abs(length - 1.0) <= _MAX_LENGTH_CHANGE + 1e-6:
        return False
    w, x, y, z = right
    return bool((a * w + b * x + c * y + d * z) / length >= MIN_COSINE - 1e-6)
