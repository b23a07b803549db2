"""A node's session with its orchestrator: a pure state machine, events and time in, effects out.

| state       | what is going on                     | leaves for                              |
|-------------|--------------------------------------|-----------------------------------------|
| stopped     | nothing, or no more                  | registering (Start)                     |
| registering | `Register` is out                    | preparing (Registered), waiting         |
| preparing   | `Prepare` is out                     | connecting (Prepared), waiting          |
| connecting  | `Connect` is out                     | greeting (Opened: hello goes), waiting  |
| greeting    | only welcome or refused may come     | serving (welcome), waiting              |
| serving     | loads, jobs, cancels, pings          | draining (drain), waiting               |
| draining    | what is held is finished, no more    | waiting                                 |
| waiting     | backing off                          | registering (Tick when due)             |

From every state `Stop` and what cannot be mended lead to stopped, after a `bye` where there was a
welcome; a lost connection, a time-out and a refusal lead to waiting. A node without a public key
(the CPU worker, whose transport vouches for it) skips registering.

Rules:

1. Each attempt leaves `held` once: answered, failed, handed back, cancelled, lease over, connection
   lost. The outcome of one that is not held is dropped: nothing is answered twice or elsewhere. The
   pieces of a streaming answer go before its result, and only while it is held.
2. A lease runs on this node's clock from receipt; when it is over the attempt is dropped, since the
   orchestrator has placed the job anew.
3. A node that takes no work hands back what it holds and what still comes (`HANDED_BACK`).
4. A frame that the state does not allow raises `ProtocolError` and changes nothing.
5. Delays grow exponentially with full jitter, so that a fleet does not come back in step.
6. Evidence stays here until it is asked for (`Commitments`); the CPU worker, which has no public
   key, sends it along. A lost connection ends that, too.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final, Literal, assert_never

from browser_node import protocol as p
from browser_node import session_events as ev
from browser_node.attempts import Attempts, fits, pack, pack_shown
from browser_node.backoff import Backoff
from browser_node.commitments import Commitments
from browser_node.politeness import Politeness
from browser_node.protocol import CloseCode, ModelDigest, ProtocolError

State = Literal[
    "stopped", "registering", "preparing", "connecting",
    "greeting", "serving", "draining", "waiting",
]  # fmt: skip

SETUP_TIMEOUT_S: Final = 15.0
# Idle nodes are probed about every 25 s: four in a row missing means that nobody is there.
SILENCE_S: Final = 120.0
# A connection that served this long was a good one: the next failure starts the back-off anew.
SETTLED_S: Final = 10.0
# A ping that waited behind a computation is read within this time of its end.
JUST_ENDED_S: Final = 0.1
TOO_MANY_DELAY_S: Final = 30.0
MAX_SLOTS: Final = 64

# Closing with one of these means that coming back unchanged is pointless.
_FINAL: Final = {
    CloseCode.BAD_VERSION: "The server speaks another version of the protocol. Reload to update.",
    CloseCode.BAD_ORIGIN: "The server does not take nodes from this address.",
    CloseCode.WRONG_ANSWERS: "This device computed a known answer wrongly, so it cannot help.",
    CloseCode.BANNED: "This device was set aside by the operator of this server.",
}


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this node says it is. Without ``public_key`` it neither registers nor signs."""

    runtime: p.Runtime
    device: p.Device
    public_key: bytes
    socket_path: str


