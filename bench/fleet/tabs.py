"""A simulated node: real frames in and out, virtual computing in between.

It says hello, loads what it is told to, answers jobs first come first served in micro-batches of a
quarter of a second, shows the evidence it committed to (here the answer itself), goes to the
background and comes back, stalls, crashes, and behaves as its `behaviours.Conduct` says. The CPU
worker is one of them with a conduct beyond doubt.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from typing import Final, Literal

import msgspec

from bench.fleet import truth
from bench.fleet.behaviours import HONEST, Conduct, Memory, lie_of
from bench.fleet.loop import Loop
from bench.fleet.wire import Wire
from browser_node import protocol as p
from browser_node.protocol import HANDED_BACK, JobItem, ModelDigest

BATCH_S: Final = 0.25
CALL_S: Final = 0.004
COMPILE_S: Final = 0.5
TOKENS_PER_CHALLENGE: Final = 40
# Answers whose evidence is kept; real nodes keep it by age and bytes.
EVIDENCE_KEPT: Final = 256


class Profile(msgspec.Struct, kw_only=True):
    """What a node is; ``tokens_per_s`` its true speed, ``own_error`` its own rounding."""

    number: int
    key: bytes
    identity: str
    backend: Literal["wasm", "webgpu", "onnxruntime"] = "wasm"
    cpu: bool = False
    region: str = ""
    distance_km: float | None = None
    network: str = ""
    rtt_s: float = 0.001
    tokens_per_s: float = 900.0
    noise_sigma: float = 0.15
    slots: int = 8
    memory_mb: int = 4_000
    bandwidth_bytes_per_s: float = 4e6
    cached: tuple[ModelDigest, ...] = ()
    data_saver: bool = False
    own_error: float = 0.0
    behaviour: str = "honest"
    conduct: Conduct = HONEST


class Meter(msgspec.Struct):
    """What a node did, over all its connections."""

    busy_s: float = 0.0
    lies: int = 0


class Tab:
    """One node. ``connect`` makes its wire; ``on_crash`` is told when an input killed it."""

    def __init__(
        self,
        profile: Profile,
        *,
        loop: Loop,
        rng: random.Random,
        connect: Callable[[Tab], Wire | None],
        on_closed: Callable[[Tab, int], None],
        on_crash: Callable[[Tab], None],
    ) -> None:
        self.profile = profile
        self.meter = Meter()
        self.wire: Wire | None = None
        self.ticket: str | None = None
        self.slow_factor = 1.0
        self.hidden = False
        self.worked_at = 0.0
        self.memory = Memory()
        self._loop, self._rng = loop, rng
        self._connect, self._on_closed, self._on_crash = connect, on_closed, on_crash
        self._ready: set[str] = set()
        self._wanted: set[str] = set()
        self._load_free_at = 0.0
        self._queue: deque[JobItem] = deque()
        self._batch: list[JobItem] = []
        self._dropped: set[str] = set()
        self._batch_ends_at = 0.0
        self._frozen_until = 0.0
        self._offered = False
        # What answers rest on, by attempt; None for what it will not show.
        self._evidence: dict[str, bytes | None] = {}

    # ── coming and going ─────────────────────────────────────────────────────────────────────────

    @property
    def connected(self) -> bool:
        return self.wire is not None and self.wire.at_node

    def join(self) -> None:
        """Open a connection and say hello, if there is anybody to say it to."""
        profile = self.profile
        self._forget()
        self.worked_at = self._loop.now
        self.wire = wire = self._connect(self)
        if wire is None:
            return
        kind: Literal["cpu", "browser"] = "cpu" if profile.cpu else "browser"
        wire.up(
            p.Hello(
                versions=(p.VERSION,),
                public_key=profile.key,
                ticket=self.ticket,
                runtime=p.Runtime(kind=kind, backend=profile.backend, threads=2),
                device=p.Device(
                    cores=4,
                    memory_mb=profile.memory_mb,
                    data_saver=profile.data_saver,
                ),
                cached=profile.cached,
            )
        )

    def leave(self, *, silently: bool = False) -> None:
        """Close the tab, or lose the network under it."""
        if self.wire is not None:
            self.wire.leave(silently=silently)
        self._forget()

    def closed(self, wire: Wire, code: int) -> None:
        if wire is self.wire:
            self._forget()
            self._on_closed(self, code)

    def _forget(self) -> None:
        self.wire = None
        self._offered = False
        self._ready.clear()
        self._wanted.clear()
        self._queue.clear()
        self._batch = []
        self._dropped.clear()
        self._frozen_until = 0.0
        self._load_free_at = 0.0
        self._evidence.clear()

    # ── what happens to it ───────────────────────────────────────────────────────────────────────

    def stall(self, seconds: float) -> None:
        """The browser stops the tab: nothing is read, computed or sent for a while."""
        self._frozen_until = self._loop.now + seconds

    def show(self, visible: bool) -> None:
        """The tab goes to the background and hands back what it has not begun, or returns."""
        if self.hidden != visible:
            return
        self.hidden = not visible
        if not self.connected:
            return
        if self._offered:
            self._offer()
        if self.hidden:
            waiting = list(self._queue)
            self._queue.clear()
            for item in waiting:
                self._fail(item, "node", HANDED_BACK)

    # ── frames ───────────────────────────────────────────────────────────────────────────────────

    def arrive(self, wire: Wire, data: bytes) -> None:
        if wire is not self.wire:
            return
        if self._frozen_until > self._loop.now:
            self._loop.at(self._frozen_until, self.arrive, wire, data)
            return
        frame = p.decode_from_orchestrator(data)
        match frame:
            case p.Jobs():
                self._take(frame)
            case p.Ping():
                busy_s = max(self._batch_ends_at - self._loop.now, 0.0) if self._batch else 0.0
                self._loop.after(busy_s, self._pong, wire, frame.n, busy_s)
            case p.Reveal():
                busy_s = max(self._batch_ends_at - self._loop.now, 0.0) if self._batch else 0.0
                self._loop.after(busy_s, self._reveal, wire, frame.attempt_ids)
            case p.Cancel():
                self._dropped.update(frame.attempt_ids)
                # Ids of attempts that have ended already would pile up.
                held = {item.attempt_id for item in (*self._queue, *self._batch)}
                self._dropped &= held
            case p.Load():
                self._load(frame)
            case p.Unload():
                self._ready.discard(frame.digest)
                self._wanted.discard(frame.digest)
            case p.Welcome():
                self.ticket = frame.ticket
            case p.Refused() | p.Drain() | p.Notice():
                pass

    def _pong(self, wire: Wire, n: int, busy_s: float) -> None:
        if wire is self.wire:
            wire.up(p.Pong(n=n, busy_s=min(busy_s, 60.0)))

    def _reveal(self, wire: Wire, attempt_ids: tuple[str, ...]) -> None:
        if wire is not self.wire:
            return
        for attempt_id in attempt_ids:
            evidence = self._evidence.pop(attempt_id, None)
            if evidence is not None:
                shown = p.Shown(attempt_id=attempt_id, evidence=evidence)
                wire.up(p.Revealed(items=(shown,)))

    def _load(self, frame: p.Load) -> None:
        profile = self.profile
        digest = ModelDigest(frame.recipe.digest)
        self._wanted.add(digest)
        seconds = COMPILE_S
        if digest not in profile.cached and not profile.cpu:
            size = sum(file.size_bytes for file in frame.recipe.files)
            seconds += size / profile.bandwidth_bytes_per_s
        tokens = TOKENS_PER_CHALLENGE * len(frame.challenge)
        seconds += tokens / profile.tokens_per_s
        # One after the other: they share the network and the processor.
        self._load_free_at = max(self._load_free_at, self._loop.now) + seconds
        self._loop.at(self._load_free_at, self._loaded, self.wire, frame, seconds)

    def _loaded(self, wire: Wire, frame: p.Load, seconds: float) -> None:
        digest = ModelDigest(frame.recipe.digest)
        if wire is not self.wire or digest not in self._wanted:
            return
        profile = self.profile
        self._ready.add(digest)
        if digest not in profile.cached:
            profile.cached = (*profile.cached, digest)
        wire.up(
            p.Ready(
                digest=digest,
                load_s=seconds,
                calibration=(
                    p.Speed(
                        batch_size=8, tokens_per_s=profile.tokens_per_s * profile.conduct.claims
                    ),
                ),
                answers=tuple(
                    p.Answer(output=truth.pack(self._honest(task.input)))
                    for task in frame.challenge
                ),
            )
        )
        if not self._offered:
            self._offered = True
            self._offer()

    def _offer(self) -> None:
        assert self.wire is not None
        slots = 0 if self.hidden else self.profile.slots
        self.wire.up(p.Capacity(slots=slots, state="hidden" if self.hidden else "active"))

    def _take(self, frame: p.Jobs) -> None:
        self.worked_at = self._loop.now
        for item in frame.items:
            if item.digest not in self._ready:
                self._fail(item, "node", "model_not_loaded")
            elif self.hidden:
                self._fail(item, "node", HANDED_BACK)
            else:
                self._queue.append(item)
        if not self._batch:
            self._begin()

    def _fail(self, item: JobItem, blame: p.Blame, code: str) -> None:
        if self.wire is not None:
            self.wire.up(p.Failed(attempt_id=item.attempt_id, blame=blame, code=code))

    # ── computing ────────────────────────────────────────────────────────────────────────────────

    def _begin(self) -> None:
        """Start the next micro-batch, if there is anything to do."""
        profile, queue = self.profile, self._queue
        tokens, most = 0, profile.tokens_per_s * BATCH_S
        batch: list[JobItem] = []
        while queue and (not batch or tokens + queue[0].tokens <= most):
            item = queue.popleft()
            if item.attempt_id in self._dropped:
                self._dropped.discard(item.attempt_id)
                continue
            if item.input.endswith(truth.DEADLY) and not (profile.cpu and item.isolated):
                self._on_crash(self)
                return
            batch.append(item)
            tokens += item.tokens
        if not batch:
            return
        self._batch = batch
        seconds = CALL_S + tokens / profile.tokens_per_s * self.slow_factor
        seconds *= self._rng.lognormvariate(0.0, profile.noise_sigma)
        self._batch_ends_at = self._loop.now + seconds
        self._loop.at(self._batch_ends_at, self._end, self.wire, seconds)

    def _end(self, wire: Wire, seconds: float) -> None:
        if wire is not self.wire:
            return
        if self._frozen_until > self._loop.now:
            self._loop.at(self._frozen_until, self._end, wire, seconds)
            return
        self.meter.busy_s += seconds
        conduct = self.profile.conduct
        results: list[p.Result] = []
        each_s = seconds / len(self._batch)
        for item in self._batch:
            if item.attempt_id in self._dropped:
                self._dropped.discard(item.attempt_id)
            elif item.input.endswith((truth.REFUSED, truth.DEADLY)):
                self._fail(item, "input", "refused_input")
            elif conduct.unanswered and self._rng.random() < conduct.unanswered:
                continue
            else:
                lies = self.meter.lies
                output = truth.pack(self._answer(item.input))
                commitment = b"" if self.profile.cpu else p.commitment_to(output)
                self._keep(item, output, lied=self.meter.lies > lies)
                results.append(
                    p.Result(
                        attempt_id=item.attempt_id,
                        output=output,
                        commitment=commitment,
                        compute_s=each_s,
                    )
                )
        if conduct.forges and results:
            results.append(self._forged(results[0]))
        self._batch = []
        if results:
            wire.up(p.Results(items=tuple(results)))
        self._begin()

    def _keep(self, item: JobItem, output: bytes, *, lied: bool) -> None:
        """Keep what is to be shown of an answer."""
        evidence: bytes | None = output
        match self.profile.conduct.of_a_lie if lied else "shows":
            case "hides":
                evidence = None
            case "swaps":
                evidence = truth.pack(self._honest(item.input))
        self._evidence[item.attempt_id] = evidence
        if len(self._evidence) > EVIDENCE_KEPT:
            del self._evidence[next(iter(self._evidence))]

    def _answer(self, text: str) -> truth.Vector:
        wrong = lie_of(self.profile.conduct, self.memory, text, self._rng)
        if wrong is None:
            return self._honest(text)
        self.meter.lies += 1
        return self._signed(wrong)

    def _honest(self, text: str) -> truth.Vector:
        right = truth.vector_of(text)
        if self.profile.cpu:
            return right
        profile = self.profile
        rounded = truth.honest(right, backend=profile.backend, own_error=profile.own_error)
        return self._signed(rounded)

    def _signed(self, vector: truth.Vector) -> truth.Vector:
        """Return ``vector`` with a difference far below any tolerance that names the node.

        So that the simulator can tell whose answer is being compared, even among colluders.
        """
        a, b, c, d = vector
        return (a, b, c, d + (self.profile.number % 4096 + 1) * 3e-7)

    def _forged(self, result: p.Result) -> p.Result:
        """Return a result for an attempt of somebody else: ids here can be guessed, by design."""
        number = max(int(result.attempt_id[1:]) + self._rng.randint(-20, 20), 1)
        output = truth.pack(self._signed(truth.random_vector(self._rng)))
        return p.Result(attempt_id=f"a{number}", output=output, compute_s=0.0)
