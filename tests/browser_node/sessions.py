"""Sessions of a node brought into a state, for tests of what happens next."""

from __future__ import annotations

import random
from typing import Any

from browser_node import protocol as p
from browser_node import session_events as ev
from browser_node.politeness import Signals, VolunteerLimits, decide
from browser_node.session import Identity, NodeSession
from tests.browser_node.frames import DIGEST

RUNTIME = p.Runtime(kind="browser", backend="wasm", threads=1)
DEVICE = p.Device(cores=2)
IDENTITY = Identity(RUNTIME, DEVICE, public_key=b"\x04" + bytes(64), socket_path="")
WORKER = Identity(RUNTIME, DEVICE, public_key=b"", socket_path="/worker/v1")
RECIPE = p.Recipe(model_id="m", version="1", digest=DIGEST)
WELCOME = ev.Received(p.Welcome(version=1, node_id="n1", ticket="t1"))
PAUSED = decide(Signals(user_paused=True), VolunteerLimits())
LOADED = ev.ModelLoaded(
    load_id=1,
    load_s=1.0,
    slots=36,
    calibration=(p.Speed(batch_size=8, tokens_per_s=2400.0),),
    answers=(p.Answer(output=b"o"),),
)


def new_session(identity: Identity = IDENTITY) -> NodeSession:
    return NodeSession(identity, rng=random.Random(1))


def feed(session: NodeSession, *events: ev.Event, now: float = 0.0) -> list[ev.Effect]:
    """Handle events one after another; return the effects of all."""
    return [effect for event in events for effect in session.handle(event, now=now)]


def received(session: NodeSession, *frames: Any, now: float = 0.0) -> list[ev.Effect]:
    return feed(session, *(ev.Received(frame) for frame in frames), now=now)


def sent(effects: list[ev.Effect]) -> list[p.Frame]:
    return [effect.frame for effect in effects if isinstance(effect, ev.Send)]


def greeting(now: float = 0.0) -> NodeSession:
    session = new_session()
    feed(
        session,
        ev.Start(),
        ev.Registered("nonce", "http://h", "/node/v1"),
        ev.Prepared(b"sig"),
        ev.Opened(),
        now=now,
    )
    assert session.state == "greeting"
    return session


def serving(now: float = 0.0) -> NodeSession:
    session = greeting(now)
    feed(session, WELCOME, now=now)
    assert session.state == "serving"
    return session


def ready(now: float = 0.0) -> NodeSession:
    session = serving(now)
    received(session, p.Load(recipe=RECIPE), now=now)
    feed(session, LOADED, now=now)
    return session


def job(attempt_id: str = "a1", *, lease_s: float = 5.0, digest: str = DIGEST) -> p.JobItem:
    return p.JobItem(attempt_id=attempt_id, digest=digest, lease_s=lease_s, tokens=9, input="text")


def result(attempt_id: str = "a1", output: bytes = b"out") -> p.Result:
    return p.Result(attempt_id=attempt_id, output=output, compute_s=0.01, tokens=9)
