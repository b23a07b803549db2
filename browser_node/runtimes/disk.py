"""Files of a native node, laid out on disk as `wasm_build` lays them out."""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from browser_node.models import ManifestError
from browser_node.runtimes.store import path_of

# Path below /models/ on the server, most bytes wanted → bytes; raises `NetworkError`.
Download = Callable[[str, int], Awaitable[bytes]]


class DiskFiles:
    """Files below ``root``; without ``download`` they are somebody else's, and only read.

    Writing is atomic, so that nodes may share a folder.
    """

    def __init__(self, root: Path, *, download: Download | None) -> None:
        self._root = root
        self._download = download

    async def names(self) -> list[str]:
        return await asyncio.to_thread(
            lambda: [path.name for path in self._root.glob("*/*") if "." not in path.stem]
        )

    async def size(self, name: str) -> int | None:
        return await asyncio.to_thread(_size, self._root / path_of(name))

    async def read(self, name: str) -> bytes | None:
        return await asyncio.to_thread(_read, self._root / path_of(name))

    async def write(self, name: str, body: bytes) -> None:
        await asyncio.to_thread(_write, self._root / path_of(name), body)

    async def remove(self, name: str) -> None:
        if self._download is not None:
            path = self._root / path_of(name)
            await asyncio.to_thread(lambda: path.unlink(missing_ok=True))

    async def download(self, name: str, limit_bytes: int) -> bytes:
        if self._download is None:
            raise ManifestError(f"{self._root / path_of(name)} is missing: run `make setup`")
        return await self._download(path_of(name), limit_bytes)

    async def sha256(self, body: bytes) -> str:
        return await asyncio.to_thread(lambda: hashlib.sha256(body).hexdigest())

    def to_bytes(self, body: bytes) -> bytes:
        return body

    def size_of(self, body: bytes) -> int:
        return len(body)

    def join(self, bodies: Sequence[bytes]) -> bytes:
        return b"".join(bodies)


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}.partial")
    try:
        partial.write_bytes(content)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
