"""The node's session: joining, coming back, leaving."""

from __future__ import annotations

import random

import pytest

from browser_node import protocol as p
from browser_node import session_events as ev
from browser_node.backoff import MAX_RETRY_AFTER_S, Backoff
from browser_node.session import SETTLED_S, SETUP_TIMEOUT_S, SILENCE_S
from tests.browser_node.frames import DIGEST
from tests.browser_node.sessions import (
    DEVICE,
    IDENTITY,
    RECIPE,
    RUNTIME,
    WELCOME,
    WORKER,
    feed,
    greeting,
    job,
    new_session,
    ready,
    received,
    result,
    sent,
    serving,
)

# ── joining ──────────────────────────────────────────────────────────────────────────────────────


def test_a_node_registers_signs_connects_and_greets() -> None:
    session = new_session()

    assert feed(session, ev.Start()) == [ev.Register()]
    message = p.signed_message(nonce="n", origin="https://h")
    assert feed(session, ev.Registered("n", "https://h", "/node/v1")) == [ev.Prepare(message)]
    prepared = ev.Prepared(b"sig", (p.ModelDigest(DIGEST),))
    assert feed(session, prepared) == [ev.Connect("/node/v1")]
    (hello,) = sent(feed(session, ev.Opened()))
    assert hello == p.Hello(
        versions=(1,),
        nonce="n",
        public_key=IDENTITY.public_key,
        signature=b"sig",
        runtime=RUNTIME,
        device=DEVICE,
        cached=(DIGEST,),
    )


def test_the_cpu_worker_neither_registers_nor_signs() -> None:
    session = new_session(WORKER)

    assert feed(session, ev.Start()) == [ev.Prepare(b"")]
    assert feed(session, ev.Prepared(b"")) == [ev.Connect("/worker/v1")]
    (hello,) = sent(feed(session, ev.Opened()))
    assert isinstance(hello, p.Hello)
    assert (hello.public_key, hello.signature, hello.nonce) == (b"", b"", "")


def test_a_welcome_is_answered_with_the_capacity() -> None:
    session = greeting()

    assert sent(feed(session, WELCOME)) == [p.Capacity(slots=1, state="active", limits=p.Limits())]
    assert session.node_id == "n1"


def test_a_welcome_with_recipes_tells_which_models_to_keep() -> None:
    frame = p.Welcome(version=1, node_id="n1", ticket="t1", recipes=(RECIPE,))

    assert ev.KeepModels((RECIPE,)) in received(greeting(), frame)


def test_a_welcome_to_another_version_is_the_orchestrators_fault() -> None:
    session = greeting()

    with pytest.raises(p.ProtocolError) as error:
        received(session, p.Welcome(version=2, node_id="n", ticket=""))

    assert error.value.close_code == p.CloseCode.BAD_VERSION
    assert session.state == "greeting"


def test_a_refusal_with_a_time_is_honoured() -> None:
    session = greeting()

    effects = received(session, p.Refused(reason="Full.", retry_after_s=60.0), now=10.0)

    assert effects == [ev.Disconnect(p.CloseCode.NORMAL, "refused")]
    assert session.state == "waiting"
    assert session.wake_at is not None
    assert 70.0 <= session.wake_at <= 71.0


def test_a_refusal_for_good_ends_the_session() -> None:
    session = greeting()

    effects = received(session, p.Refused(reason="You are banned."))

    assert effects == [
        ev.Disconnect(p.CloseCode.NORMAL, "refused"),
        ev.Ended("You are banned.", failed=True),
    ]
    assert session.state == "stopped"


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_set_up_that_fails_is_tried_again(steps: int) -> None:
    session = new_session()
    way = (ev.Start(), ev.Registered("n", "http://h", "/s"), ev.Prepared(b""))
    feed(session, *way[:steps])

    feed(session, ev.SetupFailed("no network"), now=5.0)

    assert session.state == "waiting"
    assert session.wake_at is not None
    assert feed(session, ev.Tick(), now=session.wake_at) == [ev.Register()]


def test_a_permanent_refusal_to_register_ends_the_session() -> None:
    session = new_session()
    feed(session, ev.Start())

    assert feed(session, ev.SetupFailed("No.", permanent=True)) == [ev.Ended("No.", failed=True)]


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_a_set_up_that_hangs_is_abandoned(steps: int) -> None:
    session = new_session()
    way = (ev.Start(), ev.Registered("n", "http://h", "/s"), ev.Prepared(b""), ev.Opened())
    feed(session, *way[:steps])

    assert feed(session, ev.Tick(), now=SETUP_TIMEOUT_S - 0.1) == []
    (effect,) = feed(session, ev.Tick(), now=SETUP_TIMEOUT_S)

    assert isinstance(effect, ev.Disconnect)
    assert session.state == "waiting"


# ── coming back ──────────────────────────────────────────────────────────────────────────────────


def test_a_lost_connection_is_resumed_with_the_ticket() -> None:
    session = serving()
    feed(session, ev.Closed(1006, ""))
    assert session.wake_at is not None

    effects = feed(
        session,
        ev.Tick(),
        ev.Registered("n2", "http://h", "/node/v1"),
        ev.Prepared(b"sig"),
        ev.Opened(),
        now=session.wake_at,
    )

    (hello,) = sent(effects)
    assert isinstance(hello, p.Hello)
    assert hello.ticket == "t1"


