"""The orchestrator in virtual time: real sessions and a real scheduler, effects performed at once.

It does what `orchestrator.engine` does, with a heap for the event loop, delays for the database
and the judge, and hooks for the laws. A restart loses everything but the stored standings.
"""

from __future__ import annotations

import itertools
import random
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Final, Protocol, assert_never

import msgspec

from bench.fleet import truth
from bench.fleet.books import Decider, Peer
from bench.fleet.invariants import FULL_EVERY, InvariantBroken, Laws
from bench.fleet.loop import Loop
from bench.fleet.outcome import count
from bench.fleet.recorder import Recorder
from bench.fleet.scenario import Scenario
from bench.fleet.tabs import Profile, Tab
from bench.fleet.wire import Wire
from browser_node import protocol as p
from browser_node.agreement import Verdict, agree
from browser_node.models import Manifest
from browser_node.protocol import Answer, AttemptId, ModelDigest, NodeId, Task
from orchestrator.domain import effects as fx
from orchestrator.domain import events as ev
from orchestrator.domain import node_session as ns
from orchestrator.domain.model import Location, ModelSpec, NewJob
from orchestrator.domain.references import References
from orchestrator.domain.scheduler import Options
from orchestrator.domain.trust import Identity, Policy, RuntimeClass, Standing

RECALL_S: Final = 0.005
COMPARE_S: Final = 0.001


# As `orchestrator.engine` has it.
OVERSLEPT_S: Final = 2.0


class SchedulerFactory(Protocol):
    """Makes the scheduler of one orchestrator process, as `Scheduler` does."""

    def __call__(
        self,
        *,
        models: Mapping[ModelDigest, ModelSpec],
        rng: random.Random,
        new_attempt_id: Callable[[], AttemptId],
        references: References | None,
        policy: Policy,
        options: Options,
    ) -> Decider: ...


