"""A real server, a real Chromium, the unmodified OpenAI SDK."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from e2e.server import ROOT, TRUSTING, UNHEDGED, Server, serving


def chromium_path() -> str | None:
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    found = [os.environ.get("CHROMIUM_PATH"), *(shutil.which(name) for name in names)]
    return next((path for path in found if path and Path(path).exists()), None)


@pytest.fixture(scope="session", autouse=True)
def _built() -> None:
    if not (ROOT / "build" / "index.json").exists():
        pytest.fail("nothing is built: run `make setup` first")


@pytest.fixture(scope="session")
def browser_type_launch_args(browser_type_launch_args: dict[str, Any]) -> dict[str, Any]:
    path = chromium_path()
    if path is None:
        hint = "no Chromium: run scripts/setup-browser, or set CHROMIUM_PATH"
        if os.environ.get("CI"):
            pytest.fail(hint)
        pytest.skip(hint)
    return {
        **browser_type_launch_args,
        "executable_path": path,
        "args": [
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--force-color-profile=srgb",
            "--font-render-hinting=none",
            "--hide-scrollbars",
        ],
    }


@pytest.fixture(scope="session")
def browser_context_args(browser_context_args: dict[str, Any]) -> dict[str, Any]:
    return {
        **browser_context_args,
        "locale": "en-GB",
        "timezone_id": "UTC",
        "viewport": {"width": 1440, "height": 900},
        "reduced_motion": "reduce",
        "color_scheme": "dark",
    }


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server with its CPU worker for all tests that leave it as it was; trusts every tab."""
    with serving(tmp_path_factory.mktemp("shared") / "data", env=UNHEDGED) as server:
        yield server


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server of the test's own, to be harmed; it trusts every tab that has calibrated."""
    with serving(tmp_path / "data", env=TRUSTING) as server:
        yield server


def sdk(server: Server, **options: Any) -> openai.OpenAI:
    """Return the OpenAI SDK as a customer sets it up."""
    return openai.OpenAI(
        base_url=f"{server.url}/v1",
        api_key="unused",
        default_headers={"x-api-key": server.api_key, "x-project-id": server.project_id},
        max_retries=options.pop("max_retries", 0),
        timeout=60,
        **options,
    )


@pytest.fixture
def client(shared_server: Server) -> Iterator[openai.OpenAI]:
    with sdk(shared_server) as client:
        yield client
