"""The object store in a folder and on a real S3-compatible server."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final

import pytest

from orchestrator.errors import SettingsError, StorageError
from orchestrator.settings import Settings
from orchestrator.storage.objects import PIECE_MAX_BYTES, NoSuchObject, Objects, open_objects

NAME: Final = "files/file-1"
ID: Final = f"file-{1:024x}"
_BUCKET: Final = "bucket"
_SIGNED: Final = {
    "authorization": "AWS4-HMAC-SHA256 Credential=id/20260101/us-east-1/s3/aws4_request,"
    " SignedHeaders=host, Signature=0"
}


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """The URL of an S3-compatible server in a process of its own, with a bucket."""
    with subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    ) as server:
        assert server.stderr is not None
        while (running := re.search(rb"Running on (http://\S+)", server.stderr.readline())) is None:
            assert server.poll() is None, "the S3 server ended before it listened"
        # It logs every request, and would stop for a pipe that is full.
        reading = threading.Thread(target=server.stderr.read)
        reading.start()
        url = running[1].decode()
        asked(f"{url}/{_BUCKET}", method="PUT")
        yield url
        server.terminate()
        reading.join()


def asked(url: str, *, method: str = "GET") -> str:
    request = urllib.request.Request(url, method=method, headers=_SIGNED)
    with urllib.request.urlopen(request, timeout=10) as reply:
        text: str = reply.read().decode()
        return text


def s3_settings(url: str, *, bucket: str = _BUCKET) -> Settings:
    return Settings(
        storage_url=f"s3://{bucket}/some/prefix",
        storage_endpoint=url,
        storage_region="us-east-1",
        storage_access_key_id="id",
        storage_secret_access_key="secret",
    )


@pytest.fixture(params=["folder", "s3"])
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> Objects:
    if request.param == "folder":
        return open_objects(Settings(data_dir=tmp_path / "data"))
    return open_objects(s3_settings(request.getfixturevalue("s3")))


async def pieces(*given: bytes) -> AsyncIterator[bytes]:
    for piece in given:
        yield piece


async def contents(objects: Objects, name: str) -> bytes:
    return b"".join([piece async for piece in objects.read(name)])


async def test_what_is_put_is_read_again(objects: Objects, tmp_path: Path) -> None:
    # Longer than two parts of an upload to S3, and than a piece, and divisible by neither.
    whole = os.urandom(1021) * 11_000
    given = [whole[at : at + 65_000] for at in range(0, len(whole), 65_000)]

    assert await objects.put(NAME, pieces(*given)) == len(whole)

    assert await objects.size(NAME) == len(whole)
    read = [piece async for piece in objects.read(NAME)]
    assert b"".join(read) == whole
    assert max(len(piece) for piece in read) <= PIECE_MAX_BYTES
    await objects.fetch(NAME, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == whole
    assert not (tmp_path / "copy.partial").exists()


async def test_an_object_may_be_empty(objects: Objects, tmp_path: Path) -> None:
    await objects.put("files/empty", pieces())
    await objects.fetch("files/empty", tmp_path / "copy")

    assert await objects.size("files/empty") == 0
    assert await contents(objects, "files/empty") == b""
    assert (tmp_path / "copy").read_bytes() == b""


async def test_an_object_is_not_there_until_it_is_whole(objects: Objects) -> None:
    name = "files/growing"
    sizes = []

    async def watched() -> AsyncIterator[bytes]:
        for _ in range(12):
            yield bytes(1 << 20)
            sizes.append(await objects.size(name))

    await objects.put(name, watched())

    assert sizes == [None] * 12
    assert await objects.size(name) == 12 << 20


async def test_what_ends_an_upload_is_raised_and_leaves_nothing(
    objects: Objects, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    async def broken() -> AsyncIterator[bytes]:
        for _ in range(12):
            yield bytes(1 << 20)
        raise LookupError("the client has gone")

    with pytest.raises(LookupError, match="the client has gone"):
        await objects.put("files/broken", broken())

    assert await objects.size("files/broken") is None
    assert left_of(request, tmp_path, "files/broken") == []


async def test_a_cancelled_upload_leaves_nothing(
    objects: Objects, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    stuck = asyncio.Event()

    async def stalled() -> AsyncIterator[bytes]:
        for _ in range(12):
            yield bytes(1 << 20)
        stuck.set()
        await asyncio.Event().wait()

    uploading = asyncio.create_task(objects.put("files/cancelled", stalled()))
    await stuck.wait()
    uploading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await uploading

    assert await objects.size("files/cancelled") is None
    assert left_of(request, tmp_path, "files/cancelled") == []


def left_of(request: pytest.FixtureRequest, folder: Path, name: str) -> list[str]:
    """Return what is left in the store of an upload that ended early."""
    if request.node.callspec.params["objects"] == "folder":
        return [str(path) for path in folder.rglob(f"{Path(name).name}*")]
    url = request.getfixturevalue("s3")
    uploads = asked(f"{url}/{_BUCKET}?uploads")
    return [name] if f"{name}<" in uploads else []


async def test_a_deleted_object_is_missing_and_may_be_deleted_again(
    objects: Objects, tmp_path: Path
) -> None:
    await objects.put(NAME, pieces(b"x"))
    await objects.delete(NAME)
    await objects.delete(NAME)

    assert await objects.size(NAME) is None
    with pytest.raises(NoSuchObject, match="has no files/file-1"):
        await contents(objects, NAME)
    with pytest.raises(NoSuchObject):
        await objects.fetch(NAME, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


async def test_old_objects_are_listed_and_young_ones_are_not(objects: Objects) -> None:
    before = time.time() - 3600
    await objects.put(f"files/{ID}", pieces(b"x"))

    young = [name async for names in objects.older_than(before) for name in names]
    old = [name async for names in objects.older_than(before + 7200) for name in names]

    assert f"files/{ID}" in old
    assert young == []


@pytest.mark.parametrize(
    "other", ["files/taxes.txt", f"files/sub/{ID}", f"files/{ID}.bak", f"files/file-{'G' * 24}"]
)
async def test_what_is_not_named_as_a_file_of_ours_is_never_listed(
    objects: Objects, other: str
) -> None:
    await objects.put(other, pieces(b"x"))

    listed = [name async for names in objects.older_than(time.time() + 3600) for name in names]

    assert other not in listed


async def endless() -> AsyncIterator[bytes]:
    while True:
        yield bytes(1 << 20)


async def test_a_bucket_that_is_missing_is_no_missing_object(s3: str) -> None:
    missing = open_objects(s3_settings(s3, bucket="nowhere"))

    with pytest.raises(StorageError, match="could not write files/file-1: try again later"):
        await missing.put(NAME, endless())
    with pytest.raises(StorageError, match="could not read files/file-1") as failed:
        await contents(missing, NAME)
    assert not isinstance(failed.value, NoSuchObject)


async def test_a_folder_that_cannot_be_written_ends_the_upload_without_reading_the_rest(
    tmp_path: Path,
) -> None:
    objects = open_objects(Settings(storage_url=str(tmp_path)))
    (tmp_path / "files").rmdir()
    (tmp_path / "files").write_bytes(b"in the way")

    with pytest.raises(StorageError, match="could not write files/file-1"):
        await objects.put(NAME, endless())


async def test_a_local_file_is_on_the_disk_when_its_put_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[int, int]] = []
    sync = os.fsync

    def noted(descriptor: int) -> None:
        sync(descriptor)
        status = os.fstat(descriptor)
        synced.append((status.st_ino, status.st_size))

    monkeypatch.setattr(os, "fsync", noted)
    objects = open_objects(Settings(data_dir=tmp_path))

    await objects.put(NAME, pieces(b"abc" * 700_000))

    file = tmp_path / "files" / NAME
    assert (file.stat().st_ino, 2_100_000) in synced, "the file's bytes"
    assert file.parent.stat().st_ino in [inode for inode, _ in synced], "the file's name"


async def test_a_local_file_that_cannot_be_brought_to_the_disk_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects = open_objects(Settings(data_dir=tmp_path))

    def broken(descriptor: int) -> None:
        raise OSError(errno.EIO, "the disk is ill")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(StorageError):
        await objects.put(NAME, pieces(b"abc"))

    assert list((tmp_path / "files" / "files").iterdir()) == []


async def test_a_local_file_is_fetched_without_a_copy(tmp_path: Path) -> None:
    objects = open_objects(Settings(storage_url=str(tmp_path / "store")))
    await objects.put(NAME, pieces(b"x"))
    (tmp_path / "copy").write_bytes(b"older")

    await objects.fetch(NAME, tmp_path / "copy")

    assert (tmp_path / "copy").stat().st_ino == (tmp_path / "store" / NAME).stat().st_ino
    await objects.delete(NAME)
    assert (tmp_path / "copy").read_bytes() == b"x"


# Where there are no hard links, a copy is killed by the limit on the size of a file.
COPY_KILLED: Final = """
import asyncio, os, pathlib, resource, signal, sys
from orchestrator.settings import Settings
from orchestrator.storage.objects import open_objects

