"""The browser runtime, in a module worker under Pyodide: the only code that touches JavaScript.

Bytes that only JavaScript needs (the backbone) never enter Python's heap; what crosses is copied,
as the heap may grow during an await. ``js.ort`` is put there by ``static/worker/node.js``.
"""

from __future__ import annotations

import asyncio
import json
import random
from array import array
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

import js
from pyodide.ffi import JsException, create_proxy, to_js

from browser_node.models import ModelFile
from browser_node.pipelines import Vector
from browser_node.politeness import Signals, VolunteerLimits
from browser_node.protocol import MAX_FRAME_BYTES, SUBPROTOCOL, CloseCode, Runtime
from browser_node.runtimes import page
from browser_node.runtimes.clock import LoopClock
from browser_node.runtimes.driver import Driver
from browser_node.runtimes.seams import NetworkError, SocketClosed
from browser_node.runtimes.status import Status
from browser_node.runtimes.store import Store, path_of
from browser_node.session import Identity
from browser_node.work import Encoder, Head

_FOLDER: Final = "zerogpu-models"
_DATABASE: Final = "zerogpu"
_TABLE: Final = "keys"
_KEY: Final = "node"
_CLOSE_TIMEOUT_S: Final = 1.0
_BREATH_S: Final = 0.004
_CURVE: Final = {"name": "ECDSA", "namedCurve": "P-256"}


def _object(**fields: object) -> Any:
    return to_js(fields, dict_converter=js.Object.fromEntries)


# ── network ──────────────────────────────────────────────────────────────────────────────────────


class _Network:
    """The worker's own origin."""

    host = str(js.location.host)

    async def register(self, request_json: bytes) -> tuple[int, bytes]:
        response = await _fetch(
            "/register",
            method="POST",
            headers=_object(**{"content-type": "application/json"}),
            body=to_js(request_json),
        )
        return response.status, (await response.arrayBuffer()).to_bytes()

    async def connect(self, path: str) -> _Socket:
        try:
            socket = _Socket(js.location.origin.replace("http", "ws", 1) + path)
        except JsException as error:
            raise NetworkError(f"{path} could not be opened: {error.message}") from error
        await socket.opened
        return socket


class _Socket:
    """A JavaScript WebSocket; its callbacks are released when it closes."""

    def __init__(self, url: str) -> None:
        loop = asyncio.get_running_loop()
        self.opened: asyncio.Future[None] = loop.create_future()
        self._closed: asyncio.Future[SocketClosed] = loop.create_future()
        self._inbox: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._js = js.WebSocket.new(url, SUBPROTOCOL)
        self._js.binaryType = "arraybuffer"
        self._callbacks = {
            "open": create_proxy(self._on_open),
            "message": create_proxy(self._on_message),
            "close": create_proxy(self._on_close),
        }
        for event, callback in self._callbacks.items():
            self._js.addEventListener(event, callback)

    async def receive(self) -> bytes:
        message = await self._inbox.get()
        if message is None:
            self._inbox.put_nowait(None)
            raise self._closed.result()
        return message

    async def send(self, message: bytes) -> None:
        if self._closed.done():
            raise self._closed.result()
        self._js.send(to_js(message))

    async def close(self, code: int, reason: str) -> None:
        if self._closed.done():
            return
        # A page may say 1000 or an application's code only.
        allowed = code if code >= 4000 else CloseCode.NORMAL
        self._js.close(int(allowed), reason.encode()[:120].decode(errors="ignore"))
        await asyncio.wait({self._closed}, timeout=_CLOSE_TIMEOUT_S)

    def _on_open(self, event: Any) -> None:
        self.opened.set_result(None)

    def _on_message(self, event: Any) -> None:
        if isinstance(event.data, str) or event.data.byteLength > MAX_FRAME_BYTES:
            # Not a frame of this protocol; the decoder says so to the session.
            self._inbox.put_nowait(b"")
        else:
            self._inbox.put_nowait(event.data.to_bytes())

    def _on_close(self, event: Any) -> None:
        self._closed.set_result(SocketClosed(event.code, event.reason))
        self._inbox.put_nowait(None)
        if not self.opened.done():
            self.opened.set_exception(NetworkError("The server did not open the connection."))
        for name, callback in self._callbacks.items():
            self._js.removeEventListener(name, callback)
            callback.destroy()


