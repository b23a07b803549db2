"""Every frame of node protocol 1: typed, versioned, size-limited. Both ends import it from here.

A frame is one binary WebSocket message holding one msgpack map with a ``type`` key. Bytes from a
peer are decoded straight into a frozen struct with limits on every field; whatever does not fit
raises `ProtocolError` with the close code to answer with. Vectors travel as little-endian ``bin``:
an answer's as float32, evidence as float16. Units: ``_s`` seconds, ``_bytes`` bytes, ``_mb`` 10⁶
bytes, ``tokens`` model tokens.
"""

from __future__ import annotations

import enum
import hashlib
from typing import Annotated, Final, Literal, NewType, TypeVar

import msgpack
import msgspec
from msgspec import Meta

AttemptId = NewType("AttemptId", str)
NodeId = NewType("NodeId", str)
ModelDigest = NewType("ModelDigest", str)

VERSION: Final = 1
SUPPORTED_VERSIONS: Final = (1,)
SUBPROTOCOL: Final = "zerogpu.node.v1"
MAX_FRAME_BYTES: Final = 1 << 20
MAX_FRAME_BYTES_BEFORE_WELCOME: Final = 16 << 10
MAX_INPUT_CHARS: Final = 131_072
MAX_ITEMS: Final = 256
MAX_DELTA_CHARS: Final = 16_384
HELLO_TIMEOUT_S: Final = 5.0
NONCE_LIFETIME_S: Final = 60.0
# `Failed.code` of an attempt the node gives back unfinished (pause, hidden tab, drain): nobody is
# to blame.
HANDED_BACK: Final = "handed_back"
# `Failed.code` of an isolated attempt whose child process did not outlive it: blame "input".
CRASHED_IN_ISOLATION: Final = "crashed_in_isolation"
TIMED_OUT_IN_ISOLATION: Final = "timed_out_in_isolation"
OUT_OF_MEMORY_IN_ISOLATION: Final = "out_of_memory_in_isolation"
# A node keeps what it has committed to for so long, or the latest of it up to so many bytes; who
# wants to see it asks at once.
EVIDENCE_KEPT_S: Final = 30.0
EVIDENCE_KEPT_BYTES: Final = 16 << 20

_F = TypeVar("_F")
_MAX_SECONDS = 86_400.0
_MAX_TOKENS = 1 << 31


class CloseCode(enum.IntEnum):
    """WebSocket close codes of protocol 1 (RFC 6455 §7.4.2 leaves 4000–4999 to applications)."""

    NORMAL = 1000
    GOING_AWAY = 1001
    TOO_BIG = 1009
    BAD_FRAME = 4400
    BAD_CREDENTIALS = 4401
    BAD_ORIGIN = 4403
    BAD_VERSION = 4406
    TIMEOUT = 4408
    OUT_OF_ORDER = 4409
    TOO_MANY = 4429
    WRONG_ANSWERS = 4460
    BANNED = 4461
    SLOW_READER = 4480
    UNAVAILABLE = 4503


class ProtocolError(Exception):
    """The peer sent something protocol 1 does not allow; ``close_code`` is how to answer."""

    def __init__(self, reason: str, close_code: CloseCode = CloseCode.BAD_FRAME) -> None:
        super().__init__(reason)
        self.close_code = close_code


Seconds = Annotated[float, Meta(ge=0, le=_MAX_SECONDS)]
Rate = Annotated[float, Meta(ge=0, le=1e9)]
Share = Annotated[float, Meta(ge=0, le=1)]
Count = Annotated[int, Meta(ge=0, le=_MAX_TOKENS)]
Name = Annotated[str, Meta(max_length=64)]
Sentence = Annotated[str, Meta(max_length=200)]
Digest = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
Id = Annotated[str, Meta(min_length=1, max_length=64)]
Input = Annotated[str, Meta(max_length=MAX_INPUT_CHARS)]
Blob = Annotated[bytes, Meta(max_length=MAX_FRAME_BYTES)]
Commitment = Annotated[bytes, Meta(max_length=32)]
Params = Annotated[
    dict[Name, Annotated[str, Meta(max_length=256)] | bool | Count | Rate], Meta(max_length=16)
]
NodeState = Literal["active", "hidden", "throttled", "paused", "draining"]
Blame = Literal["node", "input", "model"]


