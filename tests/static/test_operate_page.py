"""The operator's dashboard against a fleet that the test moves."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from playwright.async_api import Locator, Page, expect

from tests.orchestrator.page_server import Served

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.slow]


async def _sign_in(tab: Page, site: Served) -> None:
    await tab.goto(site.link())
    await expect(tab.get_by_text("Live", exact=True)).to_be_visible()


def _rows(tab: Page) -> Locator:
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


async def _order(tab: Page, node_id: str, order: str) -> None:
    """Give an order to a node: its menu, the order, and once more when asked."""
    await tab.get_by_role("button", name=f"Orders for {node_id}").click()
    await tab.get_by_role("dialog").get_by_role("button", name=order).click()
    await tab.get_by_role("dialog", name=order).get_by_role("button", name=order).click()


async def _tab_to(tab: Page, target: Locator) -> None:
    """Press Tab until ``target`` has the focus."""
    for _ in range(120):
        if await target.evaluate("element => element === document.activeElement"):
            return
        await tab.keyboard.press("Tab")
    pytest.fail(f"{target} cannot be reached by keyboard")


def _section(tab: Page, title: str) -> Locator:
    return tab.get_by_role("navigation", name="Sections").get_by_role("link", name=title)


async def test_a_row_says_how_far_a_node_is_trusted_and_why(tab: Page, site: Served) -> None:
    node = site.fleet.rows[4]
    site.engine.disagree(node, "another label")
    await _sign_in(tab, site)

    row = _rows(tab).filter(has_text=node.id)
    await expect(row).to_contain_text("Newcomer")
    await expect(row).to_contain_text(f"{node.agreed} agreed, 1 disagreed")
    await expect(row).to_contain_text(node.region)


async def test_a_quarantine_is_seen_in_trust_undone_there_and_both_are_in_the_audit_log(
    tab: Page, site: Served
) -> None:
    node = site.fleet.rows[4]
    await _sign_in(tab, site)

    await tab.get_by_role("searchbox", name="Search nodes").fill(node.id)
    await _order(tab, node.id, "Quarantine")
    await expect(tab.get_by_role("status").filter(has_text="is in quarantine.")).to_be_visible()
    await expect(_rows(tab).first).to_contain_text("In quarantine")

    await _section(tab, "Trust").click()
    standing = _rows(tab).filter(has_text=node.identity[:12])
    await expect(standing).to_contain_text("quarantined by an operator")
    await expect(standing).to_contain_text(node.id)
    await standing.get_by_role("button", name="Undo").click()
    await tab.get_by_role("dialog").get_by_role("button", name="Release").click()
    await expect(tab.get_by_text("Nobody is in quarantine.")).to_be_visible()

    await _section(tab, "Audit log").click()
    await expect(_rows(tab)).to_have_count(2)
    await expect(_rows(tab).nth(0)).to_contain_text(f"Released identity {node.identity[:12]}")
    await expect(_rows(tab).nth(1)).to_contain_text(f"Quarantined identity {node.identity[:12]}")
    await expect(_rows(tab).nth(1)).to_contain_text("console ")
    assert site.fleet.rows[4].level == "newcomer"


async def test_an_order_is_given_and_taken_back_by_keyboard_alone(tab: Page, site: Served) -> None:
    node = site.fleet.rows[4]
    await _sign_in(tab, site)
    await tab.get_by_role("searchbox", name="Search nodes").fill(node.id)
    orders = tab.get_by_role("button", name=f"Orders for {node.id}")

    await _tab_to(tab, orders)
    await tab.keyboard.press("Enter")
    await _tab_to(tab, tab.get_by_role("button", name="Ban"))
    await tab.keyboard.press("Escape")
    await expect(orders).to_be_focused()
    await tab.keyboard.press("Enter")
    await expect(tab.get_by_role("button", name="Drain")).to_be_focused()
    await tab.keyboard.press("Enter")
    # Whoever holds the key down for too long has ordered nothing yet.
    await expect(tab.get_by_role("button", name="Back")).to_be_focused()
    await tab.keyboard.press("Tab")
    await tab.keyboard.press("Enter")
    await expect(_rows(tab).first).to_contain_text("Draining")
    await expect(orders).to_be_focused()
    await _tab_to(tab, tab.get_by_role("button", name="Undo"))
    await tab.keyboard.press("Enter")

    await expect(_rows(tab).first).to_contain_text("Active")
    await _tab_to(tab, _section(tab, "Audit log"))
    await tab.keyboard.press("Enter")
    await expect(_rows(tab).nth(0)).to_contain_text(f"Resumed node {node.id}")
    await expect(_rows(tab).nth(1)).to_contain_text(f"Drained node {node.id}")


@pytest.mark.parametrize("way", ["Escape", "Close"])
async def test_a_dialog_can_be_opened_again_the_moment_it_closes(
    tab: Page, site: Served, way: str
) -> None:
    node = site.fleet.rows[4]
    await _sign_in(tab, site)
    await tab.get_by_role("searchbox", name="Search nodes").fill(node.id)
    orders = tab.get_by_role("button", name=f"Orders for {node.id}")
    await orders.click()
    await expect(tab.get_by_role("button", name="Drain")).to_be_focused()
    first = await tab.query_selector("dialog")
    assert first is not None
    # Nobody's fingers are quicker than the focus that comes back.
    await orders.evaluate(
        "button => button.addEventListener('focus', () => button.click(), { once: true })"
    )

    if way == "Escape":
        await tab.keyboard.press("Escape")
    else:
        await tab.get_by_role("dialog").get_by_role("button", name="Close").click()

    await first.wait_for_element_state("hidden")
    await expect(tab.get_by_role("button", name="Drain")).to_be_focused()
    # What was to close the first has been and gone.
    await tab.evaluate("() => new Promise(done => setTimeout(() => requestAnimationFrame(done)))")
    await expect(tab.get_by_role("button", name="Drain")).to_be_focused()


async def test_an_order_that_comes_too_late_says_so(
    tab: Page, site: Served, complaints: list[str]
) -> None:
    node = site.fleet.rows[4]
    await _sign_in(tab, site)
    await tab.get_by_role("searchbox", name="Search nodes").fill(node.id)
    await tab.get_by_role("button", name=f"Orders for {node.id}").click()
    await tab.get_by_role("button", name="Drain").click()
    site.fleet.rows.remove(node)

    await tab.get_by_role("dialog").get_by_role("button", name="Drain").click()

    await expect(tab.get_by_role("alert")).to_contain_text(f"Node {node.id} is not connected")
    assert [complaint for complaint in complaints if "404" not in complaint] == []
    complaints.clear()


async def test_the_cpu_worker_takes_no_orders(tab: Page, site: Served) -> None:
    await _sign_in(tab, site)
    await tab.get_by_role("searchbox", name="Search nodes").fill("cpu-worker")

    await expect(_rows(tab)).to_have_count(1)
    await expect(_rows(tab).get_by_role("button")).to_have_count(0)


async def test_rows_stay_where_they_are_while_somebody_is_in_them(tab: Page, site: Served) -> None:
    await _sign_in(tab, site)
    top = await _rows(tab).first.get_by_role("rowheader").inner_text()
    top_id = top.split()[0]
    orders = tab.get_by_role("button", name=f"Orders for {top_id}")
    await orders.focus()

    last = site.fleet.rows[-1].id
    site.fleet.change(last, jobs_done=90_000)
    site.fleet.happen("joined", "Something happened")
    await expect(tab.get_by_text("Something happened")).to_be_visible()
    await expect(_rows(tab).first).to_contain_text(top_id)
    await expect(orders).to_be_focused()
    await tab.get_by_role("searchbox", name="Search nodes").focus()

    await expect(_rows(tab).first).to_contain_text(last)


async def test_evidence_is_told_with_its_cosine_and_reason(tab: Page, site: Served) -> None:
    node = site.fleet.rows[4]
    site.engine.disagree(node, "cosine 0.41 is below 0.99", min_cosine=0.4127)
    await _sign_in(tab, site)
    await _section(tab, "Trust").click()
    await expect(tab.get_by_text("Nobody is in quarantine.")).to_be_visible()

    await tab.get_by_role("radio", name="Disagreed").check()
    await tab.get_by_role("button", name="Evidence against").press("Enter")

    proof = tab.get_by_role("table", name="Wrong answers of")
    for text in ("Audit", "0.4127", "cosine 0.41 is below 0.99", node.id, "all-minilm-l6-v2"):
        await expect(proof).to_contain_text(text)


async def test_a_decision_tells_every_term_and_who_was_passed_over(tab: Page, site: Served) -> None:
    site.engine.decide(
        job="7a.0", cold_load_s=3.4, finish_s=3.4592, skipped={"busy": 3, "too_slow": 1}
    )
    await _sign_in(tab, site)
    await _section(tab, "Decisions").click()

    row = _rows(tab).first
    for text in ("RTT 18.0 ms", "Service 41.2 ms", "Cold load 3.4 s", "3 busy", "1 too slow"):
        await expect(row).to_contain_text(text)
    for text in ("2.1 ms", "3.5 s", "63.1 ms", "Answered", "prj_newsroom", "n_9f3c1a"):
        await expect(row).to_contain_text(text)
    await tab.get_by_role("button", name="Job 7a.0 in full").press("Enter")

    details = tab.get_by_role("dialog", name="Job 7a.0")
    await expect(details.get_by_role("row", name="Penalty")).to_contain_text("0.0 ms")
    for text in ("req_4f1c", "64 tokens", "7 nodes in full", "Its answer may be delivered at once"):
        await expect(details).to_contain_text(text)
    await details.get_by_role("button", name="Close").press("Enter")
    await expect(details).to_have_count(0)
    await expect(tab.get_by_role("button", name="Job 7a.0 in full")).to_be_focused()


async def test_decisions_come_by_themselves_unless_paused(tab: Page, site: Served) -> None:
    site.engine.decide(job="a.0")
    await _sign_in(tab, site)
    await _section(tab, "Decisions").click()
    await expect(_rows(tab)).to_have_count(1)
    site.engine.decide(job="b.0", node_id=None, skipped={"no_memory": 2}, outcome="unplaced")

    await expect(_rows(tab).first).to_contain_text("Nobody")
    await expect(_rows(tab).first).to_contain_text("2 with too little memory")
    await tab.get_by_role("button", name="Pause updates").press("Enter")
    await expect(tab.get_by_role("heading", name="Placements").locator("..")).to_contain_text(
        "Paused"
    )
    asked = site.requests.count("/console/decisions")
    site.engine.decide(job="c.0")
    await tab.get_by_role("searchbox", name="Search decisions").fill("c.0")
    await expect(tab.get_by_text("No decision matches.")).to_be_visible()
    assert site.requests.count("/console/decisions") == asked
    await tab.get_by_role("button", name="Resume updates").press("Enter")

    await expect(_rows(tab)).to_have_count(1)


async def test_models_and_queues_tell_what_is_short(tab: Page, site: Served) -> None:
    await _sign_in(tab, site)

    await _section(tab, "Models").click()
    short = _rows(tab).filter(has_text="zlm-v1-summary-cloud")
    await expect(short).to_contain_text("More than nodes can do")
    await expect(short).to_contain_text("without the model")
    site.fleet.models[2] = msgspec.structs.replace(
        site.fleet.models[2], demand_tokens_per_s=12.0, groups={"busy": 1}
    )
    await expect(short).not_to_contain_text("More than nodes can do")
    await expect(short).to_contain_text("1 busy")
    await _section(tab, "Queue").click()

    await expect(_rows(tab).first).to_contain_text("prj_newsroom")
    await expect(_rows(tab).first).to_contain_text("85% of all that waits")


async def test_of_a_large_fleet_the_page_says_what_it_lists(tab: Page, site: Served) -> None:
    for index in range(600):
        site.fleet.rows.append(
            msgspec.structs.replace(site.fleet.rows[1], id=f"n_more{index}", jobs_done=0)
        )
    idle = site.fleet.change("n_more599", level="quarantined")
    await _sign_in(tab, site)

    await expect(tab.get_by_text("499 of 624 nodes are listed")).to_be_visible()
    await tab.get_by_role("searchbox", name="Search nodes").fill(idle.id)
    await expect(_rows(tab)).to_have_count(1)


async def test_empty_sections_say_what_would_be_there(tab: Page, site: Served) -> None:
    site.fleet.projects.clear()
    site.fleet.models.clear()
    await _sign_in(tab, site)

    for title, sentence in {
        "Decisions": "No job has been placed since the server started.",
        "Trust": "Nobody is in quarantine.",
        "Models": "This server has no model.",
        "Queue": "No project has a job waiting or running.",
        "Audit log": "No order has been given yet.",
    }.items():
        await _section(tab, title).click()
        await expect(tab.get_by_text(sentence)).to_be_visible()


async def test_a_reload_comes_back_to_the_section(tab: Page, site: Served) -> None:
    await _sign_in(tab, site)
    await _section(tab, "Models").click()

    await tab.reload()
    await expect(tab.get_by_role("heading", level=1)).to_have_text("Models")
    assert await tab.title() == "Models · ZeroGPU"
    # The skip link has an address of its own, and leads to no other section.
    await tab.get_by_role("link", name="Skip to content").press("Enter")
    await expect(tab.locator("#main")).to_be_focused()
    await expect(tab.get_by_role("heading", level=1)).to_have_text("Models")
    await tab.go_back()
    await tab.go_back()

    await expect(tab.get_by_role("heading", level=1)).to_have_text("Fleet")


@pytest.mark.parametrize("width", [1440, 1100, 390, 320])
async def test_every_section_fits_the_screen(tab: Page, site: Served, width: int) -> None:
    site.engine.decide(job="b.0", node_id=None, skipped={"no_memory": 2, "newcomer": 12})
    site.engine.decide(cold_load_s=3.4, penalty_s=1.0, skipped={"busy": 3})
    for _ in range(2):
        site.engine.disagree(site.fleet.rows[4], "cosine 0.4127 is below 0.99")
    await tab.set_viewport_size({"width": width, "height": 844})
    await _sign_in(tab, site)

    for title in ("Fleet", "Decisions", "Trust", "Models", "Queue", "Audit log"):
        await _section(tab, title).click()
        await expect(tab.get_by_role("heading", level=1)).to_contain_text(title)
        if title == "Trust":
            await tab.get_by_role("button", name="Evidence against").click()
            await expect(tab.get_by_text("cosine 0.4127 is below 0.99").last).to_be_visible()
        assert await tab.evaluate("document.documentElement.scrollWidth") == width, title
