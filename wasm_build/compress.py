"""Brotli ahead of time, in a pool of processes; results are kept under the hash of their input."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import brotli

from wasm_build import files

# A sibling that saves less is not worth the reader's decoding.
WORTHWHILE = 0.95


@dataclass(frozen=True)
class Job:
    """One file to compress: ``quality`` 0–11, as in RFC 7932's reference encoder."""

    data: bytes
    quality: int


class Compressor:
    """Brings the brotli form of files, from ``cache`` where it was made before.

    Quality 11 takes about 2.7 CPU-seconds a megabyte, so nothing is ever compressed twice.
    """

    def __init__(self, cache: Path, *, workers: int | None = None) -> None:
        self._cache = cache
        self._workers = workers or os.cpu_count() or 1

    def compress(
        self, jobs: Iterable[Job], *, progress: Callable[[float], None] = lambda share: None
    ) -> list[Path | None]:
        """Return for each job the path of its brotli form, or None where brotli does not help.

        ``progress`` is called with the share of the work done, 0 to 1.
        """
        jobs = list(jobs)
        paths = [self._cache / f"{files.sha256(job.data)}-q{job.quality}.br" for job in jobs]
        missing = {path: job for path, job in zip(paths, jobs, strict=True) if not path.exists()}
        if missing:
            self._compress_missing(missing, progress)
        return [
            path if path.stat().st_size < WORTHWHILE * len(job.data) else None
            for path, job in zip(paths, jobs, strict=True)
        ]

    def _compress_missing(
        self, missing: dict[Path, Job], progress: Callable[[float], None]
    ) -> None:
        self._cache.mkdir(parents=True, exist_ok=True)
        total = sum(_cost(job) for job in missing.values())
        done = 0.0
        # Spawned, not forked: the parent draws its progress bar in a thread.
        context = multiprocessing.get_context("spawn")
        workers = min(self._workers, len(missing))
        with ProcessPoolExecutor(
            workers, mp_context=context, initializer=_die_when_interrupted
        ) as pool:
            futures: dict[Future[None], Job] = {}
            # The longest first, so that no worker is left alone with the largest file at the end.
            for path, job in sorted(missing.items(), key=lambda item: -_cost(item[1])):
                futures[pool.submit(_compress_one, path, job)] = job
            try:
                for future in as_completed(futures):
                    future.result()
                    done += _cost(futures[future])
                    progress(done / total)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise


def _cost(job: Job) -> float:
    """CPU time relative to others: quality 11 searches, the rest hardly counts beside it."""
    return len(job.data) * (30.0 if job.quality >= 10 else 1.0)


def _die_when_interrupted() -> None:
    """Let Ctrl-C end this process in the middle of a call into C that takes half a minute."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _compress_one(path: Path, job: Job) -> None:
    # The widest window that every browser's decoder takes; no more than the file needs is used.
    files.write(path, brotli.compress(job.data, quality=job.quality, lgwin=24))
