"""The promise: a stranger's tab answers, and whatever becomes of it, the customer is served."""

from __future__ import annotations

import concurrent.futures
import json
import os
import signal
import subprocess
import sys
from array import array
from base64 import b64decode
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, expect

from browser_node.pipelines.vectors import dot
from e2e.server import ROOT, UNHEDGED, Server, eventually, serving
from e2e.tab import Tab, fleet, freeze, thaw
from e2e.texts import ARTICLE, RECIPE, SENTENCES

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

CLASSIFY = {"model": "zlm-v1-iab-classify-edge", "input": ARTICLE}
SUMMARISE = {"model": "zlm-v1-summary-cloud", "input": ARTICLE}
EMBED = {"model": "all-minilm-l6-v2", "input": SENTENCES}


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


@pytest.fixture
def tab(own_server: Server, context: BrowserContext) -> Iterator[Tab]:
    """A tab that donates; it must end without a single error on its console."""
    tab = Tab(context, own_server).donate()
    yield tab
    tab.assert_clean()


def text_of(body: dict[str, Any]) -> str:
    return str(body["output"][0]["content"][0]["text"])


def ask(server: Server, route: str, body: dict[str, Any]) -> tuple[str, Any]:
    """Return where the answer was made, and the answer."""
    status, headers, answer = server.infer(route, body)
    assert status == 200, answer
    return headers["x-inference-type"], answer


def ask_at_once(server: Server, count: int, body: dict[str, Any]) -> list[tuple[str, Any]]:
    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        return list(pool.map(lambda _: ask(server, "responses", body), range(count)))


def input_tokens(body: dict[str, Any]) -> int:
    usage = body["usage"]
    return int(usage.get("input_tokens", usage.get("prompt_tokens")))


def vectors(body: dict[str, Any]) -> list[list[float]]:
    rows = sorted(body["data"], key=lambda row: row["index"])
    return [
        list(array("f", b64decode(v)) if isinstance(v := row["embedding"], str) else v)
        for row in rows
    ]


# ── 1. the tab answers ───────────────────────────────────────────────────────────────────────────


def test_nothing_is_loaded_before_the_visitor_agrees(
    own_server: Server, context: BrowserContext
) -> None:
    tab = Tab(context, own_server).open()
    tab.page.wait_for_load_state("networkidle")

    assert not [url for url in tab.requests if "/runtime/" in url or "/models/" in url]
    assert not fleet(own_server)["totals"]["nodes"]
    tab.assert_clean()


def test_a_tab_answers_all_three_models_as_the_cpu_worker_does(
    own_server: Server, context: BrowserContext
) -> None:
    cloud = [
        ask(own_server, "embeddings", EMBED),
        *(ask(own_server, "responses", b) for b in (SUMMARISE, CLASSIFY)),
    ]
    tab = Tab(context, own_server).donate()
    edge = [
        ask(own_server, "embeddings", EMBED),
        *(ask(own_server, "responses", b) for b in (SUMMARISE, CLASSIFY)),
    ]

    assert [place for place, _ in cloud] == ["cloud"] * 3
    assert [place for place, _ in edge] == ["edge"] * 3
    pairs = zip(vectors(cloud[0][1]), vectors(edge[0][1]), strict=True)
    assert all(dot(ours, theirs) > 0.99 for ours, theirs in pairs)
    assert text_of(edge[1][1]) == text_of(cloud[1][1])
    ours, theirs = (json.loads(text_of(answer[2][1])) for answer in (cloud, edge))
    for taxonomy in ("iab_1_0", "iab_2_2"):
        first, other = ours["content"][taxonomy][0], theirs["content"][taxonomy][0]
        assert first["name"] == other["name"]
        assert first["score"] == pytest.approx(other["score"], abs=0.1)
    assert [input_tokens(a) for _, a in edge] == [input_tokens(a) for _, a in cloud]
    expect(tab.page.locator(".figures")).to_contain_text("jobs answered")
    eventually(lambda: tab.jobs_done() == len(SENTENCES) + 2, what="the tab's own count")
    tab.assert_clean()


def test_a_second_visit_downloads_no_model_and_no_runtime_again(
    own_server: Server, context: BrowserContext
) -> None:
    first = Tab(context, own_server).donate()
    first.page.close()
    second = Tab(context, own_server).donate()

    assert any("/models/parts/" in url for url in first.requests)
    assert not [url for url in second.requests if "/models/" in url]
    second.assert_clean()


