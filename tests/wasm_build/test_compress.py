"""Brotli results are right, kept, and left out where they do not help."""

from __future__ import annotations

import random
from pathlib import Path

import brotli
import pytest

from wasm_build.compress import Compressor, Job

TEXT = b"the same words again and again, " * 200
NOISE = random.Random(1).randbytes(4096)


def test_compressed_text_is_smaller_and_decodes_to_itself(tmp_path: Path) -> None:
    (path,) = Compressor(tmp_path, workers=1).compress([Job(TEXT, 9)])

    assert path is not None
    assert path.stat().st_size < 0.1 * len(TEXT)
    assert brotli.decompress(path.read_bytes()) == TEXT


def test_what_does_not_shrink_is_left_plain(tmp_path: Path) -> None:
    assert Compressor(tmp_path, workers=1).compress([Job(NOISE, 9)]) == [None]


def test_nothing_is_compressed_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compressor = Compressor(tmp_path, workers=1)
    jobs = [Job(TEXT, 9), Job(NOISE, 9), Job(TEXT, 9)]
    once = compressor.compress(jobs)

    def refuse(*_: object) -> None:
        raise AssertionError("compressed again")

    monkeypatch.setattr(compressor, "_compress_missing", refuse)

    assert compressor.compress(jobs) == once


def test_progress_ends_at_one(tmp_path: Path) -> None:
    shares: list[float] = []

    Compressor(tmp_path, workers=1).compress([Job(TEXT, 5), Job(NOISE, 5)], progress=shares.append)

    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1)
