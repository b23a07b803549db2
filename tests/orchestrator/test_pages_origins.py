"""Host and Origin: who is meant, and who may change something."""

from __future__ import annotations

import json

import pytest
from starlette.types import Message, Receive, Scope, Send

from orchestrator.settings import Settings
from orchestrator.transport.assets import send_reply
from orchestrator.transport.headers import HostCheck
from orchestrator.transport.origins import Origins, origin_of
from tests.orchestrator.page_fakes import ask

LOCAL = Origins.of(Settings())
PUBLIC = Origins.of(
    Settings(host="0.0.0.0", public_url="https://Node.example", allowed_hosts=("alias.example",))
)


@pytest.mark.parametrize(
    ("origins", "host", "served"),
    [
        (LOCAL, "localhost:8000", True),
        (LOCAL, "127.0.0.1", True),
        (LOCAL, "[::1]:8000", True),
        (LOCAL, "LOCALHOST.", True),
        (LOCAL, "192.168.1.7:8000", False),
        (LOCAL, "evil.example:8000", False),
        (LOCAL, "localhost.evil.example", False),
        (LOCAL, "user@localhost", False),
        (LOCAL, "localhost/x", False),
        (LOCAL, "localhost:port", False),
        (LOCAL, "[::1", False),
        (LOCAL, "", False),
        (LOCAL, None, False),
        (PUBLIC, "node.example", True),
        (PUBLIC, "alias.example:443", True),
        (PUBLIC, "192.168.1.7:8000", True),
        (PUBLIC, "evil.example", False),
        (Origins.of(Settings(allowed_hosts=("*",))), "any.example", True),
    ],
)
def test_only_known_names_are_answered(origins: Origins, host: str | None, served: bool) -> None:
    assert origins.serves(host) is served


@pytest.mark.parametrize(
    ("origin", "scheme", "host", "admitted"),
    [
        (None, "http", "localhost:8000", True),
        ("http://localhost:8000", "http", "localhost:8000", True),
        ("http://localhost:8000", "ws", "localhost:8000", True),
        ("https://node.example", "http", "10.0.0.1", True),
        ("https://node.example", "wss", "node.example", True),
        ("https://node.example:443", "https", "node.example", False),
        ("http://localhost:8001", "http", "localhost:8000", False),
        ("https://localhost:8000", "http", "localhost:8000", False),
        ("http://evil.example", "http", "evil.example", False),
        ("null", "http", "localhost:8000", False),
        ("", "http", "localhost:8000", False),
    ],
)
def test_only_our_own_pages_and_native_clients_may_change_something(
    origin: str | None, scheme: str, host: str, admitted: bool
) -> None:
    assert PUBLIC.admits(origin, scheme=scheme, host=host) is admitted


def test_an_origin_leaves_the_default_port_out() -> None:
    assert origin_of("wss", "Node.example:443") == "https://node.example"
    assert origin_of("ws", "localhost:80") == "http://localhost"
    assert origin_of("http", "localhost:443") == "http://localhost:443"


async def _welcome(scope: Scope, receive: Receive, send: Send) -> None:
    await send_reply(scope, send, status=200, body=b"in")


async def test_a_request_for_another_host_is_misdirected() -> None:
    guarded = HostCheck(_welcome, origins=LOCAL)

    assert (await ask(guarded, "/", host="rebound.example")).status == 421
    assert (await ask(guarded, "/", host="localhost")).body == b"in"


@pytest.mark.parametrize(
    ("version", "hosts", "status"),
    [
        ("1.1", [], 400),
        ("1.1", [b"localhost", b"localhost"], 400),
        ("1.1", [b"localhost", b"rebound.example"], 400),
        ("1.0", [b"localhost", b"rebound.example"], 400),
        # Before 1.1 nobody had to send one; what has none is still not for a name of ours.
        ("1.0", [], 421),
        ("1.0", [b"localhost"], 200),
    ],
)
async def test_a_request_has_one_host(version: str, hosts: list[bytes], status: int) -> None:
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request"}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "GET",
        "path": "/",
        "http_version": version,
        "headers": [(b"host", host) for host in hosts],
    }
    await HostCheck(_welcome, origins=LOCAL)(scope, receive, send)

    assert sent[0]["status"] == status
    if status == 400:
        assert (b"content-type", b"application/json") in sent[0]["headers"]
        assert json.loads(sent[1]["body"])["error"]["message"] == (
            f"A request has one Host header; this one has {len(hosts)}."
        )


async def test_a_socket_for_another_host_is_closed_before_it_opens() -> None:
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "websocket", "headers": [(b"host", b"rebound.example")]}
    await HostCheck(_welcome, origins=LOCAL)(scope, receive, send)

    assert [message["type"] for message in sent] == ["websocket.close"]