def test_stop_takes_the_tab_off_the_fleet_and_nothing_goes_on(tab: Tab) -> None:
    tab.page.get_by_role("button", name="Stop").click()

    expect(tab.page.get_by_role("button", name="Start donating")).to_be_visible()
    eventually(lambda: not fleet(tab.server)["totals"]["nodes"], what="the empty fleet")
    # Playwright's list changes only while one of its calls runs, so each look makes one.
    eventually(lambda: not tab.page.evaluate("0") and not tab.page.workers, what="its worker's end")
    assert ask(tab.server, "responses", SUMMARISE)[0] == "cloud"


# ── 2. the tab goes, in the middle of a job ──────────────────────────────────────────────────────


def slow_tab(server: Server, context: BrowserContext) -> Tab:
    """A tab that may use a tenth of the time, so that work is under way for seconds."""
    return Tab(context, server).open().limit(cpu_percent=10).agree().wait_ready()


def busy(tab: Tab) -> bool:
    row = tab.row()
    return row is not None and row["slots_used"] > 0


def asked_in_the_middle(server: Server, tab: Tab, count: int, harm: Any) -> list[tuple[str, Any]]:
    """Send ``count`` requests, do ``harm`` while the tab holds some, return all the answers."""
    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        asked = [pool.submit(ask, server, "responses", CLASSIFY) for _ in range(count)]
        eventually(lambda: busy(tab), what="work on the tab")
        harm()
        return [future.result() for future in asked]


def assert_all_right(server: Server, answers: list[tuple[str, Any]]) -> None:
    """Every customer got the one right answer."""
    _, expected = ask(server, "responses", CLASSIFY)
    top = json.loads(text_of(expected))["content"]["iab_2_2"][0]["name"]
    for _, answer in answers:
        assert json.loads(text_of(answer))["content"]["iab_2_2"][0]["name"] == top
    assert len({answer["id"] for _, answer in answers}) == len(answers)


def test_a_closed_tabs_jobs_are_answered_elsewhere(server: Server, context: BrowserContext) -> None:
    tab = slow_tab(server, context)

    answers = asked_in_the_middle(server, tab, 24, tab.page.close)

    assert_all_right(server, answers)
    assert "cloud" in {place for place, _ in answers}
    eventually(lambda: not fleet(server)["totals"]["nodes"], what="the empty fleet", timeout_s=5)
    assert fleet(server)["totals"]["rerouted"] > 0
    tab.assert_clean()


def test_a_crashed_tabs_jobs_are_answered_elsewhere(
    server: Server, context: BrowserContext
) -> None:
    tab = slow_tab(server, context)

    answers = asked_in_the_middle(server, tab, 24, tab.crash)

    assert_all_right(server, answers)
    eventually(lambda: not fleet(server)["totals"]["nodes"], what="the empty fleet", timeout_s=5)
    assert fleet(server)["totals"]["rerouted"] > 0


@pytest.fixture
def patient_server(tmp_path: Path) -> Iterator[Server]:
    """A server that waits: the CPU worker steps in for no slow tab before its lease has ended."""
    patience = {"ZEROGPU_EDGE_BUDGET_S": "20"}
    with serving(tmp_path / "patient", env={**UNHEDGED, **patience}) as server:
        yield server


def test_a_frozen_tabs_jobs_are_answered_by_the_cpu_worker_before_their_leases_end(
    server: Server, context: BrowserContext, browser: Browser
) -> None:
    tab = slow_tab(server, context)
    pid = tab.renderer_pid(browser)
    try:
        answers = asked_in_the_middle(server, tab, 4, lambda: freeze(pid))
        assert_all_right(server, answers)
        totals = fleet(server)["totals"]
    finally:
        thaw(pid)
    assert totals["hedged"] > 0
    assert totals["rerouted"] == 0


def test_a_frozen_tabs_jobs_move_when_their_leases_end_and_nothing_is_answered_twice(
    patient_server: Server, context: BrowserContext, browser: Browser
) -> None:
    server = patient_server
    tab = slow_tab(server, context)
    pid = tab.renderer_pid(browser)
    try:
        # freeze() returns only once the kernel says that the renderer is stopped.
        answers = asked_in_the_middle(server, tab, 12, lambda: freeze(pid))
        assert_all_right(server, answers)
        totals = fleet(server)["totals"]
        assert totals["rerouted"] > 0
    finally:
        thaw(pid)
    answered = totals["answered_edge"] + totals["answered_cloud"]
    # Awake again it may still send what it had computed: that is counted and dropped.
    eventually(lambda: not state_of(tab)[1].startswith("does not answer"), what="its return")
    after = fleet(server)["totals"]
    assert after["answered_edge"] + after["answered_cloud"] == answered
    assert server.infer("responses", CLASSIFY)[0] == 200


