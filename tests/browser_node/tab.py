"""A real Chromium tab that runs the node in its worker, served as the product serves it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import BrowserContext, ConsoleMessage, Page, async_playwright
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Route

from tests.browser_node.built import BUILD
from tests.browser_node.fake_orchestrator import sent
from tests.chromium_flags import FLAGS

STATIC = BUILD.parent / "static"
ISOLATED = {
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-embedder-policy": "require-corp",
}
PAGE_POLICY = "default-src 'none'; script-src 'self'; connect-src 'self'; worker-src 'self'"
# What a worker may do is said by its own script's response.
WORKER_POLICY = PAGE_POLICY.replace("script-src 'self'", "script-src 'self' 'wasm-unsafe-eval'")

START = """(message) => {
  window.said = [];
  addEventListener('securitypolicyviolation', (e) => said.push({type: 'csp', at: e.blockedURI}));
  window.node = new Worker('/static/worker/node.js', {type: 'module'});
  node.addEventListener('message', (e) => said.push({...e.data, at: performance.now()}));
  node.addEventListener('error', (e) => said.push({type: 'uncaught', message: e.message}));
  node.postMessage(message);
}"""
LIMITS = {
    "cpuShare": 1,
    "threads": 1,
    "runHidden": False,
    "runOnBattery": False,
    "runOnSaveData": False,
}
SIGNALS = {
    "hidden": False,
    "battery": None,
    "charging": None,
    "saveData": False,
    "pressure": None,
}
DEVICE = {"cores": 2, "memoryMb": 8000, "connection": "4g", "timeZone": "UTC"}


def chromium() -> str:
    """Return the path of the installed Chromium; skips where there is none."""
    names = (os.environ.get("CHROMIUM_PATH"), "chromium", "chromium-browser", "google-chrome")
    for name in names:
        if name and (path := shutil.which(name)):
            return path
    if os.environ.get("CI"):
        pytest.fail("Chromium is not installed")
    pytest.skip("Chromium is not installed")


@dataclass
class Site:
    """The pages around the fake orchestrator's endpoints; counts what is asked for."""

    build_dir: Path = BUILD
    requests: list[str] = field(default_factory=list)
    missing: set[str] = field(default_factory=set)

    def routes(self) -> list[BaseRoute]:
        return [
            Route("/", self._page),
            Route("/static/worker/{name}", self._worker),
            Route("/runtime/{hash}/{name}", self._runtime),
        ]

    async def _page(self, request: Request) -> Response:
        policy = {"content-security-policy": PAGE_POLICY}
        return HTMLResponse("<!doctype html><title>node</title>", headers={**ISOLATED, **policy})

    async def _worker(self, request: Request) -> Response:
        index = json.loads((self.build_dir / "index.json").read_text())
        source = (STATIC / "worker" / request.path_params["name"]).read_text()
        source = source.replace("/runtime/@/", f"/runtime/{index['runtime']['hash']}/")
        headers = {**self._worker_headers(), "cache-control": "no-cache"}
        return Response(source, media_type="text/javascript", headers=headers)

    async def _runtime(self, request: Request) -> Response:
        name = request.path_params["name"]
        self.requests.append(name)
        if name in self.missing:
            return Response(status_code=404)
        path = self.build_dir / "runtime" / request.path_params["hash"] / name
        response = sent(request, path, immutable=True)
        # Threads of the ONNX runtime are workers of their own.
        response.headers.update(self._worker_headers())
        return response

    def _worker_headers(self) -> dict[str, str]:
        corp = {"cross-origin-resource-policy": "same-origin"}
        return {**ISOLATED, **corp, "content-security-policy": WORKER_POLICY}


@dataclass
class Tab:
    """One page with a node in its worker."""

    page: Page
    errors: list[str]

    async def post(self, **message: Any) -> None:
        await self.page.evaluate("(message) => node.postMessage(message)", message)

    async def said(self) -> list[dict[str, Any]]:
        said: list[dict[str, Any]] = await self.page.evaluate("said")
        return said

    async def until(self, condition: str, timeout_s: float = 30.0) -> dict[str, Any]:
        """Return the first message ``m``, from now or before, for which ``condition`` holds."""
        found = await self.page.wait_for_function(
            f"() => said.find((m) => {condition})", timeout=timeout_s * 1000, polling=20
        )
        message: dict[str, Any] = await found.json_value()
        return message


@contextlib.asynccontextmanager
async def browser(profile: Path) -> AsyncIterator[BrowserContext]:
    """Run Chromium with a profile on disk: a second visit finds what the first one left."""
    async with async_playwright() as playwright:
        context = await playwright.chromium.launch_persistent_context(
            profile, executable_path=chromium(), args=FLAGS
        )
        try:
            yield context
        finally:
            await context.close()


@contextlib.asynccontextmanager
async def tab(
    context: BrowserContext,
    url: str,
    *,
    limits: dict[str, Any] | None = None,
    signals: dict[str, Any] | None = None,
) -> AsyncIterator[Tab]:
    """Open a page, start its node; leaving checks that the console stayed clean."""
    page = await context.new_page()
    errors: list[str] = []

    def on_console(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            errors.append(message.text)

    page.on("console", on_console)
    page.on("pageerror", lambda error: errors.append(str(error)))
    try:
        await page.goto(url)
        await page.evaluate(
            START,
            {
                "type": "start",
                "limits": {**LIMITS, **(limits or {})},
                "signals": {**SIGNALS, **(signals or {})},
                "device": DEVICE,
            },
        )
        opened = Tab(page, errors)
        yield opened
        unexpected = [m for m in await opened.said() if m["type"] in ("csp", "uncaught")]
        assert errors + unexpected == []
    finally:
        # Without this a page with a busy worker may outlive the test.
        await asyncio.wait_for(page.close(), 10)
