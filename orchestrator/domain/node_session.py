"""One node's connection as the orchestrator sees it: protocol 1 without sockets.

`receive` takes a frame's bytes and the time and returns steps: frames to send, events for the
scheduler, or the close that a breach of protocol calls for.

    state     hello            ready(d)             revealed     any other      bye
    hello     check, welcome   out of order         out of order out of order   out of order
    serving   out of order     check answers of d   if asked for event          close
    closed    every frame is ignored
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal, assert_never

import msgspec

from browser_node import protocol as p
from browser_node.agreement import Verdict
from browser_node.models import STREAMING, Manifest, recipe_of
from browser_node.protocol import (
    Answer,
    AttemptId,
    CloseCode,
    ModelDigest,
    NodeId,
    ProtocolError,
    Task,
)
from orchestrator.domain import events as ev
from orchestrator.domain.deltas import Deltas
from orchestrator.domain.model import NOWHERE, Location
from orchestrator.domain.references import DRAW_SIZES, References
from orchestrator.domain.shapes import trait_of, well_formed
from orchestrator.domain.trust import Identity, RuntimeClass

# A pong that had to wait for a micro-batch says nothing about the network.
IDLE_BUSY_S: Final = 0.005
# Sixteen options with names and values at their longest.
_PARAMS_BYTES: Final = 24_000


class Reply(msgspec.Struct, frozen=True):
    frame: p.OrchestratorFrame


class Notify(msgspec.Struct, frozen=True, gc=False):
    event: ev.Event


class Close(msgspec.Struct, frozen=True):
    code: CloseCode
    reason: str


class ReferencesFilled(msgspec.Struct, frozen=True):
    """The CPU worker has answered the pool of a model: nodes that wait for it can be challenged."""

    digest: ModelDigest


Step = Reply | Notify | Close | ReferencesFilled


class Admission(msgspec.Struct, frozen=True):
    """What a node gets when its hello is good; ``identity`` is the hex SHA-256 of its key."""

    node_id: NodeId
    ticket: str
    identity: Identity = Identity("")


Admit = Callable[[p.Hello], Admission]
"""Checks nonce, signature and ticket of a hello; raises `ProtocolError`. Supplied by transport."""


Agree = Callable[[ModelDigest, Task, Answer, Answer], Verdict]
"""Judges a stranger's answer (last) against the trusted one to the same task (`Judge.agree`)."""