# ── 3. sharing ───────────────────────────────────────────────────────────────────────────────────


def test_two_tabs_and_a_native_node_share_200_requests_by_what_they_can_do(
    server: Server, context: BrowserContext, tmp_path: Path
) -> None:
    fast = Tab(context, server).open().limit(cpu_percent=100).agree().wait_ready()
    slow = slow_tab(server, context)
    native = subprocess.Popen(
        [
            *(sys.executable, "-m", "orchestrator", "node", "--url", server.url),
            *("--data-dir", str(tmp_path / "node"), "--threads", "1"),
        ],
        cwd=ROOT,
        stderr=subprocess.DEVNULL,
    )
    try:
        eventually(
            lambda: sum(len(row["models"]) == 3 for row in fleet(server)["nodes"]) == 4,
            what="three nodes and the worker",
        )
        bodies = [
            {**EMBED, "input": f"{SENTENCES[n % 4]} Number {n}. {RECIPE}"} for n in range(200)
        ]
        with concurrent.futures.ThreadPoolExecutor(200) as pool:
            answers = list(pool.map(lambda body: ask(server, "embeddings", body), bodies))
        rows = {
            row["id"]: row["jobs_done"] for row in fleet(server)["nodes"] if row["kind"] != "cpu"
        }
        fast_done, slow_done = rows[fast.node_id], rows[slow.node_id]
    finally:
        native.send_signal(signal.SIGTERM)
        assert native.wait(15) == 0

    assert len(answers) == 200
    places = Counter(place for place, _ in answers)
    assert sum(rows.values()) == places["edge"]
    assert all(done > 0 for done in rows.values()), rows
    assert slow_done < fast_done
    fast.assert_clean()
    slow.assert_clean()


# ── 4. manners ───────────────────────────────────────────────────────────────────────────────────


def state_of(tab: Tab) -> tuple[str, str]:
    row = tab.row() or {}
    return row.get("state", ""), row.get("reason", "")


def test_a_paused_tab_takes_no_work_until_it_is_resumed(tab: Tab) -> None:
    tab.page.get_by_role("button", name="Pause").click()
    eventually(lambda: state_of(tab)[0] == "paused", what="the pause")

    assert "paused" in state_of(tab)[1]
    assert ask(tab.server, "responses", SUMMARISE)[0] == "cloud"
    expect(tab.page.locator(".now")).to_contain_text("Paused")

    tab.page.get_by_role("button", name="Resume").click()
    eventually(lambda: state_of(tab)[0] == "active", what="the resumption")
    assert ask(tab.server, "responses", SUMMARISE)[0] == "edge"


def test_a_hidden_tab_takes_no_work_and_says_why(tab: Tab) -> None:
    tab.page.evaluate("testHide(true)")
    eventually(lambda: state_of(tab)[0] == "hidden", what="the hidden state")

    assert "hidden" in state_of(tab)[1]
    assert ask(tab.server, "responses", SUMMARISE)[0] == "cloud"
    expect(tab.page.locator(".now")).to_contain_text("This tab is hidden")

    tab.page.evaluate("testHide(false)")
    eventually(lambda: state_of(tab)[0] == "active", what="the return")


def test_a_tab_on_a_busy_machine_takes_less_or_nothing_and_says_why(tab: Tab) -> None:
    tab.page.evaluate("testPressure('serious')")
    eventually(lambda: state_of(tab)[0] == "throttled", what="the throttled state")
    assert "busy" in state_of(tab)[1]
    assert ask(tab.server, "responses", SUMMARISE)[0] == "edge"

    tab.page.evaluate("testPressure('critical')")
    eventually(lambda: (tab.row() or {}).get("slots") == 0, what="no slots")
    assert ask(tab.server, "responses", SUMMARISE)[0] == "cloud"
    expect(tab.page.locator(".now")).to_contain_text("very busy")


# ── 6. the server goes ───────────────────────────────────────────────────────────────────────────


def test_a_tab_finds_back_to_a_server_that_was_killed_and_started_again(
    server: Server, context: BrowserContext
) -> None:
    tab = Tab(context, server).donate()
    port = int(server.url.rsplit(":", 1)[1])
    server.kill()
    expect(tab.page.locator(".now .title")).to_have_text("Reconnecting", timeout=15_000)

    server.start(port=port)
    tab.wait_ready()

    assert ask(server, "responses", SUMMARISE)[0] == "edge"
    assert os.path.exists(server.data_dir / "zerogpu.db")
    # The browser itself reports the refused connections of the time in between.
    tab.assert_clean(but=("WebSocket connection to", "Failed to load resource"))
