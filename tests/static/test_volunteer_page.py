"""The volunteer page: nothing before the click, then a node that obeys the controls.

A small worker that speaks the node's messages stands in for the node; the real one is met end to
end in ``e2e``.
"""

from __future__ import annotations

import pytest
from playwright.async_api import Page, Route, expect

from tests.orchestrator.page_server import Served

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.slow]

OF_THE_NODE = ("/runtime/", "/models/", "/static/worker/")
# Answers every message with a status that holds what it was told.
NODE = """
const told = [];
const status = {type: 'status', phase: 'ready', state: 'active', reason: '', jobsDone: 3,
  progress: {doneBytes: 1, totalBytes: 1}, tokensDone: 96, tokensPerS: 812.4, nodeId: 'n_1',
  models: [{id: 'all-minilm-l6-v2', state: 'ready'}], notice: ''};
addEventListener('message', ({data}) => {
  told.push(data);
  if (data.type === 'pause') Object.assign(status, {phase: 'paused', state: 'paused'});
  if (data.type === 'resume') Object.assign(status, {phase: 'ready', state: 'active'});
  if (data.type === 'stop') status.phase = 'stopped';
  postMessage({...status, notice: JSON.stringify(told)});
});
"""


async def _small_node(tab: Page, script: str = NODE) -> None:
    async def replace(route: Route) -> None:
        await route.fulfill(response=await route.fetch(), body=script)

    await tab.route("**/static/worker/node.js", replace)


async def _start(tab: Page) -> None:
    await _small_node(tab)
    await tab.goto("/volunteer")
    await tab.get_by_role("button", name="Start donating").click()
    await expect(tab.get_by_text("Waiting for work")).to_be_visible()


async def test_nothing_of_the_node_is_fetched_before_the_click(tab: Page, site: Served) -> None:
    await _small_node(tab)
    await tab.goto("/volunteer", wait_until="networkidle")
    before = [path for path in site.requests if path.startswith(OF_THE_NODE)]

    await tab.get_by_role("button", name="Start donating").click()
    await expect(tab.get_by_text("Waiting for work")).to_be_visible()

    assert before == []
    assert "/static/worker/node.js" in site.requests


async def test_the_page_says_what_it_would_do(tab: Page) -> None:
    await tab.goto("/volunteer")

    terms = tab.get_by_role("region", name="What you agree to")
    for word in ("What runs", "For whom", "Download", "What leaves this computer", "How to stop"):
        await expect(terms.get_by_text(word, exact=True)).to_be_visible()
    await expect(terms).to_contain_text("all-MiniLM-L6-v2")
    await expect(terms.get_by_text("MB").first).to_be_visible()


async def test_the_node_is_started_with_the_visitors_limits(tab: Page) -> None:
    await _small_node(tab)
    await tab.goto("/volunteer")
    await tab.get_by_role("slider", name="Processor time").focus()
    await tab.keyboard.press("ArrowRight")
    await tab.get_by_role("switch", name="Keep working while this tab is hidden").check()

    await tab.get_by_role("button", name="Start donating").click()

    await expect(tab.get_by_text('"cpuShare":0.55')).to_be_attached()
    await expect(tab.get_by_text('"runHidden":true')).to_be_attached()
    await expect(tab.get_by_text('"hidden":false')).to_be_attached()


async def test_the_half_is_the_default_and_the_whole_the_most(tab: Page) -> None:
    await tab.goto("/volunteer")
    slider = tab.get_by_role("slider", name="Processor time")

    assert await slider.input_value() == "50"
    assert await slider.get_attribute("min") == "10"
    assert await slider.get_attribute("max") == "100"


async def test_pause_resume_and_stop_by_keyboard(tab: Page) -> None:
    await _start(tab)
    await tab.get_by_role("button", name="Pause").press("Enter")
    await expect(tab.get_by_text("You paused it.")).to_be_visible()
    await tab.get_by_role("button", name="Resume").press("Enter")
    await expect(tab.get_by_text("Waiting for work")).to_be_visible()

    await tab.get_by_role("button", name="Stop").press("Enter")

    await expect(tab.get_by_role("button", name="Start donating")).to_be_visible()
    await expect(tab.get_by_text("You answered 3 jobs")).to_be_visible()
    assert tab.workers == []


