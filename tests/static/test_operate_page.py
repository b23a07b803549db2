"""The operator's dashboard against a fleet that the test moves."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from playwright.async_api import Page, expect

from tests.orchestrator.page_server import Served

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.slow]


async def _sign_in(tab: Page, site: Served) -> None:
    await tab.goto(site.link())
    await expect(tab.get_by_text("Live", exact=True)).to_be_visible()


def _rows(tab: Page):  # type: ignore[no-untyped-def]
    return tab.get_by_role("table").locator("tbody tr")


async def test_a_sign_in_link_works_once(tab: Page, site: Served) -> None:
    link = site.link()
    await tab.goto(link)
    await expect(tab.get_by_role("heading", name="Fleet")).to_be_visible()
    assert tab.url == f"{site.url}/operate"

    await tab.context.clear_cookies()
    await tab.goto(link)

    await expect(tab.get_by_text("That link does not work any more")).to_be_visible()
    await expect(tab.get_by_text("zerogpu console-link")).to_be_visible()


async def test_the_figures_are_those_of_the_fleet(tab: Page, site: Served) -> None:
    await _sign_in(tab, site)

    figures = tab.locator("dl[aria-label='Key figures']")
    for text in ("24", "18.2k", "1,311", "96", "CPU worker is ready"):
        await expect(figures).to_contain_text(text)
    await expect(tab.get_by_text("1–15 of 25")).to_be_visible()


async def test_changes_arrive_by_themselves(tab: Page, site: Served) -> None:
    await _sign_in(tab, site)
    lost = site.fleet.rows.pop()

    site.fleet.happen("left", f"Browser tab {lost.id} left: connection closed", lost.id)

    await expect(tab.get_by_text("1–15 of 24")).to_be_visible()
    await expect(tab.get_by_role("region", name="List of events")).to_contain_text(lost.id)


async def test_paused_updates_wait(tab: Page, site: Served) -> None:
    await _sign_in(tab, site)
    await tab.get_by_role("button", name="Pause updates").press("Enter")
    site.fleet.happen("rerouted", "Job moved while nobody looked")

    await expect(tab.get_by_text("waiting").last).to_be_visible()
    await expect(tab.get_by_text("Job moved while nobody looked")).to_have_count(0)
    await tab.get_by_role("button", name="Resume updates").press("Enter")

    await expect(tab.get_by_text("Job moved while nobody looked")).to_be_visible()


async def test_nodes_are_sorted_by_keyboard(tab: Page, site: Served) -> None:
    await _sign_in(tab, site)
    heading = tab.get_by_role("columnheader", name="Tokens/s")

    await heading.get_by_role("button").press("Enter")
    await expect(heading).to_have_attribute("aria-sort", "descending")
    await expect(_rows(tab).first).to_contain_text("cpu-worker")
    await heading.get_by_role("button").press("Enter")

    await expect(heading).to_have_attribute("aria-sort", "ascending")
    await expect(_rows(tab).first).not_to_contain_text("cpu-worker")


async def test_nodes_are_found_by_reason_and_state(tab: Page, site: Served) -> None:
    await _sign_in(tab, site)

    await tab.get_by_role("searchbox", name="Search nodes").fill("battery")
    await expect(_rows(tab).first).to_contain_text("Paused: on battery")
    await expect(tab.get_by_text("4 nodes")).to_be_visible()
    await tab.get_by_role("button", name="Limited").click()

    await expect(tab.get_by_text("No node matches")).to_be_visible()


async def test_reroutes_can_be_looked_at_alone(tab: Page, site: Served) -> None:
    site.fleet.happen("joined", "A tab joined")
    site.fleet.happen("rerouted", "Job moved to the CPU worker")
    await _sign_in(tab, site)
    events = tab.get_by_role("region", name="List of events")
    await expect(events).to_contain_text("A tab joined")

    await tab.get_by_role("radio", name="Reroutes").check()

    await expect(events).to_contain_text("Job moved to the CPU worker")
    await expect(events).not_to_contain_text("A tab joined")


async def test_an_empty_fleet_says_how_to_get_a_node(tab: Page, site: Served) -> None:
    del site.fleet.rows[1:]
    await _sign_in(tab, site)

    await expect(_rows(tab)).to_have_count(1)
    await expect(tab.get_by_text("No volunteer is connected")).to_be_visible()
    await expect(tab.get_by_text(f"zerogpu node --url {site.url}")).to_be_visible()


async def test_whatever_a_node_says_of_itself_stays_text(tab: Page, site: Served) -> None:
    hostile = msgspec.structs.replace(
        site.fleet.rows[1],
        agent="<img src=x onerror=alert(1)>",
        reason="</td><script>",
        state="paused",
    )
    site.fleet.rows = [hostile]
    await _sign_in(tab, site)

    await expect(_rows(tab).first).to_contain_text("<img src=x onerror=alert(1)>")
    await expect(_rows(tab).first).to_contain_text("</td><script>")


async def test_signing_out_closes_the_dashboard(tab: Page, site: Served) -> None:
    await _sign_in(tab, site)

    await tab.get_by_role("button", name="Sign out").click()

    await expect(tab.get_by_role("heading", name="Sign in with a one-time link")).to_be_visible()
    assert site.sign_in.sessions == set()


async def test_an_open_dashboard_does_not_keep_the_server_alive(
    tab: Page, site: Served, complaints: list[str]
) -> None:
    await _sign_in(tab, site)

    site.shutdown.set()
    site.server.should_exit = True
    await expect(tab.get_by_text("Connection lost")).to_be_visible()
    async with asyncio.timeout(10):
        await site.stopped.wait()

    # The browser itself reports that it cannot connect again.
    assert all("ERR_CONNECTION_REFUSED" in complaint for complaint in complaints)
    complaints.clear()