async def _fetch(url: str, **options: object) -> Any:
    try:
        return await js.fetch(url, _object(**options))
    except JsException as error:
        raise NetworkError(f"{url} could not be reached: {error.message}") from error


# ── keys ─────────────────────────────────────────────────────────────────────────────────────────


class _Keys:
    """A P-256 pair whose private half no script can read, kept in IndexedDB across visits."""

    def __init__(self, pair: Any, public_key: bytes) -> None:
        self._pair = pair
        self.public_key = public_key

    @classmethod
    async def open(cls) -> _Keys:
        try:
            pair = await _stored_pair()
        except (JsException, AttributeError):
            # Private windows may refuse storage: this node is then a new one at each visit.
            pair = await _new_pair()
        raw = await js.crypto.subtle.exportKey("raw", pair.publicKey)
        return cls(pair, raw.to_bytes())

    async def sign(self, message: bytes) -> bytes:
        how = _object(name="ECDSA", hash="SHA-256")
        signature = await js.crypto.subtle.sign(how, self._pair.privateKey, to_js(message))
        return bytes(signature.to_bytes())


async def _new_pair() -> Any:
    return await js.crypto.subtle.generateKey(_object(**_CURVE), False, to_js(["sign"]))


async def _stored_pair() -> Any:
    opening = js.indexedDB.open(_DATABASE, 1)
    upgrade = create_proxy(lambda event: opening.result.createObjectStore(_TABLE))
    opening.onupgradeneeded = upgrade
    try:
        database = await _settled(opening)
    finally:
        upgrade.destroy()
    try:
        found = await _settled(database.transaction(_TABLE).objectStore(_TABLE).get(_KEY))
        if found is not None:
            return found
        pair = await _new_pair()
        table = database.transaction(_TABLE, "readwrite").objectStore(_TABLE)
        await _settled(table.put(pair, _KEY))
        return pair
    finally:
        database.close()


async def _settled(request: Any) -> Any:
    """Return the result of an IndexedDB request; raises its error."""
    done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    succeeded = create_proxy(lambda event: done.set_result(request.result))
    failed = create_proxy(lambda event: done.set_exception(JsException(str(request.error))))
    request.onsuccess, request.onerror = succeeded, failed
    try:
        return await done
    finally:
        request.onsuccess = request.onerror = None
        succeeded.destroy()
        failed.destroy()


# ── files ────────────────────────────────────────────────────────────────────────────────────────