def refused(*paths):
    raise OSError("this file system has no hard links")

os.link = refused
limit_bytes = int(sys.argv[2])
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))
folder = pathlib.Path(sys.argv[1])
objects = open_objects(Settings(storage_url=str(folder)))
asyncio.run(objects.fetch("files/file-1", folder / "copy"))
"""


async def test_a_copy_that_was_killed_in_the_middle_is_not_taken_for_a_whole_one(
    tmp_path: Path,
) -> None:
    objects = open_objects(Settings(storage_url=str(tmp_path)))
    whole = os.urandom(1 << 20)
    await objects.put(NAME, pieces(whole))

    def copied(limit_bytes: int) -> int:
        words = [sys.executable, "-c", COPY_KILLED, str(tmp_path), str(limit_bytes)]
        return subprocess.run(words, check=False, timeout=60).returncode

    assert await asyncio.to_thread(copied, 1 << 19) == -signal.SIGXFSZ
    assert not (tmp_path / "copy").exists()

    assert await asyncio.to_thread(copied, 1 << 22) == 0
    assert (tmp_path / "copy").read_bytes() == whole
    assert not (tmp_path / "copy.partial").exists()


def test_the_folder_is_for_its_owner_only(tmp_path: Path) -> None:
    open_objects(Settings(data_dir=tmp_path))

    assert (tmp_path / "files").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "files" / "files").stat().st_mode & 0o777 == 0o700


def test_what_a_killed_process_left_is_discarded_and_nothing_else(tmp_path: Path) -> None:
    objects = open_objects(Settings(storage_url=str(tmp_path)))
    (tmp_path / f"files/{ID}").write_bytes(b"whole")
    (tmp_path / f"files/{ID}#1").write_bytes(b"half")
    others = ["notes#1", "sub/report v2#14", f"{ID}#1", "files/notes#1", f"files/sub/{ID}#1"]
    for other in others:
        (tmp_path / other).parent.mkdir(exist_ok=True)
        (tmp_path / other).write_bytes(b"another's")

    assert objects.discard_unfinished() == 1

    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {f"files/{ID}", *others}


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("gs://bucket", "must be a folder or s3://bucket/prefix, not 'gs://bucket'"),
        ("s3://", "must name a bucket"),
    ],
)
def test_an_unknown_kind_of_store_is_refused(url: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        open_objects(Settings(storage_url=url))