class NodeSession:
    """State of one connection. Not reusable: a reconnecting node gets a new one."""

    def __init__(
        self,
        *,
        trusted: bool,
        admit: Admit,
        models: Mapping[ModelDigest, Manifest],
        references: References,
        agree: Agree,
        network: str = "",
        location: Location = NOWHERE,
    ) -> None:
        """``network`` is a salted hash of the peer's, ``location`` roughly where it is."""
        self._agree = agree
        self._network = network
        self._location = location
        self.trusted = trusted
        self.state: Literal["hello", "serving", "closed"] = "hello"
        self.node_id = NodeId("")
        self.hello: p.Hello | None = None
        self._cpu_share = 1.0
        self._admit = admit
        self._models = models
        self._references = references
        self._challenges: dict[ModelDigest, tuple[tuple[Task, ...], tuple[Answer, ...]]] = {}
        self._waiting: set[ModelDigest] = set()
        self._held: dict[AttemptId, ModelDigest] = {}
        self._deltas = Deltas()
        self._revealing: set[AttemptId] = set()
        self._pings: dict[int, float] = {}
        self._ping_n = 0

    def receive(self, data: bytes, *, now: float) -> list[Step]:
        """Apply one frame; never raises for what the peer sent."""
        if self.state == "closed":
            return []
        try:
            if self.state == "hello":
                limit = p.MAX_FRAME_BYTES_BEFORE_WELCOME
                return self._receive_hello(p.decode_from_node(data, limit_bytes=limit))
            return self._receive_frame(p.decode_from_node(data), now)
        except ProtocolError as error:
            self.state = "closed"
            return [Close(error.close_code, str(error))]

    def ping(self, *, now: float) -> p.Ping:
        """Return the next ping; the answer's round trip is measured from ``now``."""
        self._ping_n += 1
        self._pings[self._ping_n] = now
        # Only the latest few can still be answered; a node that answers none is closed for silence.
        while len(self._pings) > 8:
            del self._pings[next(iter(self._pings))]
        return p.Ping(n=self._ping_n)

    def hold(self, items: Sequence[p.JobItem]) -> None:
        """Remember what each of ``items``, which are about to be sent, is for."""
        for item in items:
            attempt_id, digest = AttemptId(item.attempt_id), ModelDigest(item.digest)
            self._held[attempt_id] = digest
            if item.stream and self._models[digest].pipeline in STREAMING:
                self._deltas.expect(attempt_id)

    def cancel(self, attempt_ids: tuple[AttemptId, ...]) -> p.Cancel:
        """Return the frame that takes attempts back."""
        for attempt_id in attempt_ids:
            self._held.pop(attempt_id, None)
            self._deltas.taken_back(attempt_id)
        return p.Cancel(attempt_ids=attempt_ids)

    def reveal(self, attempt_id: AttemptId) -> p.Reveal:
        """Return the frame that asks for the evidence of an attempt; may be asked once."""
        self._revealing.add(attempt_id)
        return p.Reveal(attempt_ids=(attempt_id,))

    def references_filled(self, digest: ModelDigest) -> list[Step]:
        """Challenge a node that joined before there were known answers for ``digest``."""
        if self.state != "serving" or digest not in self._waiting:
            return []
        self._waiting.discard(digest)
        return self.load(digest)

    def load(self, digest: ModelDigest) -> list[Step]:
        """Have the node load a model, as soon as there is something to challenge it with."""
        if self.state != "serving" or digest in self._challenges:
            return []
        manifest = self._models[digest]
        if self.trusted:
            tasks = self._references.pool(manifest.pipeline)
            answers: tuple[Answer, ...] = ()
        elif self._references.has(digest):
            known = self._references.draw(digest, DRAW_SIZES[manifest.pipeline])
            tasks = tuple(task for task, _ in known)
            answers = tuple(answer for _, answer in known)
        else:
            self._waiting.add(digest)
            return []
        self._challenges[digest] = (tasks, answers)
        return [
            Reply(p.Load(recipe=recipe_of(manifest), challenge=tasks)),
            Notify(ev.ModelLoading(self.node_id, digest)),
        ]

    def unload(self, digest: ModelDigest) -> list[Step]:
        """Have the node forget a model."""
        self._waiting.discard(digest)
        self._challenges.pop(digest, None)
        return [Reply(p.Unload(digest=digest))] if self.state == "serving" else []

    # ── frames ───────────────────────────────────────────────────────────────────────────────────

    def _receive_hello(self, frame: p.NodeFrame) -> list[Step]:
        if not isinstance(frame, p.Hello):
            raise ProtocolError(f"{_tag(frame)} before hello", CloseCode.OUT_OF_ORDER)
        if p.VERSION not in frame.versions:
            offered = ", ".join(map(str, frame.versions))
            raise ProtocolError(
                f"no common protocol version: offered {offered}, this server speaks {p.VERSION}",
                CloseCode.BAD_VERSION,
            )
        if (frame.runtime.kind == "cpu") != self.trusted:
            raise ProtocolError("runtime kind 'cpu' is for the CPU worker's own socket")
        admission = self._admit(frame)
        self.state = "serving"
        self.hello = frame
        self._cpu_share = frame.limits.cpu_share
        self.node_id = admission.node_id
        memory_mb = frame.device.memory_mb
        models = [
            (digest, manifest)
            for digest, manifest in self._models.items()
            if self.trusted or memory_mb is None or memory_mb >= manifest.min_memory_mb
        ]
        welcome = p.Welcome(
            version=p.VERSION,
            node_id=self.node_id,
            ticket=admission.ticket,
            recipes=tuple(recipe_of(manifest) for _, manifest in models),
        )
        joined = ev.NodeJoined(
            self.node_id,
            self.trusted,
            memory_mb,
            identity=admission.identity,
            runtime=RuntimeClass(f"{frame.runtime.kind}/{frame.runtime.backend}"),
            network=self._network,
            region=self._location.region,
            distance_km=self._location.distance_km,
            cached=tuple(ModelDigest(digest) for digest in frame.cached),
            data_saver=frame.device.data_saver,
        )
        steps: list[Step] = [Reply(welcome), Notify(joined)]
        if self.trusted:
            # The fallback holds everything; strangers are told what to load, and when.
            for digest, _ in models:
                steps += self.load(digest)
        return steps

    def _receive_frame(self, frame: p.NodeFrame, now: float) -> list[Step]:
        if isinstance(frame, p.Results):
            return self._results(frame)
        heard: list[Step] = [Notify(ev.NodeHeard(self.node_id))]
        match frame:
            case p.Hello():
                raise ProtocolError("a second hello", CloseCode.OUT_OF_ORDER)
            case p.Delta():
                if not self._deltas.receive(frame):
                    return heard
                attempt_id = AttemptId(frame.attempt_id)
                return [Notify(ev.AttemptProgressed(self.node_id, attempt_id, frame.text))]
            case p.Revealed():
                return self._revealed(frame)
            case p.Ready():
                return heard + self._ready(frame)
            case p.Capacity():
                if frame.limits is not None:
                    self._cpu_share = frame.limits.cpu_share
                event = ev.CapacityChanged(self.node_id, frame.slots, frame.state, frame.reason)
                return [*heard, Notify(event)]
            case p.Failed():
                return heard + self._failed(frame)
            case p.Pong():
                return [Notify(ev.NodeHeard(self.node_id, self._round_trip(frame, now)))]
            case p.Bye():
                self.state = "closed"
                return [Close(CloseCode.NORMAL, "bye")]
            case _:
                assert_never(frame)

    def _ready(self, frame: p.Ready) -> list[Step]:
        digest = ModelDigest(frame.digest)
        challenge = self._challenges.pop(digest, None)
        if challenge is None:
            raise ProtocolError(
                f"ready for {digest[:12]}…, which was not asked for", CloseCode.OUT_OF_ORDER
            )
        tasks, expected = challenge
        if len(frame.answers) != len(tasks):
            raise ProtocolError(
                f"{len(frame.answers)} answers to a challenge of {len(tasks)}",
                CloseCode.WRONG_ANSWERS,
            )
        manifest = self._models[digest]
        steps: list[Step] = []
        if self.trusted:
            for answer in frame.answers:
                if not well_formed(manifest, answer.output):
                    raise ProtocolError("the CPU worker answered out of shape")
            self._references.fill(digest, tasks, frame.answers)
            steps.append(ReferencesFilled(digest))
        else:
            for task, ours, theirs in zip(tasks, expected, frame.answers, strict=True):
                verdict = self._agree(digest, task, ours, theirs)
                if not verdict.agrees:
                    raise ProtocolError(
                        f"known answer missed: {verdict.reason}", CloseCode.WRONG_ANSWERS
                    )
        # Calibration runs flat out; what follows runs for the share of time the volunteer allows.
        flat_out = max((point.tokens_per_s for point in frame.calibration), default=1.0)
        speed = flat_out * self._cpu_share
        return [Notify(ev.ModelReady(self.node_id, digest, speed)), *steps]

    def _results(self, frame: p.Results) -> list[Step]:
        good = []
        steps: list[Step] = []
        for item in frame.items:
            attempt_id = AttemptId(item.attempt_id)
            digest = self._held.pop(attempt_id, None)
            self._deltas.ended(attempt_id)
            commitment = item.commitment
            if commitment:
                if len(commitment) != 32 or item.evidence:
                    raise ProtocolError("a commitment has 32 bytes and stands in place of evidence")
                if digest is not None and self._models[digest].pipeline == "embeddings":
                    # An embedding is its own evidence: nobody is to wait for more.
                    commitment = b""
            # An attempt not held any more has no shape to check: the scheduler counts it as late.
            trait = 0 if digest is None else trait_of(self._models[digest], item.output)
            if trait is not None:
                good.append(
                    ev.Finished(
                        attempt_id, item.output, item.compute_s, item.evidence, trait, commitment
                    )
                )
            else:
                failed = ev.AttemptFailed(self.node_id, attempt_id, "node", "malformed_output")
                steps.append(Notify(failed))
        if good:
            steps.append(Notify(ev.AttemptsFinished(self.node_id, tuple(good))))
        return steps

    def _revealed(self, frame: p.Revealed) -> list[Step]:
        steps: list[Step] = []
        for item in frame.items:
            attempt_id = AttemptId(item.attempt_id)
            if attempt_id not in self._revealing:
                raise ProtocolError(
                    f"evidence of {attempt_id[:20]!r}, which was not asked for",
                    CloseCode.OUT_OF_ORDER,
                )
            self._revealing.discard(attempt_id)
            steps.append(Notify(ev.EvidenceShown(self.node_id, attempt_id, item.evidence)))
        return steps

    def _failed(self, frame: p.Failed) -> list[Step]:
        if frame.attempt_id is not None:
            attempt_id = AttemptId(frame.attempt_id)
            self._held.pop(attempt_id, None)
            self._deltas.ended(attempt_id)
            event = ev.AttemptFailed(
                self.node_id, attempt_id, frame.blame, frame.code, frame.message
            )
            return [Notify(event)]
        if frame.digest is None:
            raise ProtocolError("failed names neither an attempt nor a model")
        if frame.digest not in self._models:
            raise ProtocolError(f"failed names model {frame.digest[:12]}…, which is not known here")
        self._challenges.pop(ModelDigest(frame.digest), None)
        return [Notify(ev.ModelLost(self.node_id, ModelDigest(frame.digest)))]

    def _round_trip(self, frame: p.Pong, now: float) -> float | None:
        sent_at = self._pings.pop(frame.n, None)
        if sent_at is None or frame.busy_s > IDLE_BUSY_S:
            return None
        return max(now - sent_at, 0.0)


def frames_of(items: Sequence[p.JobItem]) -> list[p.Jobs]:
    """Return as few frames as may carry ``items``, in their order."""
    if len(items) == 1:
        return [p.Jobs(items=tuple(items))]
    frames: list[p.Jobs] = []
    batch: list[p.JobItem] = []
    size_bytes = 0
    for item in items:
        item_bytes = 512 + len(item.input) * 4  # UTF-8 at its longest
        if item.params:
            item_bytes += _PARAMS_BYTES
        if (batch and size_bytes + item_bytes > p.MAX_FRAME_BYTES) or len(batch) == p.MAX_ITEMS:
            frames.append(p.Jobs(items=tuple(batch)))
            batch, size_bytes = [], 0
        batch.append(item)
        size_bytes += item_bytes
    frames.append(p.Jobs(items=tuple(batch)))
    return frames


def _tag(frame: p.NodeFrame) -> str:
    return str(frame.__struct_config__.tag)