async def test_a_limit_changed_while_it_runs_is_told_at_once(tab: Page) -> None:
    await _start(tab)

    await tab.get_by_role("switch", name="Keep working while this tab is hidden").check()

    await expect(tab.get_by_text('{"type":"limits","runHidden":true}')).to_be_attached()


async def test_a_tab_about_to_be_frozen_tells_its_node(tab: Page) -> None:
    await _start(tab)

    await tab.evaluate("document.dispatchEvent(new Event('freeze'))")
    await expect(tab.get_by_text('{"type":"signals","frozen":true}')).to_be_attached()

    await tab.evaluate("document.dispatchEvent(new Event('resume'))")
    await expect(tab.get_by_text('{"type":"signals","frozen":false}')).to_be_attached()


async def test_pressure_counts_only_while_it_can_come_from_others(tab: Page) -> None:
    await tab.add_init_script(
        """window.PressureObserver = class {
          constructor(told) { this.told = told; }
          async observe() { this.told([{state: 'critical'}]); }
          disconnect() {}
        };
        Object.defineProperty(Navigator.prototype, 'hardwareConcurrency', {value: 2});"""
    )
    await _start(tab)
    await expect(tab.get_by_text('"pressure":"critical"')).to_be_attached()

    await tab.get_by_role("slider", name="Threads").press("End")
    await tab.get_by_role("slider", name="Processor time").press("End")

    await expect(tab.get_by_text('{"type":"signals","pressure":null}')).to_be_attached()


async def test_a_node_that_does_not_hear_is_ended_all_the_same(tab: Page) -> None:
    await _small_node(tab, "postMessage({type: 'error', code: 'boot_failed', message: 'No luck.'})")
    await tab.goto("/volunteer")
    await tab.get_by_role("button", name="Start donating").click()
    await expect(tab.get_by_text("No luck.")).to_be_visible()

    await tab.get_by_role("button", name="Back").click()

    await expect(tab.get_by_role("button", name="Start donating")).to_be_visible()
    assert tab.workers == []


async def test_consent_alone_does_not_start_the_next_visit(tab: Page) -> None:
    await _start(tab)

    await tab.reload()

    await expect(tab.get_by_role("button", name="Start donating")).to_be_visible()


async def test_the_next_visit_starts_by_itself_if_that_was_ticked(tab: Page) -> None:
    await _start(tab)
    await tab.get_by_role("switch", name="Start by itself on my next visit").check()

    await tab.reload()

    await expect(tab.get_by_text("Waiting for work")).to_be_visible()


async def test_consent_to_another_version_of_the_terms_starts_nothing(tab: Page) -> None:
    await _small_node(tab)
    await tab.goto("/volunteer")
    await tab.evaluate(
        "localStorage.setItem('zerogpu.volunteer', '{\"version\": 0, \"autoStart\": true}')"
    )

    await tab.reload()

    await expect(tab.get_by_role("button", name="Start donating")).to_be_visible()


async def test_everything_kept_here_can_be_removed(tab: Page) -> None:
    await _start(tab)
    await tab.evaluate(
        "navigator.storage.getDirectory().then(d => d.getFileHandle('model', {create: true}))"
    )
    await tab.get_by_role("button", name="Stop").click()

    await tab.get_by_role("button", name="Remove everything from this browser").click()

    await expect(tab.get_by_role("button", name="Remove everything")).to_have_count(0)
    assert await tab.evaluate("Object.keys(localStorage)") == []
    names = "navigator.storage.getDirectory().then(d => Array.fromAsync(d.keys()))"
    assert await tab.evaluate(names) == []


async def test_a_browser_that_lacks_something_is_told_what(tab: Page) -> None:
    await tab.add_init_script("delete StorageManager.prototype.getDirectory")

    await tab.goto("/volunteer")

    await expect(tab.get_by_text("no private file storage")).to_be_visible()
    await expect(tab.get_by_role("button", name="Start donating")).to_be_disabled()


async def test_only_the_one_worker_can_be_started(tab: Page, complaints: list[str]) -> None:
    await tab.goto("/volunteer")

    async with tab.expect_console_message(lambda message: "violates" in message.text):
        outcome = await tab.evaluate(
            """() => {
              try { new Worker('/static/js/lib/format.js'); } catch (error) { return error.name; }
            }"""
        )

    assert outcome == "TypeError"
    assert all("Trusted" in complaint or "trusted" in complaint for complaint in complaints)
    complaints.clear()