class _Files:
    """ArrayBuffers in the origin private file system, one file each.

    Where there is no such file system, or no room in it, they stay in memory for this visit.
    """

    def __init__(self, folder: Any | None) -> None:
        self._folder = folder
        self._memory: dict[str, Any] = {}

    @classmethod
    async def open(cls) -> _Files:
        try:
            root = await js.navigator.storage.getDirectory()
            return cls(await root.getDirectoryHandle(_FOLDER, _object(create=True)))
        except (JsException, AttributeError):
            return cls(None)

    async def names(self) -> list[str]:
        names = list(self._memory)
        if self._folder is not None:
            with suppress(JsException):
                names += [name async for name in self._folder.keys()]  # noqa: SIM118  # JavaScript's
        return names

    async def size(self, name: str) -> int | None:
        if name in self._memory:
            return int(self._memory[name].byteLength)
        file = await self._file(name)
        return None if file is None else int(file.size)

    async def read(self, name: str) -> Any | None:
        if name in self._memory:
            return self._memory[name]
        file = await self._file(name)
        if file is not None:
            # The person may clear the site's storage at any time.
            with suppress(JsException):
                return await file.arrayBuffer()
        return None

    async def write(self, name: str, body: Any) -> None:
        if self._folder is None:
            self._memory[name] = body
            return
        try:
            handle = await self._folder.getFileHandle(name, _object(create=True))
            access = await handle.createSyncAccessHandle()
            try:
                access.truncate(0)
                access.write(js.Uint8Array.new(body))
                access.flush()
            finally:
                access.close()
        except JsException:
            # No room, or another tab is writing the same part just now.
            self._memory[name] = body

    async def remove(self, name: str) -> None:
        self._memory.pop(name, None)
        if self._folder is not None:
            with suppress(JsException):
                await self._folder.removeEntry(name)

    async def download(self, name: str, limit_bytes: int) -> Any:
        url = f"/models/{path_of(name)}"
        # What is kept in files need not be kept in the HTTP cache as well.
        response = await _fetch(url, cache="no-store")
        if not response.ok:
            raise NetworkError(f"{url} was answered with {response.status}")
        try:
            return await response.arrayBuffer()
        except JsException as error:
            raise NetworkError(f"{url} broke off: {error.message}") from error

    async def sha256(self, body: Any) -> str:
        digest = await js.crypto.subtle.digest("SHA-256", body)
        return bytes(digest.to_bytes()).hex()

    def to_bytes(self, body: Any) -> bytes:
        return bytes(body.to_bytes())

    def size_of(self, body: Any) -> int:
        return int(body.byteLength)

    def join(self, bodies: Sequence[Any]) -> Any:
        whole = js.Uint8Array.new(sum(body.byteLength for body in bodies))
        at = 0
        for body in bodies:
            whole.set(js.Uint8Array.new(body), at)
            at += body.byteLength
        return whole.buffer

    async def _file(self, name: str) -> Any | None:
        if self._folder is None:
            return None
        try:
            return await (await self._folder.getFileHandle(name)).getFile()
        except JsException:
            return None


class _Clock(LoopClock):
    """Never sleeps less than it takes the browser to deliver what came during a computation.

    A socket's message reaches the worker's loop after hops between processes and queues: with 1 ms
    most pings missed the gap between two batches, with 4 ms (1.6 % of a batch) none did.
    """

    async def sleep(self, seconds: float) -> None:
        await super().sleep(max(seconds, _BREATH_S))


# ── ONNX ─────────────────────────────────────────────────────────────────────────────────────────


class _Onnx:
    """Sessions of ONNX Runtime Web's plain wasm build."""

    def __init__(self, store: Store[Any]) -> None:
        self._store = store

    async def encoder(self, file: ModelFile) -> Encoder:
        return _Encoder(await self._open(file))

    async def head(self, file: ModelFile) -> Head:
        return _Head(await self._open(file))

    async def release(self, session: Encoder | Head) -> None:
        # Its memory is ONNX Runtime's own heap, which no garbage collector looks into.
        if isinstance(session, _Encoder | _Head):
            await session.session.release()

    async def _open(self, file: ModelFile) -> Any:
        options = _object(executionProviders=["wasm"], graphOptimizationLevel="all")
        content = js.Uint8Array.new(await self._store.assemble(file))
        return await js.ort.InferenceSession.create(content, options)


class _Encoder:
    """A backbone with int32 inputs [batch, seq] and one float32 output [batch, dimensions]."""

    def __init__(self, session: Any) -> None:
        self.session = session

    async def encode(self, sequences: Sequence[list[int]]) -> list[Vector]:
        longest = max(map(len, sequences))
        ids, mask = array("i"), array("i")
        for sequence in sequences:
            padding = [0] * (longest - len(sequence))
            ids.extend(sequence)
            ids.extend(padding)
            mask.extend([1] * len(sequence))
            mask.extend(padding)
        feeds = js.Object.new()
        feeds.input_ids = _tensor("int32", ids, len(sequences))
        feeds.attention_mask = _tensor("int32", mask, len(sequences))
        return list(await _run(self.session, feeds, len(sequences)))


