"""A real Chromium and a real server; a page test also fails on what the console complains of."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, ConsoleMessage, Page, async_playwright

from tests.chromium_flags import FLAGS
from tests.orchestrator.page_server import REPOSITORY, Served, serve

ARGUMENTS = (
    *FLAGS,
    "--force-color-profile=srgb",
    "--font-render-hinting=none",
    "--hide-scrollbars",
)
# A violation that the browser reports only as an event becomes a console error.
TELL_VIOLATIONS = """addEventListener('securitypolicyviolation', event =>
  console.error('violates', event.violatedDirective, event.blockedURI, event.sample))"""

Open = Callable[..., Awaitable[Page]]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def chromium() -> AsyncIterator[Browser]:
    executable = os.environ.get("CHROMIUM_PATH") or shutil.which("chromium")
    if executable is None:
        if os.environ.get("CI"):
            pytest.fail("there is no Chromium, and in CI that hides the whole suite")
        pytest.skip("no Chromium: apt-get install -y --no-install-recommends chromium")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=executable, args=ARGUMENTS)
        yield browser
        await browser.close()


@pytest_asyncio.fixture(loop_scope="module")
async def site() -> AsyncIterator[Served]:
    """The pages with a fleet of 24 volunteers; the build is the repository's own."""
    async with serve(build_dir=REPOSITORY / "build") as served:
        yield served


@pytest_asyncio.fixture(loop_scope="module")
async def browser_context(chromium: Browser, site: Served) -> AsyncIterator[BrowserContext]:
    context = await chromium.new_context(
        base_url=site.url,
        locale="en-GB",
        timezone_id="UTC",
        viewport={"width": 1440, "height": 900},
        reduced_motion="reduce",
        color_scheme="dark",
    )
    context.set_default_timeout(10_000)
    await context.add_init_script(TELL_VIOLATIONS)
    yield context
    await context.close()


@pytest.fixture
def complaints() -> list[str]:
    """What the tab complained of; a test that provokes something checks it and clears the list."""
    return []


@pytest_asyncio.fixture(loop_scope="module")
async def tab(browser_context: BrowserContext, complaints: list[str]) -> AsyncIterator[Page]:
    """A tab; the test fails if its console has an error or warning, or a script throws."""
    page = await browser_context.new_page()

    def told(message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            complaints.append(f"{message.type}: {message.text}")

    page.on("console", told)
    page.on("pageerror", lambda error: complaints.append(f"threw: {error}"))
    yield page
    await page.close()
    assert complaints == []