class NodeSession:
    """One node's session across all its connections; see the module's table and rules."""

    def __init__(
        self, identity: Identity, *, rng: random.Random, backoff: Backoff | None = None
    ) -> None:
        self._identity = identity
        self._rng = rng
        self._backoff = backoff or Backoff()
        self.state: State = "stopped"
        self.node_id: str | None = None
        self.politeness = Politeness("active", "", 1.0, 1.0)
        self._limits = p.Limits()
        self._failures = 0
        self._due_at: float | None = None
        self._serving_since = 0.0
        self._heard_at = 0.0
        self._ticket: str | None = None
        self._nonce = ""
        self._socket_path = identity.socket_path
        self._prepared = ev.Prepared(b"")
        self._sent_capacity: p.Capacity | None = None
        self._base_slots = 1
        self._load_ids = 0
        self._loading: dict[int, ModelDigest] = {}
        self._ready: set[ModelDigest] = set()
        self._attempts = Attempts()
        self._commitments = Commitments()
        self._computing_since: float | None = None
        self._last_compute = (float("-inf"), 0.0)
        self._effects: list[ev.Effect] = []

    @property
    def held(self) -> frozenset[str]:
        """The attempts this node still owes an outcome."""
        return frozenset(self._attempts)

    @property
    def connected(self) -> bool:
        return self.state in ("serving", "draining")

    @property
    def wake_at(self) -> float | None:
        """When the next `Tick` is due, in the time of ``now``; None when none is."""
        over_at = self._over_at
        return over_at if over_at is None else min(over_at, self._commitments.drop_at)

    @property
    def _over_at(self) -> float | None:
        """When the state has lasted for too long, or the wait is over."""
        return self._heard_at + SILENCE_S if self.connected else self._due_at

    def handle(self, event: ev.Event, *, now: float) -> list[ev.Effect]:
        """Apply ``event``, return what to do about it in order; raises `ProtocolError` (rule 4)."""
        match event:
            case ev.Start():
                if self.state == "stopped":
                    self._begin(now)
            case ev.Stop():
                self._stop(event.reason)
            case ev.Registered():
                self._registered(event, now)
            case ev.Prepared():
                if self.state == "preparing":
                    self._prepared = event
                    self._enter("connecting", now)
                    self._emit(ev.Connect(self._socket_path))
            case ev.SetupFailed():
                self._setup_failed(event, now)
            case ev.Opened():
                if self.state == "connecting":
                    self._enter("greeting", now)
                    self._emit(ev.Send(self._hello()))
            case ev.Received():
                if self.connected or self.state == "greeting":
                    self._heard_at = now
                    self._receive(event.frame, now)
            case ev.Closed():
                self._closed(event, now)
            case ev.ModelLoaded():
                self._model_loaded(event)
            case ev.ModelFailed():
                self._model_failed(event)
            case ev.ComputeStarted():
                self._computing_since = now
            case ev.ComputeEnded():
                if self._computing_since is not None:
                    self._last_compute = (now, now - self._computing_since)
                    self._computing_since = None
            case ev.Finished():
                self._finished(event, now)
            case ev.PolicyChanged():
                self.politeness, self._limits = event.politeness, event.limits
                self._offer_capacity()
                if not self.politeness.keeps_work:
                    self._hand_back()
            case ev.Tick():
                self._tick(now)
            case _:
                assert_never(event)
        effects, self._effects = self._effects, []
        return effects

    # ── coming and going ─────────────────────────────────────────────────────────────────────────

    def _begin(self, now: float) -> None:
        if self._identity.public_key:
            self._enter("registering", now)
            self._emit(ev.Register())
        else:
            self._enter("preparing", now)
            self._emit(ev.Prepare(b""))

    def _registered(self, event: ev.Registered, now: float) -> None:
        if self.state != "registering":
            return
        self._nonce, self._socket_path = event.nonce, event.socket_path
        self._enter("preparing", now)
        self._emit(ev.Prepare(p.signed_message(nonce=event.nonce, origin=event.origin)))

    def _hello(self) -> p.Hello:
        return p.Hello(
            versions=p.SUPPORTED_VERSIONS,
            nonce=self._nonce,
            public_key=self._identity.public_key,
            signature=self._prepared.signature,
            ticket=self._ticket,
            runtime=self._identity.runtime,
            device=self._identity.device,
            cached=self._prepared.cached[:64],
            limits=self._limits,
        )

    def _welcomed(self, frame: p.Welcome, now: float) -> None:
        if frame.version not in p.SUPPORTED_VERSIONS:
            reason = f"welcome to version {frame.version}, this node speaks {p.VERSION}"
            raise ProtocolError(reason, CloseCode.BAD_VERSION)
        self.node_id, self._ticket = frame.node_id, frame.ticket or None
        self._enter("serving", now)
        self._serving_since = now
        self._offer_capacity()
        if frame.recipes:
            self._emit(ev.KeepModels(frame.recipes))

    def _setup_failed(self, event: ev.SetupFailed, now: float) -> None:
        if self.state not in ("registering", "preparing", "connecting"):
            return
        if event.permanent:
            self._end(event.reason, failed=True)
        else:
            self._wait(now, at_least_s=event.retry_after_s or 0.0)

    def _refused(self, frame: p.Refused, now: float) -> None:
        self._emit(ev.Disconnect(CloseCode.NORMAL, "refused"))
        if frame.retry_after_s is None:
            self._end(frame.reason, failed=True)
        else:
            self._wait(now, at_least_s=frame.retry_after_s)

    def _closed(self, event: ev.Closed, now: float) -> None:
        if self.state not in ("connecting", "greeting", "serving", "draining"):
            return
        if event.code in _FINAL:
            self._end(_FINAL[CloseCode(event.code)], failed=True)
            return
        if event.code == CloseCode.BAD_CREDENTIALS:
            self._ticket = None
        self._wait(now, at_least_s=TOO_MANY_DELAY_S if event.code == CloseCode.TOO_MANY else 0.0)

    def _wait(self, now: float, *, at_least_s: float = 0.0) -> None:
        if self.connected and now - self._serving_since >= SETTLED_S:
            self._failures = 0
        delay_s = self._backoff.delay_s(self._failures, self._rng, at_least_s=at_least_s)
        self._failures += 1
        self._lose_connection()
        self.state = "waiting"
        self._due_at = now + delay_s

    def _stop(self, reason: str) -> None:
        if self.state == "stopped":
            return
        if self.connected:
            self._emit(ev.Send(p.Bye(reason=reason[:200])))
        if self.state != "waiting":
            self._emit(ev.Disconnect(CloseCode.NORMAL, "bye"))
        self._end(reason, failed=False)

    def _end(self, reason: str, *, failed: bool) -> None:
        self._lose_connection()
        self.state = "stopped"
        self._due_at = None
        self._emit(ev.Ended(reason, failed))

    def _lose_connection(self) -> None:
        """Forget what the connection stood for: its attempts are the orchestrator's again."""
        self._drop(self._attempts)
        self._commitments.clear()
        self._loading.clear()
        self._ready.clear()
        self._sent_capacity = None
        self.node_id = None

    def _enter(self, state: State, now: float) -> None:
        self.state = state
        self._due_at = now + SETUP_TIMEOUT_S

    def _tick(self, now: float) -> None:
        self._drop(self._attempts.expired(now=now))
        self._commitments.drop_old(now)
        over_at = self._over_at
        if over_at is None or now < over_at:
            return
        if self.state == "waiting":
            self._begin(now)
        else:
            self._emit(ev.Disconnect(CloseCode.TIMEOUT, f"no answer while {self.state}"))
            self._wait(now)

    # ── frames ───────────────────────────────────────────────────────────────────────────────────

    def _receive(self, frame: p.OrchestratorFrame, now: float) -> None:
        match frame, self.state:
            case p.Welcome(), "greeting":
                self._welcomed(frame, now)
            case p.Refused(), "greeting":
                self._refused(frame, now)
            case p.Load(), "serving":
                self._load(frame)
            case p.Unload(), "serving":
                digest = ModelDigest(frame.digest)
                self._ready.discard(digest)
                self._loading = {key: of for key, of in self._loading.items() if of != digest}
                self._emit(ev.UnloadModel(digest))
            case p.Jobs(), "serving":
                self._take(frame, now)
            case p.Reveal(), "serving" | "draining":
                for shown in pack_shown(self._commitments.show(frame.attempt_ids, now=now)):
                    self._emit(ev.Send(shown))
            case p.Cancel(), "serving" | "draining":
                self._drop(frame.attempt_ids)
            case p.Drain(), "serving":
                self.state = "draining"
                self._offer_capacity()
            case p.Notice(), "serving" | "draining":
                self._emit(ev.Tell(frame.text))
            case p.Ping(), "serving" | "draining":
                self._emit(ev.Send(p.Pong(n=frame.n, busy_s=self._busy_s(now))))
            case _:
                name = type(frame).__name__.lower()
                raise ProtocolError(f"{name} while {self.state}", CloseCode.OUT_OF_ORDER)

    def _load(self, frame: p.Load) -> None:
        digest = ModelDigest(frame.recipe.digest)
        if digest in self._loading.values():
            reason = f"load of model {digest[:12]}… while it is loading"
            raise ProtocolError(reason, CloseCode.OUT_OF_ORDER)
        self._load_ids += 1
        self._loading[self._load_ids] = digest
        self._emit(ev.LoadModel(self._load_ids, frame.recipe, frame.challenge))

    def _model_loaded(self, event: ev.ModelLoaded) -> None:
        digest = self._loading.pop(event.load_id, None)
        if digest is None or self.state != "serving":
            return
        self._ready.add(digest)
        ready = p.Ready(
            digest=digest,
            load_s=event.load_s,
            calibration=event.calibration,
            answers=event.answers,
        )
        self._emit(ev.Send(ready))
        self._base_slots = min(max(event.slots, 1), MAX_SLOTS)
        self._offer_capacity()

    def _model_failed(self, event: ev.ModelFailed) -> None:
        digest = self._loading.pop(event.load_id, None)
        if digest is not None and self.state == "serving":
            message = event.message[:200]
            failed = p.Failed(digest=digest, blame="node", code=event.code, message=message)
            self._emit(ev.Send(failed))

    def _take(self, frame: p.Jobs, now: float) -> None:
        ids = [item.attempt_id for item in frame.items]
        if len(set(ids)) < len(ids) or any(key in self._attempts for key in ids):
            raise ProtocolError("an attempt is sent twice", CloseCode.OUT_OF_ORDER)
        taken: list[p.JobItem] = []
        for item in frame.items:
            if item.digest not in self._ready:
                self._fail(item.attempt_id, "model_not_loaded")
            elif not self.politeness.keeps_work or self._attempts.full:
                self._fail(item.attempt_id, p.HANDED_BACK)
            else:
                self._attempts.hold(item, now=now)
                taken.append(item)
        if taken:
            self._emit(ev.Execute(tuple(taken)))

    # ── attempts ─────────────────────────────────────────────────────────────────────────────────

    def _finished(self, event: ev.Finished, now: float) -> None:
        results: list[p.Result] = []
        for outcome in event.outcomes:
            if isinstance(outcome, p.Delta):
                if self._attempts.running(outcome.attempt_id, now=now):
                    self._emit(ev.Send(outcome))
                continue
            if not self._attempts.release(outcome.attempt_id, now=now):
                continue
            if isinstance(outcome, p.Failed):
                self._emit(ev.Send(outcome))
            elif not fits(outcome):
                self._fail(outcome.attempt_id, "result_too_big")
            elif self._identity.public_key:
                results.append(self._commitments.commit(outcome, now=now))
            else:
                results.append(outcome)
        for frame in pack(results):
            self._emit(ev.Send(frame))

    def _hand_back(self) -> None:
        for attempt_id in self._attempts:
            self._fail(attempt_id, p.HANDED_BACK)
        self._drop(self._attempts)

    def _drop(self, attempt_ids: Attempts | tuple[str, ...]) -> None:
        if dropped := self._attempts.forget(attempt_ids):
            self._emit(ev.Drop(dropped))

    def _fail(self, attempt_id: str, code: str) -> None:
        self._emit(ev.Send(p.Failed(attempt_id=attempt_id, blame="node", code=code)))

    # ── what is said about this node ─────────────────────────────────────────────────────────────

    def _offer_capacity(self) -> None:
        if not self.connected:
            return
        capacity = self._capacity()
        if capacity != self._sent_capacity:
            self._sent_capacity = capacity
            self._emit(ev.Send(capacity))

    def _capacity(self) -> p.Capacity:
        if self.state == "draining":
            return p.Capacity(slots=0, state="draining", limits=self._limits)
        share = self.politeness.slots_share
        return p.Capacity(
            slots=max(1, int(self._base_slots * share)) if share > 0.0 else 0,
            state=self.politeness.state,
            reason=self.politeness.reason[:200],
            limits=self._limits,
        )

    def _busy_s(self, now: float) -> float:
        if self._computing_since is not None:
            return max(0.0, now - self._computing_since)
        ended_at, duration_s = self._last_compute
        return duration_s if now - ended_at <= JUST_ENDED_S else 0.0

    def _emit(self, effect: ev.Effect) -> None:
        self._effects.append(effect)
