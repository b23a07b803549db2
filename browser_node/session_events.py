"""What happens to a node's session and what it wants done: one frozen value per kind."""

from __future__ import annotations

from dataclasses import dataclass

from browser_node.politeness import Politeness
from browser_node.protocol import (
    Answer,
    CloseCode,
    Delta,
    Failed,
    Frame,
    JobItem,
    Limits,
    ModelDigest,
    OrchestratorFrame,
    Recipe,
    Result,
    Speed,
    Task,
)

# ── events ───────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Start:
    """The volunteer wants the node to run."""


@dataclass(frozen=True, slots=True)
class Stop:
    """The volunteer or the process wants the node to leave; the orchestrator hears ``reason``."""

    reason: str


@dataclass(frozen=True, slots=True)
class Registered:
    """The orchestrator's answer to `Register`; ``origin`` is the one to sign for."""

    nonce: str
    origin: str
    socket_path: str


@dataclass(frozen=True, slots=True)
class Prepared:
    """The hello's signature, and the digests of the models whose files are all here."""

    signature: bytes
    cached: tuple[ModelDigest, ...] = ()


@dataclass(frozen=True, slots=True)
class SetupFailed:
    """`Register`, `Prepare` or `Connect` failed; ``permanent`` when trying again is pointless."""

    reason: str
    retry_after_s: float | None = None
    permanent: bool = False


@dataclass(frozen=True, slots=True)
class Opened:
    """The WebSocket is open."""


@dataclass(frozen=True, slots=True)
class Received:
    """A frame came."""

    frame: OrchestratorFrame


@dataclass(frozen=True, slots=True)
class Closed:
    """The WebSocket is closed, by whomever."""

    code: int
    reason: str


@dataclass(frozen=True, slots=True)
class ModelLoaded:
    """`LoadModel` number ``load_id`` is done; ``slots`` attempts fill two micro-batches."""

    load_id: int
    load_s: float
    slots: int
    calibration: tuple[Speed, ...]
    answers: tuple[Answer, ...]


@dataclass(frozen=True, slots=True)
class ModelFailed:
    """`LoadModel` number ``load_id`` could not be done."""

    load_id: int
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class ComputeStarted:
    """The runtime starts to compute; in a browser nothing else runs until `ComputeEnded`."""


@dataclass(frozen=True, slots=True)
class ComputeEnded:
    """What was being computed is done."""


@dataclass(frozen=True, slots=True)
class Finished:
    """Outcomes of attempts and the pieces that come before them, as the executor returns them."""

    outcomes: tuple[Delta | Result | Failed, ...]


@dataclass(frozen=True, slots=True)
class PolicyChanged:
    """`politeness.decide` has a new verdict, or the volunteer new limits."""

    politeness: Politeness
    limits: Limits


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed: due at `NodeSession.wake_at`, and before each micro-batch."""


Event = (
    Start
    | Stop
    | Registered
    | Prepared
    | SetupFailed
    | Opened
    | Received
    | Closed
    | ModelLoaded
    | ModelFailed
    | ComputeStarted
    | ComputeEnded
    | Finished
    | PolicyChanged
    | Tick
)

# ── effects ──────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Register:
    """Ask the orchestrator for a nonce; answer `Registered` or `SetupFailed`."""


@dataclass(frozen=True, slots=True)
class Prepare:
    """Sign ``message`` and look which models are here; answer `Prepared` or `SetupFailed`."""

    message: bytes


@dataclass(frozen=True, slots=True)
class Connect:
    """Open the WebSocket; answer `Opened`, then `Received`…, then `Closed`; or `SetupFailed`."""

    path: str


@dataclass(frozen=True, slots=True)
class Send:
    frame: Frame


@dataclass(frozen=True, slots=True)
class Disconnect:
    """Close the socket after what was sent, or abandon the set-up under way. Needs no answer."""

    code: CloseCode
    reason: str


@dataclass(frozen=True, slots=True)
class KeepModels:
    """These are the models of this orchestrator: files of others need no room any more."""

    recipes: tuple[Recipe, ...]


@dataclass(frozen=True, slots=True)
class LoadModel:
    """Make a model runnable, answer its challenge; a later one for the digest replaces it."""

    load_id: int
    recipe: Recipe
    challenge: tuple[Task, ...]


@dataclass(frozen=True, slots=True)
class UnloadModel:
    digest: ModelDigest


@dataclass(frozen=True, slots=True)
class Execute:
    """Compute these attempts, in whatever order."""

    items: tuple[JobItem, ...]


@dataclass(frozen=True, slots=True)
class Drop:
    """Forget these attempts."""

    attempt_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Tell:
    """Show a sentence to the person at the node."""

    text: str


@dataclass(frozen=True, slots=True)
class Ended:
    """The session is over; ``failed`` when it is not what the volunteer asked for."""

    reason: str
    failed: bool


Effect = (
    Register
    | Prepare
    | Connect
    | Send
    | Disconnect
    | KeepModels
    | LoadModel
    | UnloadModel
    | Execute
    | Drop
    | Tell
    | Ended
)