class VirtualEngine:
    """One orchestrator; ``up`` is false between a crash and the next start."""

    def __init__(
        self,
        *,
        scenario: Scenario,
        loop: Loop,
        rng: random.Random,
        factory: SchedulerFactory,
        options: Options,
        laws: Laws,
        recorder: Recorder,
        check: bool,
        profile_of: Callable[[bytes], Profile],
        on_trusted: Callable[[Identity], None],
    ) -> None:
        self._scenario, self._loop, self._rng = scenario, loop, rng
        self._factory, self._options = factory, options
        self._laws, self._recorder, self._check = laws, recorder, check
        self._outcome = recorder.outcome
        self._profile_of, self._on_trusted = profile_of, on_trusted
        self.manifests: dict[ModelDigest, Manifest] = truth.manifests()
        self.standings: dict[tuple[Identity, RuntimeClass], Standing] = {}
        self.clock_ahead_s = 0.0
        self.wires: dict[NodeId, Wire] = {}
        # Those that have not said hello yet, too; a dict for its order.
        self._sockets: dict[Wire, None] = {}
        self.up = False
        self._attempt_numbers = itertools.count(1)
        self._node_numbers = itertools.count(1)
        self._life = 0
        self._armed_at: float | None = None
        self._pending: deque[tuple[ev.Event, int]] = deque()
        self._full_at = FULL_EVERY
        self._audits_dropped = 0

    # ── life ─────────────────────────────────────────────────────────────────────────────────────

    def start(self) -> None:
        """A new process: nothing is remembered but what was stored."""
        self.up = True
        self._life += 1
        self._pending.clear()
        self._armed_at = None
        self.references = References(random.Random(self._rng.random()))
        specs = {
            digest: ModelSpec(digest, m.id, m.size_bytes, m.min_memory_mb)
            for digest, m in self.manifests.items()
        }
        self.scheduler = self._factory(
            models=specs,
            rng=random.Random(self._rng.random()),
            new_attempt_id=lambda: AttemptId(f"a{next(self._attempt_numbers)}"),
            references=self.references,
            policy=self._scenario.policy,
            options=self._options,
        )
        if self._scenario.population.workers:
            self.apply(ev.WorkerExpected(True))

    def crash(self) -> None:
        """The process dies: every socket drops, and customers see their connections end."""
        self.up = False
        self._life += 1
        counters = self.scheduler.counters
        self._outcome.late_results += counters.late_results
        self._audits_dropped += counters.audits_dropped
        self._recorder.connections_lost()
        self._laws.restarted()
        for wire in self._sockets:
            wire.session.state = "closed"
            wire.shut(int(p.CloseCode.GOING_AWAY))
        self._sockets.clear()
        self.wires.clear()

    @property
    def clock(self) -> float:
        """The orchestrator's monotonic clock."""
        return self._loop.now + self.clock_ahead_s

    def jump(self, seconds: float) -> None:
        """The machine slept: its clock is ahead of what it last saw, as `Engine.apply` notices."""
        wanted = self.scheduler.next_wakeup()
        self.clock_ahead_s += seconds
        self._armed_at = None
        if self.up:
            if wanted is not None and self.clock - wanted > OVERSLEPT_S:
                self.apply(ev.Overslept(self.clock - wanted))
            self._arm()

    # ── customers ────────────────────────────────────────────────────────────────────────────────

    def submit(self, jobs: tuple[NewJob, ...]) -> bool:
        """Take a request's jobs; False when there is no server to take them."""
        if not self.up:
            return False
        self._recorder.submitted(tuple(job.job_id for job in jobs))
        self._laws.now, self._laws.clock = self._loop.now, self.clock
        self._laws.submitted(jobs)
        self.apply(ev.JobsSubmitted(jobs), jobs=len(jobs))
        return True

    def cancel(self, jobs: tuple[NewJob, ...]) -> None:
        """A customer hangs up on what is not answered yet."""
        left = tuple(job.job_id for job in jobs if self._recorder.waits_for(job.job_id))
        if self.up and left:
            self._recorder.cancelled(left)
            self.apply(ev.JobsCancelled(left))

    # ── sockets ──────────────────────────────────────────────────────────────────────────────────

    def connect(self, tab: Tab) -> Wire | None:
        """Return the wire of a new connection; None while there is nobody to connect to."""
        if not self.up:
            return None
        profile = tab.profile
        session = ns.NodeSession(
            trusted=profile.cpu,
            admit=self._admit,
            models=self.manifests,
            references=self.references,
            agree=self._agree,
            network=profile.network,
            location=Location(profile.region, profile.distance_km),
        )
        wire = Wire(
            loop=self._loop,
            rng=self._rng,
            rtt_s=profile.rtt_s,
            loss=0.0 if profile.cpu else self._scenario.faults.lost_frames,
            server=self,
            peer=tab,
            session=session,
        )
        self._sockets[wire] = None
        return wire

    def _admit(self, hello: p.Hello) -> ns.Admission:
        profile = self._profile_of(hello.public_key)
        prefix = "cpu" if profile.cpu else "n"
        node_id = NodeId(hello.ticket or f"{prefix}{next(self._node_numbers)}")
        return ns.Admission(
            node_id=node_id,
            ticket=node_id,
            identity=Identity("" if profile.cpu else profile.identity),
        )

    def _agree(self, digest: ModelDigest, _: Task, trusted: Answer, answer: Answer) -> Verdict:
        return agree(self.manifests[digest], trusted, answer)

    def receive(self, wire: Wire, frame: bytes) -> None:
        self._outcome.frames += 1
        for step in wire.session.receive(frame, now=self.clock):
            self._perform_step(wire, step)

    def disconnected(self, wire: Wire, reason: str) -> None:
        node_id = wire.session.node_id
        wire.session.state = "closed"
        self._sockets.pop(wire, None)
        if self.wires.get(node_id) is wire:
            del self.wires[node_id]
            self.apply(ev.NodeLeft(node_id, reason))

    def _perform_step(self, wire: Wire, step: ns.Step) -> None:
        match step:
            case ns.Reply():
                wire.down(step.frame)
            case ns.Notify():
                if isinstance(step.event, ev.NodeJoined):
                    self._join(wire, step.event)
                self.apply(step.event)
            case ns.ReferencesFilled():
                for other in list(self.wires.values()):
                    for following in other.session.references_filled(step.digest):
                        self._perform_step(other, following)
            case ns.Close():
                wire.shut(int(step.code))
                self.disconnected(wire, step.reason)
            case _:
                assert_never(step)

    def _join(self, wire: Wire, event: ev.NodeJoined) -> None:
        old = self.wires.get(event.node_id)
        if old is not None:
            old.shut(int(p.CloseCode.GOING_AWAY))
            self.disconnected(old, "resumed on another connection")
        self.wires[event.node_id] = wire
        hello = wire.session.hello
        assert hello is not None
        profile = self._profile_of(hello.public_key)
        peer = Peer(
            node_id=event.node_id,
            key=(event.identity, event.runtime),
            cpu=profile.cpu,
            region=profile.region,
            behaviour=profile.behaviour,
            conduct=profile.conduct,
        )
        self._laws.joined(peer)

    # ── the scheduler ────────────────────────────────────────────────────────────────────────────

    def apply(self, event: ev.Event, *, jobs: int = 0) -> None:
        """Let the scheduler handle ``event`` and do what it says, before any event this makes."""
        self._pending.append((event, jobs))
        if len(self._pending) > 1:
            return
        while self._pending:
            self._handle(*self._pending[0])
            self._pending.popleft()

    def _handle(self, event: ev.Event, jobs: int) -> None:
        outcome, laws = self._outcome, self._laws
        laws.now, laws.clock = self._loop.now, self.clock
        laws.before(event)
        began = time.perf_counter()
        effects = self.scheduler.handle(event, now=laws.clock)
        self._recorder.decided(time.perf_counter() - began, jobs=jobs)
        for effect in effects:
            self._perform(effect)
        if self._check:
            laws.after(self.scheduler)
            if outcome.events >= self._full_at:
                self._full_at = outcome.events + FULL_EVERY
                laws.full(self.scheduler)
        self._arm()

    def _perform(self, effect: fx.Effect) -> None:
        match effect:
            case fx.Deliver():
                record = self._laws.delivered(effect.answer)
                self._recorder.delivered(effect.answer, tokens=record.job.tokens)
            case fx.SendJobs():
                self._send(effect)
            case fx.SendCancel():
                self._laws.cancelled(effect)
                if (wire := self.wires.get(effect.node_id)) is not None:
                    wire.down(wire.session.cancel(effect.attempt_ids))
            case fx.Reveal():
                if (wire := self.wires.get(effect.node_id)) is not None:
                    wire.down(wire.session.reveal(effect.attempt_id))
            case fx.SendPing():
                if (wire := self.wires.get(effect.node_id)) is not None:
                    wire.down(wire.session.ping(now=self.clock))
            case fx.Compare():
                self._loop.after(COMPARE_S, self._compare, self._life, effect)
            case fx.RecallStanding():
                self._loop.after(RECALL_S, self._recall, self._life, effect)
            case fx.StandingChanged():
                self._standing_changed(effect)
            case fx.LoadModel() | fx.UnloadModel():
                if (wire := self.wires.get(effect.node_id)) is not None:
                    loads = isinstance(effect, fx.LoadModel)
                    change = wire.session.load if loads else wire.session.unload
                    for step in change(effect.digest):
                        self._perform_step(wire, step)
            case fx.CloseNode():
                self._laws.left(effect.node_id)
                if (wire := self.wires.pop(effect.node_id, None)) is not None:
                    self._sockets.pop(wire, None)
                    wire.session.state = "closed"
                    wire.shut(int(effect.code))
            case fx.Fail():
                self._laws.failed(effect.failure, self.scheduler)
                self._recorder.failed(effect.failure)
            case fx.Rerouted():
                count(self._outcome.rerouted, effect.cause)
            case fx.Tell() | fx.Progressed():
                pass
            case _:
                assert_never(effect)

    def _send(self, effect: fx.SendJobs) -> None:
        board = self.scheduler.board
        self._laws.sent(effect, board.attempts)
        self._recorder.sent(effect, board)
        if (wire := self.wires.get(effect.node_id)) is not None:
            wire.session.hold(effect.items)
            for frame in ns.frames_of(effect.items):
                wire.down(frame)

    def _compare(self, life: int, effect: fx.Compare) -> None:
        if life != self._life:
            return
        # As `orchestrator.court` has it; an embedding that was not shown is judged by itself.
        if effect.fault == "forged":
            verdict = Verdict(False, -1.0, "it shows other evidence than it had committed to")
        else:
            verdict = self._agree(effect.digest, effect.task, effect.trusted, effect.answer)
        self._recorder.compared(effect.check_id, agrees=verdict.agrees)
        self._laws.now = self._loop.now
        self._laws.judging(effect, verdict)
        self.apply(ev.Judged(effect.check_id, verdict.agrees, verdict.min_cosine, verdict.reason))

    def _recall(self, life: int, effect: fx.RecallStanding) -> None:
        if life == self._life:
            found = self.standings.get((effect.identity, effect.runtime))
            standing = None if found is None else msgspec.structs.replace(found)
            self.apply(ev.StandingRecalled(effect.identity, effect.runtime, standing))

    def _standing_changed(self, effect: fx.StandingChanged) -> None:
        standing = effect.standing
        key = (standing.identity, standing.runtime)
        self.standings[key] = standing
        self._laws.changed(effect)
        self._outcome.quarantined += effect.after == "quarantined" != effect.before
        if effect.after == "trusted" != effect.before:
            self._on_trusted(key[0])

    def remember(self, standing: Standing) -> None:
        """Store the record of an identity that was here on another day."""
        key = (standing.identity, standing.runtime)
        self.standings[key] = standing
        self._laws.shadow[key] = msgspec.structs.replace(standing)

    # ── time ─────────────────────────────────────────────────────────────────────────────────────

    def _arm(self) -> None:
        """Have the scheduler ticked when it wants to be, and look again if it changed its mind."""
        if (wanted := self.scheduler.next_wakeup()) is None:
            return
        # A hair later: rounding must not ring before the clock says so, again and again.
        at = max(wanted - self.clock_ahead_s + 1e-9, self._loop.now)
        if self._armed_at is None or at < self._armed_at:
            self._armed_at = at
            self._loop.at(at, self._ring, self._life, at)

    def _ring(self, life: int, at: float) -> None:
        if life != self._life or at != self._armed_at:
            return
        self._armed_at = None
        wanted = self.scheduler.next_wakeup()
        if wanted is not None and wanted <= self.clock:
            self.apply(ev.Tick())
        else:
            self._arm()

    def settle(self) -> None:
        """Check the end of a run."""
        if self._check:
            self._laws.full(self.scheduler)
            self._audits_dropped += self.scheduler.counters.audits_dropped
            answered = self._outcome.answered
            self._laws.settled(answered=answered, audits_dropped=self._audits_dropped)
        elif self._recorder.waiting:
            raise InvariantBroken(f"{self._recorder.waiting} jobs have no end")
