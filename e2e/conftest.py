"""A real server, a real Chromium, the unmodified OpenAI SDK."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from playwright.sync_api import BrowserContext, BrowserType

from e2e.server import ROOT, TRUSTING, UNHEDGED, Server, serving
from tests.chromium_flags import FLAGS

# Where a profile keeps what it was sent and what it has compiled of that.
CACHES = ("Cache", "Code Cache")


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
            *FLAGS,
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
def kept_caches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the browsers of earlier journeys were sent and have compiled; empty at first."""
    return tmp_path_factory.mktemp("caches")


@pytest.fixture
def new_profile(
    browser_type: BrowserType,
    browser_type_launch_args: dict[str, Any],
    browser_context_args: dict[str, Any],
    kept_caches: Path,
    tmp_path: Path,
) -> Iterator[Callable[[], BrowserContext]]:
    """Start a Chromium with a profile of its own: no key, model or choice, but warm caches.

    Compiling the runtime is most of the work of a first visit, which `test_visit.py` is about. The
    caches go by address: the server must be at `tab_port`.
    """
    profiles: list[Path] = []
    contexts: list[BrowserContext] = []

    def start() -> BrowserContext:
        profiles.append(tmp_path / f"profile-{len(profiles)}")
        for kept in kept_caches.iterdir():
            shutil.copytree(kept, profiles[-1] / "Default" / kept.name)
        contexts.append(
            browser_type.launch_persistent_context(
                profiles[-1], **browser_type_launch_args, **browser_context_args
            )
        )
        return contexts[-1]

    yield start
    for context in contexts:
        context.close()
    if profiles:
        for name in CACHES:
            shutil.rmtree(kept_caches / name, ignore_errors=True)
            (profiles[0] / "Default" / name).rename(kept_caches / name)
    for profile in profiles:
        shutil.rmtree(profile, ignore_errors=True)


@pytest.fixture(scope="session")
def tab_port() -> int:
    """A port for servers that run one after another."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server with its CPU worker for all tests that leave it as it was; trusts every tab."""
    with serving(tmp_path_factory.mktemp("shared") / "data", env=UNHEDGED) as server:
        yield server


@pytest.fixture(scope="module")
def harmed_server(tmp_path_factory: pytest.TempPathFactory, tab_port: int) -> Iterator[Server]:
    data_dir = tmp_path_factory.mktemp("harmed") / "data"
    with serving(data_dir, env=TRUSTING, port=tab_port) as server:
        yield server


@pytest.fixture
def server(harmed_server: Server) -> Server:
    """A file's own server, to be harmed; whole again for each journey, its counters go on.

    It trusts every tab that has calibrated.
    """
    return harmed_server.mended()


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