# Values all the way down, so no cycle can run through one: the garbage collector need not look.
class Frame(
    msgspec.Struct,
    frozen=True,
    forbid_unknown_fields=True,
    tag_field="type",
    kw_only=True,
    gc=False,
):
    """Base of all frames."""


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, gc=False):
    """Base of what frames are made of."""


# ── node → orchestrator ──────────────────────────────────────────────────────────────────────────


class Runtime(Part, frozen=True, kw_only=True):
    """What executes: ``kind`` and ``backend`` are the runtime class that trust is kept for."""

    kind: Literal["browser", "native", "cpu"]
    backend: Literal["wasm", "webgpu", "onnxruntime"]
    threads: Annotated[int, Meta(ge=1, le=1024)]
    agent: Sentence = ""


class Device(Part, frozen=True, kw_only=True):
    """What the node says of its machine. Claims: they inform placement and never grant trust."""

    cores: Annotated[int, Meta(ge=1, le=4096)]
    memory_mb: Count | None = None
    connection: Name | None = None
    battery: Share | None = None
    charging: bool | None = None
    time_zone: Name | None = None
    data_saver: bool = False


class Limits(Part, frozen=True, kw_only=True):
    """What the volunteer allows: ``cpu_share`` of the time, at most ``threads`` threads."""

    cpu_share: Annotated[float, Meta(gt=0, le=1)] = 1.0
    threads: Annotated[int, Meta(ge=1, le=1024)] = 1


class Hello(Frame, frozen=True, kw_only=True, tag="hello"):
    """First frame. ``signature`` is ECDSA P-256/SHA-256 (r‖s, 64 bytes) over `signed_message`.

    ``public_key`` is the uncompressed point (65 bytes). Both are empty on the CPU worker's private
    socket, where the transport has already authenticated the peer.
    """

    versions: Annotated[tuple[int, ...], Meta(min_length=1, max_length=8)]
    nonce: Name = ""
    public_key: Annotated[bytes, Meta(max_length=65)] = b""
    signature: Annotated[bytes, Meta(max_length=64)] = b""
    ticket: Annotated[str, Meta(max_length=512)] | None = None
    runtime: Runtime
    device: Device
    cached: Annotated[tuple[Digest, ...], Meta(max_length=64)] = ()
    limits: Limits = Limits()


class Speed(Part, frozen=True, kw_only=True):
    """One calibration point: throughput at a batch size."""

    batch_size: Annotated[int, Meta(ge=1, le=1024)]
    tokens_per_s: Rate


class Answer(Part, frozen=True, kw_only=True):
    """What a pipeline made of one input, and what that rests on (`agreement` says in what form)."""

    output: Blob
    evidence: Blob = b""


class Ready(Frame, frozen=True, kw_only=True, tag="ready"):
    """A model is loaded; ``answers`` are in the order of the `Load` frame's challenge."""

    digest: Digest
    load_s: Seconds
    calibration: Annotated[tuple[Speed, ...], Meta(max_length=16)] = ()
    answers: Annotated[tuple[Answer, ...], Meta(max_length=MAX_ITEMS)] = ()


class Capacity(Frame, frozen=True, kw_only=True, tag="capacity"):
    """How many attempts the node will hold at once, and why that is less than usual if it is."""

    slots: Annotated[int, Meta(ge=0, le=MAX_ITEMS)]
    state: NodeState
    reason: Sentence = ""
    limits: Limits | None = None


class Result(Part, frozen=True, kw_only=True, omit_defaults=True):
    """One finished attempt. ``tokens`` is the node's own count, a cross-check only.

    Of the evidence a volunteer's node sends the SHA-256 (``commitment``) and shows it when it is
    asked to (`Reveal`): one answer in twenty is audited, and it is most of what a node would send.
    The CPU worker sends it along. Both are empty where there is none.
    """

    attempt_id: Id
    output: Blob
    evidence: Blob = b""
    compute_s: Seconds
    tokens: Count = 0
    commitment: Commitment = b""


