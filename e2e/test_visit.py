"""One visitor, from consent to goodbye: what the tab answers, its manners, what it keeps."""

from __future__ import annotations

import json
from array import array
from base64 import b64decode
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, expect

from browser_node.pipelines.vectors import dot
from e2e.server import UNHEDGED, Server, eventually, serving
from e2e.tab import Tab, Visitor, fleet, fleet_now
from e2e.texts import ARTICLE, CLASSIFY, EMBED, RECIPE, SENTENCES, SUMMARISE, text_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server for this file's tabs, so that no other test's node takes their work."""
    with serving(tmp_path_factory.mktemp("tabs") / "data", env=UNHEDGED) as server:
        yield server
        server.terminate()
        told = [line for line in server.log().splitlines() if line.startswith("{")]
    # The whole log of these journeys, tabs and customers alike: no prompt, answer, key or ticket.
    assert told
    for secret in (ARTICLE[:25], RECIPE[:25], *SENTENCES, server.api_key, "ticket"):
        assert not [line for line in told if secret in line]


@pytest.fixture(scope="module")
def visitor(
    own_server: Server, browser: Browser, browser_context_args: dict[str, Any]
) -> Iterator[Visitor]:
    context = browser.new_context(**browser_context_args)
    yield Visitor(context, own_server)
    context.close()


@pytest.fixture
def tab(visitor: Visitor) -> Iterator[Tab]:
    """The visitor's tab, at work; it must end without a single error on its console."""
    tab = visitor.tab()
    yield tab
    tab.assert_clean()


# ── it comes, and comes back ─────────────────────────────────────────────────────────────────────


def test_nothing_is_loaded_before_the_visitor_agrees(
    own_server: Server, context: BrowserContext
) -> None:
    before = fleet_now(own_server)["totals"]["nodes"]
    tab = Tab(context, own_server).open()
    tab.page.wait_for_load_state("networkidle")

    assert not [url for url in tab.requests if "/runtime/" in url or "/models/" in url]
    assert fleet_now(own_server)["totals"]["nodes"] == before
    tab.assert_clean()


def test_a_second_visit_downloads_no_model_and_no_runtime_again(visitor: Visitor) -> None:
    visitor.tab()
    visitor.leave()
    second = visitor.tab()

    assert any("/models/parts/" in url for url in visitor.visits[0].requests)
    assert not [url for url in second.requests if "/models/" in url]
    second.assert_clean()


# ── it answers ───────────────────────────────────────────────────────────────────────────────────


def answers(server: Server) -> tuple[list[str], list[Any]]:
    """Ask all three models; return where the answers were made, and the answers."""
    asked = [
        server.ask("embeddings", EMBED),
        *(server.ask("responses", body) for body in (SUMMARISE, CLASSIFY)),
    ]
    return [place for place, _ in asked], [answer for _, answer in asked]


def input_tokens(body: dict[str, Any]) -> int:
    usage = body["usage"]
    return int(usage.get("input_tokens", usage.get("prompt_tokens")))


def vectors(body: dict[str, Any]) -> list[list[float]]:
    rows = sorted(body["data"], key=lambda row: row["index"])
    return [
        list(array("f", b64decode(v)) if isinstance(v := row["embedding"], str) else v)
        for row in rows
    ]


def test_a_tab_answers_all_three_models_as_the_cpu_worker_does(tab: Tab) -> None:
    tab.pause()
    places, cloud = answers(tab.server)
    assert places == ["cloud"] * 3

    tab.resume()
    done = tab.jobs_done()
    places, edge = answers(tab.server)
    assert places == ["edge"] * 3

    pairs = zip(vectors(cloud[0]), vectors(edge[0]), strict=True)
    assert all(dot(ours, theirs) > 0.99 for ours, theirs in pairs)
    assert text_of(edge[1]) == text_of(cloud[1])
    ours, theirs = (json.loads(text_of(answer[2])) for answer in (cloud, edge))
    for taxonomy in ("iab_1_0", "iab_2_2"):
        first, other = ours["content"][taxonomy][0], theirs["content"][taxonomy][0]
        assert first["name"] == other["name"]
        assert first["score"] == pytest.approx(other["score"], abs=0.1)
    assert [input_tokens(a) for a in edge] == [input_tokens(a) for a in cloud]
    expect(tab.page.locator(".figures")).to_contain_text("jobs answered")
    counted = done + len(SENTENCES) + 2
    eventually(lambda: tab.jobs_done() == counted, what="the tab's own count")


# ── manners ──────────────────────────────────────────────────────────────────────────────────────


def test_a_paused_tab_takes_no_work_until_it_is_resumed(tab: Tab) -> None:
    tab.pause()

    assert "paused" in tab.state()[1]
    assert tab.server.ask("responses", SUMMARISE)[0] == "cloud"
    expect(tab.page.locator(".now")).to_contain_text("Paused")

    tab.resume()
    assert tab.server.ask("responses", SUMMARISE)[0] == "edge"


def test_a_hidden_tab_takes_no_work_and_says_why(tab: Tab) -> None:
    tab.page.evaluate("testHide(true)")
    eventually(lambda: tab.state()[0] == "hidden", what="the hidden state")

    assert "hidden" in tab.state()[1]
    assert tab.server.ask("responses", SUMMARISE)[0] == "cloud"
    expect(tab.page.locator(".now")).to_contain_text("This tab is hidden")

    tab.page.evaluate("testHide(false)")
    eventually(lambda: tab.state()[0] == "active", what="the return")


def test_a_tab_on_a_busy_machine_takes_less_or_nothing_and_says_why(tab: Tab) -> None:
    tab.page.evaluate("testPressure('serious')")
    eventually(lambda: tab.state()[0] == "throttled", what="the throttled state")
    assert "busy" in tab.state()[1]
    assert tab.server.ask("responses", SUMMARISE)[0] == "edge"

    tab.page.evaluate("testPressure('critical')")
    eventually(lambda: (tab.row() or {}).get("slots") == 0, what="no slots")
    assert tab.server.ask("responses", SUMMARISE)[0] == "cloud"
    expect(tab.page.locator(".now")).to_contain_text("very busy")

    tab.page.evaluate("testPressure('nominal')")
    eventually(lambda: tab.state()[0] == "active", what="the return")


# ── it goes ──────────────────────────────────────────────────────────────────────────────────────


def test_stop_takes_the_tab_off_the_fleet_and_nothing_goes_on(tab: Tab) -> None:
    tab.page.get_by_role("button", name="Stop").click()

    expect(tab.page.get_by_role("button", name="Start donating")).to_be_visible()
    eventually(lambda: not fleet(tab.server)["totals"]["nodes"], what="the empty fleet")
    # Playwright's list changes only while one of its calls runs, so each look makes one.
    eventually(lambda: not tab.page.evaluate("0") and not tab.page.workers, what="its worker's end")
    assert tab.server.ask("responses", SUMMARISE)[0] == "cloud"