class _Head:
    """A head with the float32 input ``vectors`` [n, dimensions] and the output [n, labels]."""

    def __init__(self, session: Any) -> None:
        self.session = session

    async def score(self, vectors: Sequence[Vector]) -> list[list[float]]:
        flat = array("f")
        for vector in vectors:
            flat.extend(vector)
        feeds = js.Object.new()
        feeds.vectors = _tensor("float32", flat, len(vectors))
        return [row.tolist() for row in await _run(self.session, feeds, len(vectors))]


def _tensor(kind: str, values: array[Any], rows: int) -> Any:
    """Return a tensor [rows, len(values) ÷ rows] over a copy of ``values`` outside the heap."""
    return js.ort.Tensor.new(kind, to_js(values), to_js([rows, len(values) // rows]))


async def _run(session: Any, feeds: Any, rows: int) -> list[array[float]]:
    """Return the rows of the session's only float32 output."""
    outputs = await session.run(feeds)
    values = array("f", getattr(outputs, session.outputNames[0]).data.to_bytes())
    width = len(values) // rows
    return [values[at : at + width] for at in range(0, len(values), width)]


# ── the page ─────────────────────────────────────────────────────────────────────────────────────


def start(first: Any) -> Any:
    """Start the node with the page's ``start`` message; return what takes its later messages.

    Called once by ``static/worker/node.js``; what it returns lives as long as the worker.
    """
    node = _Node(_plain(first))
    return create_proxy(node.on_message)


class _Node:
    """One worker's node: builds the driver, then passes messages both ways."""

    def __init__(self, first: page.Message) -> None:
        self._driver: Driver | None = None
        self._waiting: list[page.Message] = []
        self._last: Status | None = None
        self._task = asyncio.ensure_future(self._run(first))

    def on_message(self, message: Any) -> None:
        later = _plain(message)
        if self._driver is None:
            self._waiting.append(later)
        else:
            page.apply(later, self._driver)

    async def _run(self, first: page.Message) -> None:
        try:
            self._driver = await _driver(first, self._show)
            for message in self._waiting:
                page.apply(message, self._driver)
            await self._driver.run()
        except Exception as error:
            # The page must not wait for a node that is gone, whatever ended it.
            status = self._driver.status() if self._driver is not None else Status(phase="error")
            self._show(replace(status, phase="error", reason="This node broke down."))
            told = f"{type(error).__name__}: {error}"[:500]
            _post({"type": "error", "code": "internal_error", "message": told})
            raise

    def _show(self, status: Status) -> None:
        _post(page.status_message(status))


def _plain(message: Any) -> page.Message:
    """Return a page's message as Python values; through JSON, so that null is None."""
    plain: page.Message = json.loads(str(js.JSON.stringify(message)))
    return plain


def _post(message: page.Message) -> None:
    js.postMessage(js.JSON.parse(json.dumps(message)))


async def _driver(first: page.Message, on_status: Callable[[Status], None]) -> Driver:
    limits = page.read_limits(first.get("limits") or {}, VolunteerLimits())
    signals = page.read_signals(first.get("signals") or {}, Signals())
    # Threads need shared memory, which needs isolation.
    threads = limits.threads if js.crossOriginIsolated else 1
    js.ort.env.wasm.numThreads = threads
    keys, files = await asyncio.gather(_Keys.open(), _Files.open())
    store = Store(files)
    agent = str(js.navigator.userAgent)[:200]
    identity = Identity(
        runtime=Runtime(kind="browser", backend="wasm", threads=threads, agent=agent),
        device=page.read_device(first.get("device") or {}, signals),
        public_key=keys.public_key,
        socket_path="",
    )
    return Driver(
        identity,
        network=_Network(),
        keys=keys,
        store=store,
        onnx=_Onnx(store),
        clock=_Clock(),
        rng=random.Random(),
        limits=limits,
        signals=signals,
        on_status=on_status,
        log=_log,
    )


def _log(event: str, **fields: object) -> None:
    told = " ".join(f"{name}={value}" for name, value in fields.items())
    js.console.debug(f"zerogpu {event} {told}")
