"""The console over plain ASGI: sign-in, sign-out, and the life of a stream."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest
from starlette.types import Message, Scope

from orchestrator.clock import Clock
from orchestrator.console.app import SESSION_CHECK_S, Console, build_console
from orchestrator.console.control import Control
from orchestrator.console.sign_in import StoredSignIn
from orchestrator.settings import Settings
from orchestrator.storage.console_sessions import create_link
from tests.orchestrator.databases import database_in
from tests.orchestrator.page_desk import open_desk
from tests.orchestrator.page_fakes import FakeFleet, FakeSignIn, Reply, ask, http_scope

COOKIE = "zerogpu_console=session-of-link-1"


@dataclass
class Desk:
    """A console whose clock, fleet and shutdown the test holds."""

    control: Control
    settings: Settings = field(default_factory=Settings)
    fleet: FakeFleet = field(default_factory=FakeFleet)
    sign_in: FakeSignIn = field(default_factory=FakeSignIn)
    shutdown: asyncio.Event = field(default_factory=asyncio.Event)
    now: float = 100.0

    def console(self) -> Console:
        return build_console(
            self.settings,
            sign_in=self.sign_in,
            fleet_source=self.fleet.snapshot,
            control=self.control,
            clock=Clock(monotonic=lambda: self.now, wall=lambda: self.now),
            shutdown=self.shutdown,
            stream_interval_s=0.01,
        )

    def tick(self) -> None:
        self.now += 1
        self.fleet.tick()


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    fleet = FakeFleet()
    with open_desk(tmp_path, fleet, Clock()) as (_, control):
        yield Desk(control, fleet=fleet)


@pytest.fixture
def inside(desk: Desk) -> Desk:
    desk.sign_in.sessions.add("session-of-link-1")
    return desk


@dataclass
class Stream:
    """A client of the stream; events are (name, id, data)."""

    reply: Reply = field(default_factory=Reply)
    events: asyncio.Queue[tuple[str, str, dict[str, object]]] = field(default_factory=asyncio.Queue)
    leave: asyncio.Event = field(default_factory=asyncio.Event)
    reads: asyncio.Event = field(default_factory=asyncio.Event)

    async def receive(self) -> Message:
        await self.leave.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        await self.reads.wait()
        if message["type"] == "http.response.start":
            self.reply.status = message["status"]
            return
        self.reply.complete = not message.get("more_body", False)
        for block in message["body"].decode().split("\n\n"):
            fields = dict(line.split(": ", 1) for line in block.splitlines())
            if "event" in fields:
                body = msgspec.json.decode(fields["data"])
                self.events.put_nowait((fields["event"], fields.get("id", ""), body))


def connect(console: Console, *, reading: bool = True, **headers: str) -> tuple[Stream, Running]:
    stream = Stream()
    if reading:
        stream.reads.set()
    scope = http_scope("/console/stream", cookie=COOKIE, **headers)
    return stream, asyncio.create_task(_run(console, scope, stream))


Running = asyncio.Task[None]


async def _run(console: Console, scope: Scope, stream: Stream) -> None:
    await console(scope, stream.receive, stream.send)


async def test_a_link_signs_in_once(desk: Desk) -> None:
    console = desk.console()

    first = await ask(console, "/console/sign-in?token=link-1")
    second = await ask(console, "/console/sign-in?token=link-1")

    assert (first.status, first.headers["location"]) == (303, "/operate")
    assert first.headers["set-cookie"] == (
        f"{COOKIE}; Max-Age=2592000; Path=/; HttpOnly; SameSite=Lax"
    )
    assert first.headers["cache-control"] == "no-store"
    assert (second.status, second.headers["location"]) == (303, "/operate?link=void")
    assert "set-cookie" not in second.headers


@pytest.mark.parametrize(
    "query", ["", "?token=", "?token=unknown", "?token=%ff%00", "?other=link-1"]
)
async def test_a_wrong_link_leads_to_the_page_that_explains(desk: Desk, query: str) -> None:
    reply = await ask(desk.console(), f"/console/sign-in{query}")

    assert (reply.status, reply.headers["location"]) == (303, "/operate?link=void")


async def test_a_browser_that_fetches_ahead_does_not_use_the_link_up(desk: Desk) -> None:
    console = desk.console()

    ahead = await ask(console, "/console/sign-in?token=link-1", sec_purpose="prefetch;prerender")
    look = await ask(console, "/console/sign-in?token=link-1", method="HEAD")
    click = await ask(console, "/console/sign-in?token=link-1")

    assert (ahead.status, look.status) == (503, 405)
    assert click.headers["location"] == "/operate"


async def test_the_cookie_is_for_https_only_where_the_server_is(desk: Desk) -> None:
    desk.settings = Settings(public_url="https://node.example")

    reply = await ask(desk.console(), "/console/sign-in?token=link-1", host="node.example")

    assert reply.headers["set-cookie"].endswith("; Secure")


async def test_signing_out_ends_the_session(inside: Desk) -> None:
    console = inside.console()
    before = await ask(console, "/console/session", cookie=COOKIE)

    reply = await ask(
        console, "/console/sign-out", method="POST", cookie=COOKIE, origin="http://localhost:8000"
    )
    after = await ask(console, "/console/session", cookie=COOKIE)

    assert (before.body, after.body) == (b'{"signed_in":true}', b'{"signed_in":false}')
    assert (reply.status, reply.headers["location"]) == (303, "/operate")
    assert "Max-Age=0" in reply.headers["set-cookie"]


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost:9000"])
async def test_another_site_cannot_sign_anybody_out(inside: Desk, origin: str) -> None:
    console = inside.console()

    reply = await ask(console, "/console/sign-out", method="POST", cookie=COOKIE, origin=origin)

    assert reply.status == 403
    assert (await ask(console, "/console/session", cookie=COOKIE)).body == b'{"signed_in":true}'


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/console/stream", 405),
        ("GET", "/console/sign-out", 405),
        ("GET", "/console/", 404),
        ("GET", "/console/stream/x", 404),
        ("GET", "/console/stream", 401),
    ],
)
async def test_other_requests_are_refused(desk: Desk, method: str, path: str, status: int) -> None:
    assert (await ask(desk.console(), path, method=method)).status == status


async def test_a_stream_begins_with_everything_and_goes_on_with_what_changed(inside: Desk) -> None:
    inside.fleet.happen("joined", "A tab joined")
    stream, running = connect(inside.console())

    name, event_id, first = await stream.events.get()
    inside.tick()
    while True:
        later, _, change = await stream.events.get()
        if change["at"] != first["at"]:
            break
    stream.leave.set()
    await running

    assert (name, event_id.rpartition("-")[2], later) == ("snapshot", "1", "change")
    assert len(first["nodes"]) == 25  # type: ignore[arg-type]
    assert 0 < len(change["nodes"]) < 25  # type: ignore[arg-type]
    assert change["gone"] == []


async def test_a_client_that_comes_back_is_not_sent_events_twice(inside: Desk) -> None:
    inside.fleet.happen("joined", "one")
    console = inside.console()
    stream, running = connect(console)
    _, seen, first = await stream.events.get()
    stream.leave.set()
    await running
    inside.fleet.happen("left", "two")
    inside.now += 1

    again, running = connect(console, last_event_id=seen)
    _, _, second = await again.events.get()
    again.leave.set()
    await running

    assert [event["text"] for event in first["events"]] == ["one"]  # type: ignore[attr-defined]
    assert [event["text"] for event in second["events"]] == ["two"]  # type: ignore[attr-defined]


@pytest.mark.parametrize("last_event_id", ["another-1", "1", "-1", "nonsense", "19-\u0663"])
async def test_an_id_of_another_server_start_gets_everything(
    inside: Desk, last_event_id: str
) -> None:
    inside.fleet.happen("joined", "one")
    stream, running = connect(inside.console(), last_event_id=last_event_id)

    _, _, first = await stream.events.get()
    stream.leave.set()
    await running

    assert len(first["events"]) == 1  # type: ignore[arg-type]


async def test_shutdown_ends_a_stream_with_a_word(inside: Desk) -> None:
    stream, running = connect(inside.console())
    await stream.events.get()

    inside.shutdown.set()
    async with asyncio.timeout(5):
        await running

    names = [stream.events.get_nowait()[0] for _ in range(stream.events.qsize())]
    assert names[-1] == "closing"
    assert stream.reply.complete


async def test_a_client_that_stopped_reading_does_not_hold_up_the_shutdown(inside: Desk) -> None:
    stream, running = connect(inside.console(), reading=False)
    stream.reads.set()
    await stream.events.get()
    stream.reads.clear()

    inside.shutdown.set()
    async with asyncio.timeout(5):
        await running

    assert not stream.reply.complete


async def test_a_stream_outlives_its_session_only_briefly(inside: Desk) -> None:
    stream, running = connect(inside.console())
    await stream.events.get()

    inside.sign_in.sessions.clear()
    inside.now += SESSION_CHECK_S
    async with asyncio.timeout(5):
        await running

    names = [stream.events.get_nowait()[0] for _ in range(stream.events.qsize())]
    assert names[-1] == "signed-out"


async def test_links_and_sessions_are_kept_in_the_database(tmp_path: Path) -> None:
    database = database_in(tmp_path)
    clock = Clock(wall=lambda: 1000.0)
    sign_in = StoredSignIn(database, clock=clock, settings=Settings())
    try:
        token = create_link(database, now=1000.0, lifetime_s=60)
        session = await sign_in.redeem(token)
        assert session is not None
        assert await sign_in.redeem(token) is None
        assert await sign_in.holds(session)
        await sign_in.end(session)
        assert not await sign_in.holds(session)
    finally:
        database.close()
