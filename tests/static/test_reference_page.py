"""The API reference in a real browser: it shows the document, is searched, linked to and copied."""

from __future__ import annotations

import re

import pytest
from playwright.async_api import Page, expect

from orchestrator.api.endpoints import ENDPOINTS
from tests.orchestrator.page_server import Served

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.slow]


async def test_every_operation_is_shown_with_its_route(tab: Page) -> None:
    await tab.goto("/reference")

    await expect(tab.locator(".operation")).to_have_count(len(ENDPOINTS))
    for endpoint in ENDPOINTS:
        route = tab.locator(f"#{endpoint.operation_id} .route")
        await expect(route).to_contain_text(f"{endpoint.method} {endpoint.path}")


async def test_a_link_to_an_operation_leads_to_it(tab: Page) -> None:
    await tab.goto("/reference#createBatch")

    await expect(tab.locator("#createBatch h3")).to_be_in_viewport()
    there = tab.get_by_role("navigation", name="Operations").locator("[aria-current=location]")
    await expect(there).to_have_attribute("href", "#createBatch")


async def test_the_contents_lead_to_an_operation_by_keyboard(tab: Page) -> None:
    await tab.goto("/reference")
    link = tab.get_by_role("navigation", name="Operations").get_by_role(
        "link", name="Delete a file"
    )

    await link.focus()
    await tab.keyboard.press("Enter")

    await expect(tab).to_have_url(re.compile("#deleteFile$"))
    await expect(tab.locator("#deleteFile h3")).to_be_in_viewport()


async def test_a_search_leaves_what_has_the_words(tab: Page) -> None:
    await tab.goto("/reference")
    search = tab.get_by_role("searchbox", name="Search the operations")

    await search.fill("encoding_format")
    await expect(tab.locator(".operation")).to_have_count(1)
    await expect(tab.locator("#createEmbedding")).to_be_visible()
    await expect(tab.get_by_role("status").filter(has_text="1 operation found")).to_be_attached()

    await search.fill("nothing has this")
    await expect(tab.locator(".operation")).to_have_count(0)
    await tab.get_by_role("button", name="Show all").click()
    await expect(tab.locator(".operation")).to_have_count(len(ENDPOINTS))


async def test_a_link_is_followed_though_a_search_hides_where_it_leads(tab: Page) -> None:
    await tab.goto("/reference")
    await tab.get_by_role("searchbox").fill("embedding")

    await tab.evaluate("location.hash = 'listModels'")

    await expect(tab.locator("#listModels h3")).to_be_in_viewport()


async def test_objects_inside_of_a_field_unfold(tab: Page) -> None:
    await tab.goto("/reference")
    body = tab.locator("#createChatCompletion")

    await body.get_by_text("Fields of Message", exact=True).click()
    await body.get_by_text("Fields of ContentPart", exact=True).click()

    text = body.locator(".unfold .unfold .field").filter(has_text="text")
    await expect(text.first).to_be_visible()


async def test_each_event_of_a_stream_unfolds_under_its_type(tab: Page) -> None:
    await tab.goto("/reference")
    body = tab.locator("#createResponse")

    await body.get_by_text("Each event is one of 12", exact=True).click()
    await body.get_by_text("Fields of response.output_text.delta", exact=True).click()

    await expect(body.locator(".unfold .name").filter(has_text="delta").first).to_be_visible()


async def test_the_language_is_chosen_once_for_all_operations(tab: Page, site: Served) -> None:
    await tab.goto("/reference")

    await tab.locator("#createResponse").get_by_role("radio", name="curl").check()

    await expect(tab.locator("#createBatch .sample pre").first).to_contain_text(
        f"curl {site.url}/v1/batches"
    )
    await tab.reload()
    await expect(tab.locator("#createResponse .sample pre").first).to_contain_text("curl ")


async def test_a_sample_is_copied_as_shown_for_this_server(tab: Page, site: Served) -> None:
    await tab.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=site.url)
    await tab.goto("/reference")
    sample = tab.locator("#createEmbedding .sample")

    await sample.get_by_role("button", name="Copy Python example").click()

    await expect(sample.get_by_role("status").filter(has_text="Copied")).to_be_attached()
    copied = await tab.evaluate("navigator.clipboard.readText()")
    assert copied == await sample.locator("pre").first.text_content()
    assert f'base_url="{site.url}/v1"' in copied


async def test_the_streamed_example_shows_a_streamed_answer(tab: Page) -> None:
    await tab.goto("/reference")
    sample = tab.locator("#createChatCompletion .sample")

    await sample.get_by_role("radio", name="Stream").check()

    await expect(sample).to_contain_text("text/event-stream")
    await expect(sample.locator("pre").last).to_contain_text("data: [DONE]")


async def test_every_error_is_told_with_its_meaning(tab: Page) -> None:
    await tab.goto("/reference")
    errors = tab.locator("#createEmbedding .about details").last

    await errors.locator("summary").click()

    row = errors.get_by_role("row").filter(has_text="model_route_mismatch")
    await expect(row).to_contain_text("The model answers on another route.")


@pytest.mark.parametrize("width", [1440, 390, 320])
async def test_nothing_is_wider_than_the_screen_once_unfolded(tab: Page, width: int) -> None:
    await tab.set_viewport_size({"width": width, "height": 844})
    await tab.goto("/reference")
    await tab.locator(".operation").first.wait_for()

    await tab.evaluate(
        "document.querySelectorAll('.operation details').forEach(one => { one.open = true; })"
    )

    assert await tab.evaluate("document.documentElement.scrollWidth") == width


async def test_a_document_that_does_not_come_is_said(tab: Page, complaints: list[str]) -> None:
    await tab.route("**/openapi.json", lambda route: route.fulfill(status=503))

    await tab.goto("/reference")

    await expect(tab.get_by_text("could not be read (status 503)")).to_be_visible()
    assert len(complaints) == 1
    complaints.clear()
