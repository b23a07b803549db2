"""Where the bytes of files are kept: a folder, or a bucket of any S3-compatible service.

Objects are named as paths ("files/<file id>"), written once and never changed. Nothing here holds
more than a few pieces of an object in memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import obstore
import structlog
from obstore.exceptions import BaseError
from obstore.store import LocalStore, S3Store

from orchestrator.errors import SettingsError, StorageError
from orchestrator.settings import Settings, env_name

if TYPE_CHECKING:
    from obstore.store import S3Config

FOLDER: Final = "files"
PIECE_MAX_BYTES: Final = 4 << 20
_LOCAL_BYTES: Final = 1 << 20
# S3 takes no smaller parts but the last, and no more of them.
_S3_PART_BYTES: Final = 5 << 20
_S3_PARTS: Final = 10_000
_RETRY_TIMEOUT: Final = timedelta(seconds=30)
# The store may be a folder or a bucket that holds more than ours: only what is named like this is
# ever listed or removed. The store writes what is not whole yet under such a name with a number.
_OURS: Final = re.compile(rf"{FOLDER}/file-[0-9a-f]{{24}}")
_UNFINISHED: Final = re.compile(r"file-[0-9a-f]{24}#\d+")

log = structlog.get_logger("objects")


class NoSuchObject(StorageError):
    """There is no object of that name."""


class _Abandoned(Exception):
    """Ends an upload from within: only then does the store take back the parts it has."""


class Objects:
    """A store of objects. All methods raise `StorageError` when it cannot be read or written."""

    def __init__(
        self, store: LocalStore | S3Store, *, root: Path | None, part_bytes: int, piece_bytes: int
    ) -> None:
        """``root`` is the folder of a local store; it writes in parts and reads in pieces."""
        self._store = store
        self._root = root
        self._part_bytes = part_bytes
        self._piece_bytes = piece_bytes

    async def put(self, name: str, pieces: AsyncIterator[bytes]) -> int:
        """Write an object and return its bytes; it is visible only when it is whole.

        On return it is on the disk, so that a power cut leaves it.
        What ``pieces`` raises is raised, and nothing is left; so too when the caller is cancelled.
        """
        feed = _Feed()
        storing = asyncio.ensure_future(self._store_all(name, feed))
        storing.add_done_callback(feed.stop)
        size_bytes = 0
        try:
            async for piece in pieces:
                size_bytes += len(piece)
                await feed.offer(piece)
                if storing.done():
                    break
            await feed.offer(None)
        except BaseException:
            # Not cancelled: a store that is stopped in the middle keeps the parts it was sent.
            feed.abandon()
            await asyncio.wait({storing})
            if not storing.cancelled():
                storing.exception()
            raise
        with _explained("write", name):
            await storing
        return size_bytes

    async def _store_all(self, name: str, feed: _Feed) -> None:
        await obstore.put_async(
            self._store,
            name,
            feed.taken(),
            use_multipart=True,
            chunk_size=self._part_bytes,
            max_concurrency=1,
        )
        if self._root is not None:
            # A row that names the object is about to be written: it must not outlive its bytes.
            try:
                await asyncio.to_thread(_sync, self._root / name)
            except BaseException:
                (self._root / name).unlink(missing_ok=True)
                raise

    async def read(self, name: str) -> AsyncGenerator[bytes]:
        """Yield an object in pieces of at most `PIECE_MAX_BYTES`; raises `NoSuchObject`."""
        size_bytes = await self.size(name)
        if size_bytes is None:
            raise _no_such(name)
        # Piece by piece, as one long answer would be cut off by the store when the reader is slow.
        for start in range(0, size_bytes, self._piece_bytes):
            with _explained("read", name):
                piece = await obstore.get_range_async(
                    self._store, name, start=start, end=min(start + self._piece_bytes, size_bytes)
                )
            yield bytes(piece)

    async def size(self, name: str) -> int | None:
        """Return the bytes of an object; None if there is none."""
        try:
            with _explained("read", name):
                with contextlib.suppress(FileNotFoundError):
                    return (await obstore.head_async(self._store, name))["size"]
                # The answer to a HEAD cannot say whether it is the bucket that is missing.
                return (await obstore.get_async(self._store, name)).meta["size"]
        except NoSuchObject:
            return None

    async def delete(self, name: str) -> None:
        """Delete an object; it is fine if there is none."""
        with contextlib.suppress(NoSuchObject), _explained("delete", name):
            await obstore.delete_async(self._store, name)

    async def fetch(self, name: str, path: Path) -> None:
        """Make ``path`` a file with the bytes of an object, or leave it; raises `NoSuchObject`.

        It may share its bytes with the store: read it, never write to it.
        """
        if self._root is not None:
            await asyncio.to_thread(_link, self._root / name, path, name)
            return
        with _whole(path) as partial, partial.open("wb") as file:
            async for piece in self.read(name):
                await asyncio.to_thread(file.write, piece)

    async def older_than(self, before: float) -> AsyncGenerator[list[str]]:
        """Yield the names of files last written before ``before`` (Unix seconds), in lists.

        What is not named as a file of ours is someone else's, and not listed.
        """
        with _explained("list", FOLDER):
            async for found in obstore.list(self._store, FOLDER, chunk_size=500):
                yield [
                    one["path"]
                    for one in found
                    if _OURS.fullmatch(one["path"]) and one["last_modified"].timestamp() < before
                ]

    def discard_unfinished(self) -> int:
        """Remove what a killed process left half-written in a local store; returns how many.

        Only while no one writes: at the start of the server. Blocks.
        """
        if self._root is None:
            return 0
        left = [
            path for path in (self._root / FOLDER).iterdir() if _UNFINISHED.fullmatch(path.name)
        ]
        for path in left:
            path.unlink(missing_ok=True)
        return len(left)


def open_objects(settings: Settings) -> Objects:
    """Return the store that the settings name; makes its folder. Raises `SettingsError`.

    An S3 store whose keys are not set uses those that the machine has by AWS's own rules.
    """
    url = settings.storage_url
    if url is None:
        return _local(settings.data_dir / FOLDER)
    if url.startswith("s3://"):
        return _s3(url, settings)
    if "://" in url:
        raise SettingsError(
            f"storage_url ({env_name('storage_url')}) must be a folder or s3://bucket/prefix,"
            f" not {url!r}"
        )
    return _local(Path(url))


def _local(root: Path) -> Objects:
    root = root.absolute()
    try:
        (root / FOLDER).mkdir(parents=True, exist_ok=True, mode=0o700)
        # `mkdir` gives the mode to the innermost folder only, and the files are for their owner.
        root.chmod(0o700)
        _sync(root / FOLDER)
    except OSError as error:
        raise SettingsError(
            f"files cannot be kept in {root} ({error.strerror}: {error.filename or root}): name a"
            f" folder of this user's with {env_name('storage_url')}, or mend that one"
        ) from error
    return Objects(LocalStore(root), root=root, part_bytes=_LOCAL_BYTES, piece_bytes=_LOCAL_BYTES)


def _s3(url: str, settings: Settings) -> Objects:
    parts = urlsplit(url)
    if not parts.netloc:
        raise SettingsError(
            f"storage_url ({env_name('storage_url')}) must name a bucket, as s3://bucket/prefix,"
            f" not {url!r}"
        )
    # One object a request: services other than Amazon's may not know how to delete many.
    config: S3Config = {"disable_bulk_delete": True}
    if settings.storage_endpoint is not None:
        config["endpoint"] = settings.storage_endpoint
    if settings.storage_region is not None:
        config["region"] = settings.storage_region
    if settings.storage_access_key_id is not None:
        config["access_key_id"] = settings.storage_access_key_id
    if settings.storage_secret_access_key is not None:
        config["secret_access_key"] = settings.storage_secret_access_key
    store = S3Store(
        parts.netloc,
        prefix=parts.path.strip("/") or None,
        config=config,
        client_options={"allow_http": (settings.storage_endpoint or "").startswith("http://")},
        retry_config={"max_retries": 4, "retry_timeout": _RETRY_TIMEOUT},
    )
    part_bytes = max(_S3_PART_BYTES, -(-settings.file_max_bytes // (_S3_PARTS - 1)))
    return Objects(store, root=None, part_bytes=part_bytes, piece_bytes=PIECE_MAX_BYTES)


class _Feed:
    """Hands pieces from the one who reads them to the store, one at a time."""

    def __init__(self) -> None:
        self._pieces: asyncio.Queue[bytes | _Abandoned | None] = asyncio.Queue()
        self._room = asyncio.Event()
        self._stopped = False

    async def offer(self, piece: bytes | None) -> None:
        """Pass on a piece, or None after the last, once the store asks for it or has given up."""
        await self._room.wait()
        if not self._stopped:
            self._room.clear()
        self._pieces.put_nowait(piece)

    def abandon(self) -> None:
        self._pieces.put_nowait(_Abandoned())

    def stop(self, storing: asyncio.Future[None]) -> None:
        """Let no one wait for a store that takes no more."""
        self._stopped = True
        self._room.set()

    async def taken(self) -> AsyncIterator[bytes]:
        """Yield what is offered."""
        while True:
            self._room.set()
            piece = await self._pieces.get()
            if piece is None:
                return
            if isinstance(piece, _Abandoned):
                raise piece
            yield piece


@contextlib.contextmanager
def _explained(verb: str, name: str) -> Iterator[None]:
    """Turn what the store raises into `NoSuchObject` or `StorageError`; the log has the details."""
    try:
        yield
    except (BaseError, OSError) as error:
        # A bucket that is not there is told like an object that is not, but no one lacks a file.
        if isinstance(error, FileNotFoundError) and "NoSuchBucket" not in str(error):
            raise _no_such(name) from error
        log.error("object store failed", verb=verb, name=name, error=str(error).partition("\n")[0])
        raise StorageError(
            f"The store of files could not {verb} {name}: try again later."
        ) from error


def _sync(path: Path) -> None:
    """Have the system put a file and its name in its folder on the disk, not only in memory."""
    for one in (path, path.parent):
        descriptor = os.open(one, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _no_such(name: str) -> NoSuchObject:
    return NoSuchObject(f"The store of files has no {name}.")


def _link(source: Path, path: Path, name: str) -> None:
    with _explained("read", name):
        path.unlink(missing_ok=True)
        try:
            os.link(source, path)
        except FileNotFoundError:
            raise
        except OSError:
            # Another file system, or one without hard links.
            with _whole(path) as partial:
                shutil.copyfile(source, partial)


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """Give a path to write to, which becomes ``path`` once all is written.

    A process that is killed in the middle must leave no short file that is taken for a whole one.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