def test_a_ticket_that_was_not_accepted_is_not_shown_again() -> None:
    session = serving()
    feed(session, ev.Closed(p.CloseCode.BAD_CREDENTIALS, ""))
    assert session.wake_at is not None

    effects = feed(
        session,
        ev.Tick(),
        ev.Registered("n2", "http://h", "/node/v1"),
        ev.Prepared(b"sig"),
        ev.Opened(),
        now=session.wake_at,
    )

    (hello,) = sent(effects)
    assert isinstance(hello, p.Hello)
    assert hello.ticket is None


def test_delays_grow_exponentially_up_to_a_cap_and_are_jittered() -> None:
    backoff, rng = Backoff(base_s=1.0, cap_s=60.0), random.Random(3)
    for failures, ceiling in ((0, 1.0), (1, 2.0), (3, 8.0), (6, 60.0), (1000, 60.0)):
        delays = [backoff.delay_s(failures, rng) for _ in range(300)]
        assert max(delays) <= ceiling
        assert max(delays) > 0.9 * ceiling
        assert min(delays) < 0.1 * ceiling


def test_no_server_can_send_a_node_away_for_more_than_an_hour() -> None:
    delay_s = Backoff().delay_s(0, random.Random(1), at_least_s=86_400.0)

    assert delay_s <= MAX_RETRY_AFTER_S + 1.0


def test_failures_count_until_a_connection_has_served_for_a_while() -> None:
    def delay_after(served_s: float) -> float:
        session = new_session()
        now = 0.0
        feed(session, ev.Start(), now=now)
        for _ in range(6):
            feed(session, ev.SetupFailed("no"), now=now)
            assert session.wake_at is not None
            now = session.wake_at
            feed(session, ev.Tick(), now=now)
        way = (ev.Registered("n", "http://h", "/s"), ev.Prepared(b""), ev.Opened(), WELCOME)
        feed(session, *way, now=now)
        feed(session, ev.Closed(1006, ""), now=now + served_s)
        assert session.wake_at is not None
        return session.wake_at - now - served_s

    assert delay_after(SETTLED_S) <= 1.0
    assert delay_after(SETTLED_S - 1.0) > 1.0


@pytest.mark.parametrize(
    "code",
    [
        p.CloseCode.BAD_VERSION,
        p.CloseCode.BAD_ORIGIN,
        p.CloseCode.WRONG_ANSWERS,
        p.CloseCode.BANNED,
    ],
)
def test_a_node_that_is_not_wanted_stays_away_and_says_why(code: p.CloseCode) -> None:
    (effect,) = feed(serving(), ev.Closed(code, ""))

    assert isinstance(effect, ev.Ended)
    assert effect.failed
    assert effect.reason.endswith(".")


def test_a_crowded_server_is_left_alone_for_a_while() -> None:
    session = serving()

    feed(session, ev.Closed(p.CloseCode.TOO_MANY, ""), now=5.0)

    assert session.wake_at is not None
    assert session.wake_at >= 35.0


def test_a_server_that_says_nothing_any_more_is_left() -> None:
    session = serving(now=100.0)
    received(session, p.Ping(n=1), now=110.0)
    assert session.wake_at == 110.0 + SILENCE_S

    (effect,) = feed(session, ev.Tick(), now=110.0 + SILENCE_S)

    assert isinstance(effect, ev.Disconnect)
    assert session.state == "waiting"


def test_events_of_an_abandoned_connection_change_nothing() -> None:
    session = serving()
    feed(session, ev.Closed(1006, ""))

    assert feed(session, ev.Closed(1006, ""), ev.Opened(), WELCOME) == []
    assert received(session, p.Jobs(items=(job(),))) == []
    assert session.state == "waiting"


# ── leaving ──────────────────────────────────────────────────────────────────────────────────────


def test_a_draining_node_finishes_what_it_holds_and_takes_no_more() -> None:
    session = ready()
    received(session, p.Jobs(items=(job(),)))

    (frame,) = sent(received(session, p.Drain(reason="restart")))

    assert frame == p.Capacity(slots=0, state="draining", limits=p.Limits())
    assert sent(feed(session, ev.Finished((result(),)))) == [p.Results(items=(result(),))]
    with pytest.raises(p.ProtocolError):
        received(session, p.Jobs(items=(job("a2"),)))


def test_a_node_whose_server_drained_comes_back() -> None:
    session = ready()
    received(session, p.Drain())

    feed(session, ev.Closed(p.CloseCode.GOING_AWAY, ""))

    assert session.state == "waiting"


def test_stopping_says_goodbye_and_drops_everything() -> None:
    session = ready()
    received(session, p.Jobs(items=(job(),)))

    assert feed(session, ev.Stop("the volunteer stopped")) == [
        ev.Send(p.Bye(reason="the volunteer stopped")),
        ev.Disconnect(p.CloseCode.NORMAL, "bye"),
        ev.Drop(("a1",)),
        ev.Ended("the volunteer stopped", failed=False),
    ]
    assert feed(session, ev.Stop("again"), ev.Finished((result(),))) == []
    assert session.wake_at is None


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_stopping_before_the_welcome_abandons_what_is_under_way(steps: int) -> None:
    session = new_session()
    way = (ev.Start(), ev.Registered("n", "http://h", "/s"), ev.Prepared(b""), ev.Opened())
    feed(session, *way[:steps])

    assert feed(session, ev.Stop("enough")) == [
        ev.Disconnect(p.CloseCode.NORMAL, "bye"),
        ev.Ended("enough", failed=False),
    ]


def test_a_stopped_node_can_start_again() -> None:
    session = serving()
    feed(session, ev.Stop("enough"))

    assert feed(session, ev.Start()) == [ev.Register()]