class Results(Frame, frozen=True, kw_only=True, tag="results"):
    items: Annotated[tuple[Result, ...], Meta(min_length=1, max_length=MAX_ITEMS)]


class Shown(Part, frozen=True, kw_only=True):
    """The evidence of an attempt; None where it is not kept any more."""

    attempt_id: Id
    evidence: Blob | None


class Revealed(Frame, frozen=True, kw_only=True, tag="revealed"):
    """Answer to `Reveal`, in as many frames as it takes."""

    items: Annotated[tuple[Shown, ...], Meta(min_length=1, max_length=MAX_ITEMS)]


class Delta(Frame, frozen=True, kw_only=True, tag="delta"):
    """A piece of the text that an attempt's `Result` will hold; ``seq`` counts from 0 within it.

    Only for attempts whose `JobItem` asks for it. The pieces so far are a prefix of the output.
    """

    attempt_id: Id
    seq: Count
    text: Annotated[str, Meta(min_length=1, max_length=MAX_DELTA_CHARS)]


class Failed(Frame, frozen=True, kw_only=True, tag="failed"):
    """An attempt failed, or (with ``digest`` and no ``attempt_id``) a model could not be loaded."""

    attempt_id: Id | None = None
    digest: Digest | None = None
    blame: Blame
    code: Name
    message: Sentence = ""


class Pong(Frame, frozen=True, kw_only=True, tag="pong"):
    """Answer to `Ping`; ``busy_s`` is how long the node was computing before it could answer."""

    n: Count
    busy_s: Seconds = 0.0


class Bye(Frame, frozen=True, kw_only=True, tag="bye"):
    """The node leaves of its own will; attempts it still holds move at once."""

    reason: Sentence = ""


# ── orchestrator → node ──────────────────────────────────────────────────────────────────────────


class RecipeFile(Part, frozen=True, kw_only=True):
    """One pinned file of a model, named inside the model's folder."""

    path: Annotated[str, Meta(max_length=128)]
    sha256: Digest
    size_bytes: Annotated[int, Meta(ge=0, le=1 << 40)]


class Recipe(Part, frozen=True, kw_only=True):
    """A model the node is asked to have; see ``/models/manifests/<digest>.json`` for its parts."""

    model_id: Name
    version: Name
    digest: Digest
    files: Annotated[tuple[RecipeFile, ...], Meta(max_length=64)] = ()


class Welcome(Frame, frozen=True, kw_only=True, tag="welcome"):
    """The node is in. ``ticket`` resumes this session after a lost connection."""

    version: int
    node_id: Id
    ticket: Annotated[str, Meta(max_length=512)]
    recipes: Annotated[tuple[Recipe, ...], Meta(max_length=64)] = ()


class Refused(Frame, frozen=True, kw_only=True, tag="refused"):
    """The node is not wanted now; ``retry_after_s`` is absent when it need not come back."""

    reason: Sentence
    retry_after_s: Seconds | None = None


class Task(Part, frozen=True, kw_only=True):
    """One input for a pipeline with its options."""

    input: Input
    params: Params = {}


class Load(Frame, frozen=True, kw_only=True, tag="load"):
    """Load a model, run the challenge, answer `Ready`."""

    recipe: Recipe
    challenge: Annotated[tuple[Task, ...], Meta(max_length=MAX_ITEMS)] = ()


class Unload(Frame, frozen=True, kw_only=True, tag="unload"):
    digest: Digest


class JobItem(Part, frozen=True, kw_only=True, omit_defaults=True):
    """One attempt, to be answered within ``lease_s``; ``tokens`` is the billed input count.

    ``isolated``: to be run alone in a child process with limits; only the CPU worker does.
    ``stream``: where the pipeline answers bit by bit, its text is wanted as it comes (`Delta`).
    ``background``: nobody waits for it at a keyboard; whatever is not in the background goes first.
    """

    attempt_id: Id
    digest: Digest
    lease_s: Seconds
    tokens: Count
    input: Input
    params: Params = {}
    isolated: bool = False
    stream: bool = False
    background: bool = False


