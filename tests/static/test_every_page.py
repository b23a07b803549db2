"""What holds for each page: no complaint, no sideways scrolling, a way in by keyboard, a theme."""

from __future__ import annotations

import pytest
from playwright.async_api import Page, expect

from tests.orchestrator.page_server import Served

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.slow]

HEADINGS = {
    "/": "Inference on donated browser tabs",
    "/volunteer": "Lend this tab to people who need a small model",
    "/operate": "Sign in with a one-time link",
    "/reference": "API reference",
}


@pytest.mark.parametrize("path", HEADINGS)
@pytest.mark.parametrize("width", [1440, 390, 320])
async def test_a_page_fits_its_screen(tab: Page, path: str, width: int) -> None:
    await tab.set_viewport_size({"width": width, "height": 844})

    await tab.goto(path)

    await expect(tab.get_by_role("heading", level=1)).to_have_text(HEADINGS[path])
    assert await tab.evaluate("document.documentElement.scrollWidth") == width


@pytest.mark.parametrize("path", HEADINGS)
async def test_the_first_key_press_offers_to_skip_to_the_content(tab: Page, path: str) -> None:
    await tab.goto(path)

    await tab.keyboard.press("Tab")
    await expect(tab.get_by_role("link", name="Skip to content")).to_be_focused()
    await tab.keyboard.press("Enter")

    await expect(tab.locator("#main")).to_be_focused()


async def test_the_theme_is_chosen_once_for_all_pages(tab: Page) -> None:
    await tab.goto("/")
    dark = await tab.evaluate("getComputedStyle(document.body.parentElement).backgroundColor")

    await tab.get_by_role("button", name="Use the light theme").click()
    light = await tab.evaluate("getComputedStyle(document.body.parentElement).backgroundColor")
    await tab.goto("/volunteer")

    await expect(tab.locator("html")).to_have_attribute("data-theme", "light")
    await expect(tab.get_by_role("button", name="Use the dark theme")).to_be_visible()
    assert dark != light


async def test_forced_colours_show_every_page_without_complaint(tab: Page) -> None:
    await tab.emulate_media(forced_colors="active")

    for path, heading in HEADINGS.items():
        await tab.goto(path)
        await expect(tab.get_by_role("heading", level=1)).to_have_text(heading)


async def test_the_landing_page_counts_what_the_fleet_has_done(tab: Page, site: Served) -> None:
    await tab.goto("/")

    await expect(tab.locator("#live")).to_have_text("24 volunteers online")
    await expect(tab.get_by_text("18.2k")).to_be_visible()
    await expect(tab.get_by_text("1,311")).to_be_visible()


async def test_the_examples_are_for_this_server(tab: Page, site: Served) -> None:
    await tab.goto("/")
    example = tab.locator(".code")

    await expect(example).to_contain_text(f"curl {site.url}/v1/responses")
    await tab.get_by_role("radio", name="curl").focus()
    await tab.keyboard.press("ArrowRight")

    await expect(example).to_contain_text(f'OpenAI(base_url="{site.url}/v1")')


async def test_an_example_is_copied_as_shown(tab: Page, site: Served) -> None:
    await tab.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=site.url)
    await tab.goto("/")

    await tab.get_by_role("button", name="Copy example").click()

    await expect(tab.get_by_role("status").filter(has_text="Copied")).to_be_attached()
    copied = await tab.evaluate("navigator.clipboard.readText()")
    assert copied == await tab.locator(".code code").text_content()
