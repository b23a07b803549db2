"""Logs: events with fields, in both styles, without secrets."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Literal

import pytest
import structlog

from orchestrator.logs import REDACTED, redact, set_up_logs
from orchestrator.settings import Settings

SECRET = "zgpu-api-4rT8secretsecretsecret"


@pytest.fixture(autouse=True)
def untouched_logging() -> Iterator[None]:
    """Put back what `set_up_logs` changes for the whole process."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def logged(style: Literal["json", "console"], level: Literal["debug", "info"] = "info") -> str:
    stream = io.StringIO()
    set_up_logs(Settings(log_format=style, log_level=level), stream)
    log = structlog.get_logger("engine")
    log.info("rerouted", node_id="n1", input_tokens=3, cause="closed")
    log.debug("detail")
    log.info(
        "careless",
        prompt="my prompt",
        input="my input",
        api_key=SECRET,
        nested={"ticket": "my ticket", "attempts": 2},
        frame=b"my bytes",
        error=ValueError(f"bad key {SECRET}"),
    )
    logging.getLogger("uvicorn.error").warning("Bearer %s", "my-bearer-token")
    logging.getLogger("uvicorn.access").info("GET /console/sign-in?token=my-token")
    try:
        raise RuntimeError(f"with {SECRET}")
    except RuntimeError:
        log.exception("failed", request_id="req_1")
    return stream.getvalue()


@pytest.mark.parametrize("style", ["json", "console"])
def test_no_style_shows_a_secret(style: Literal["json", "console"]) -> None:
    text = logged(style)

    for secret in ("secretsecret", "my prompt", "my input", "my ticket", "my bytes", "my-bearer"):
        assert secret not in text
    assert "my-token" not in text
    assert "RuntimeError: with [redacted]" in text


def test_json_lines_are_events_with_fields() -> None:
    lines = [json.loads(line) for line in logged("json").splitlines()]

    first = lines[0]
    assert (first["event"], first["logger"], first["level"]) == ("rerouted", "engine", "info")
    assert (first["node_id"], first["input_tokens"]) == ("n1", 3)
    assert first["timestamp"].endswith("Z")
    assert lines[1]["nested"] == {"ticket": REDACTED, "attempts": 2}
    assert [line["event"] for line in lines] == [
        "rerouted",
        "careless",
        "Bearer [redacted]",
        "failed",
    ]
    assert lines[3]["request_id"] == "req_1"


def test_the_level_decides_what_is_written() -> None:
    assert "detail" not in logged("json")
    assert "detail" in logged("json", "debug")


def test_what_identifies_without_opening_stays() -> None:
    event = {"key_id": "key_1", "tokens": 5, "key_digest": "ab", "model": "m", "url": "http://x/y"}

    assert redact(None, "info", dict(event)) == event
