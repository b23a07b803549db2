"""What a node tells when it registers, and what it makes of the answer."""

from __future__ import annotations

import base64
import json

import pytest

from browser_node import session_events as ev
from browser_node.protocol import Device, Runtime
from browser_node.runtimes.registration import read_reply, request_json
from browser_node.session import Identity

REPLY = {
    "protocol": 1,
    "nonce": "n",
    "nonce_expires_s": 60,
    "origin": "https://example.org",
    "socket": "/node/v1",
    "recipes": [],
}


def read(status: int, body: object, host: str = "example.org") -> ev.Registered | ev.SetupFailed:
    return read_reply(status, json.dumps(body).encode(), host=host)


def test_the_request_tells_runtime_device_and_public_key() -> None:
    runtime = Runtime(kind="native", backend="onnxruntime", threads=2)
    identity = Identity(runtime, Device(cores=4), public_key=b"\x04key", socket_path="")

    told = json.loads(request_json(identity))

    assert set(told) == {"runtime", "device", "public_key"}
    assert told["runtime"]["kind"] == "native"
    assert told["device"]["cores"] == 4
    assert base64.b64decode(told["public_key"]) == b"\x04key"


def test_a_good_answer_names_nonce_origin_and_socket() -> None:
    assert read(200, REPLY) == ev.Registered("n", "https://example.org", "/node/v1")


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("http://example.org", "example.org"),  # a proxy ends TLS and does not say so
        ("https://Example.org", "example.ORG"),
        ("http://127.0.0.1:8000", "127.0.0.1:8000"),
    ],
)
def test_an_origin_with_this_servers_host_is_signed(origin: str, host: str) -> None:
    assert isinstance(read(200, {**REPLY, "origin": origin}, host), ev.Registered)


@pytest.mark.parametrize(
    "origin", ["https://other.org", "https://example.org:444", "example.org", "https://", ""]
)
def test_a_node_never_signs_for_another_server(origin: str) -> None:
    event = read(200, {**REPLY, "origin": origin})

    assert isinstance(event, ev.SetupFailed)
    assert event.permanent


@pytest.mark.parametrize("path", ["", "node/v1", "@other.org/node/v1", "ws://other.org/"])
def test_the_socket_is_on_this_server(path: str) -> None:
    event = read(200, {**REPLY, "socket": path})

    assert isinstance(event, ev.SetupFailed)
    assert event.permanent


def test_another_version_is_no_use_trying_again() -> None:
    event = read(200, {**REPLY, "protocol": 2})

    assert isinstance(event, ev.SetupFailed)
    assert event.permanent


@pytest.mark.parametrize(
    ("status", "permanent"), [(400, True), (403, True), (429, False), (500, False), (503, False)]
)
def test_a_refusal_is_passing_or_for_good_by_its_status(status: int, permanent: bool) -> None:
    body = {"error": {"code": "c", "message": "Not now."}, "retry_after_s": 7}

    assert read(status, body) == ev.SetupFailed("Not now.", 7.0, permanent)


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"\xff", b'{"nonce": 1}'])
@pytest.mark.parametrize("status", [200, 502])
def test_an_unreadable_answer_is_worth_another_try(status: int, body: bytes) -> None:
    event = read_reply(status, body, host="example.org")

    assert isinstance(event, ev.SetupFailed)
    assert not event.permanent
    assert str(status) in event.reason