class Jobs(Frame, frozen=True, kw_only=True, tag="jobs"):
    items: Annotated[tuple[JobItem, ...], Meta(min_length=1, max_length=MAX_ITEMS)]


class Reveal(Frame, frozen=True, kw_only=True, tag="reveal"):
    """Show what these attempts' results rest on, as they committed to it."""

    attempt_ids: Annotated[tuple[Id, ...], Meta(min_length=1, max_length=MAX_ITEMS)]


class Cancel(Frame, frozen=True, kw_only=True, tag="cancel"):
    attempt_ids: Annotated[tuple[Id, ...], Meta(min_length=1, max_length=MAX_ITEMS)]


class Drain(Frame, frozen=True, kw_only=True, tag="drain"):
    """Finish what you hold, take nothing new; the orchestrator closes afterwards."""

    reason: Sentence = ""


class Notice(Frame, frozen=True, kw_only=True, tag="notice"):
    """A sentence for the person at the node."""

    text: Sentence


class Ping(Frame, frozen=True, kw_only=True, tag="ping"):
    n: Count


NodeFrame = Hello | Ready | Capacity | Results | Revealed | Delta | Failed | Pong | Bye
OrchestratorFrame = (
    Welcome | Refused | Load | Unload | Jobs | Reveal | Cancel | Drain | Notice | Ping
)

_node_decoder: msgspec.msgpack.Decoder[NodeFrame] = msgspec.msgpack.Decoder(NodeFrame)
_encoder: Final = msgspec.msgpack.Encoder()
_orchestrator_decoder: msgspec.msgpack.Decoder[OrchestratorFrame] = msgspec.msgpack.Decoder(
    OrchestratorFrame
)


def encode(frame: Frame) -> bytes:
    """Return the frame's wire bytes; raises `ProtocolError` when they exceed `MAX_FRAME_BYTES`."""
    data: bytes = msgpack.packb(msgspec.to_builtins(frame, builtin_types=(bytes,)))
    return _bounded(data, frame)


def encode_jobs(frame: Jobs) -> bytes:
    """Return what `encode` does, in a fifth of the time: every job is sent in such a frame."""
    return _bounded(_encoder.encode(frame), frame)


def _bounded(data: bytes, frame: Frame) -> bytes:
    if len(data) > MAX_FRAME_BYTES:
        raise ProtocolError(
            f"{type(frame).__name__} frame of {len(data)} bytes exceeds {MAX_FRAME_BYTES}",
            CloseCode.TOO_BIG,
        )
    return data


def decode_from_node(data: bytes, *, limit_bytes: int = MAX_FRAME_BYTES) -> NodeFrame:
    """Parse a frame sent by a node; raises `ProtocolError` for anything else."""
    return _decode(data, _node_decoder, limit_bytes)


def decode_from_orchestrator(
    data: bytes, *, limit_bytes: int = MAX_FRAME_BYTES
) -> OrchestratorFrame:
    """Parse a frame sent by an orchestrator; raises `ProtocolError` for anything else."""
    return _decode(data, _orchestrator_decoder, limit_bytes)


def _decode(data: bytes, decoder: msgspec.msgpack.Decoder[_F], limit_bytes: int) -> _F:
    if len(data) > limit_bytes:
        raise ProtocolError(
            f"frame of {len(data)} bytes exceeds the limit of {limit_bytes}", CloseCode.TOO_BIG
        )
    try:
        # Typed while parsing: unpacking to plain objects first lets 1 MiB of empty arrays grow
        # seventyfold.
        return decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"frame does not fit protocol {VERSION}: {error}"[:200]) from error


def commitment_to(evidence: bytes) -> bytes:
    """Return what a `Result` says of evidence that it does not carry: SHA-256, nothing of none."""
    return hashlib.sha256(evidence).digest() if evidence else b""


def signed_message(*, nonce: str, origin: str, version: int = VERSION) -> bytes:
    """Return what a node signs in `Hello`: domain tag, version, nonce, the orchestrator's origin.

    The origin binds the signature to one server: a hostile orchestrator cannot relay it to another.
    """
    return "\n".join(("zerogpu node", str(version), nonce, origin)).encode()
