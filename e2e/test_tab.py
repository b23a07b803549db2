"""The promise: a stranger's tab answers, and whatever becomes of it, the customer is served."""

from __future__ import annotations

import concurrent.futures
import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, expect

from e2e.server import ROOT, TRUSTING, UNHEDGED, Server, eventually, serving
from e2e.tab import Tab, fleet, fleet_now, freeze, thaw
from e2e.texts import CLASSIFY, EMBED, SENTENCES, SUMMARISE, text_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture
def context(new_profile: Callable[[], BrowserContext]) -> BrowserContext:
    return new_profile()


# ── sharing: first, on forecasts that no harmed tab or busy worker has bent ──────────────────────


def jobs_done(server: Server) -> dict[str, int]:
    return {row["id"]: row["jobs_done"] for row in fleet(server)["nodes"] if row["kind"] != "cpu"}


def test_two_tabs_and_a_native_node_share_200_requests_by_what_they_can_do(
    server: Server, context: BrowserContext, tmp_path: Path
) -> None:
    fast = Tab(context, server).open().limit(cpu_percent=100).agree()
    slow = Tab(context, server).open().limit(cpu_percent=30).agree()
    native = subprocess.Popen(
        [
            *(sys.executable, "-m", "orchestrator", "node", "--url", server.url),
            *("--data-dir", str(tmp_path / "node"), "--threads", "1"),
        ],
        cwd=ROOT,
        stderr=subprocess.DEVNULL,
    )
    try:
        fast.wait_ready()
        slow.wait_ready()
        eventually(
            lambda: sum(len(row["models"]) == 3 for row in fleet(server)["nodes"]) == 4,
            what="three nodes and the worker",
        )
        bodies = [{**EMBED, "input": f"{SENTENCES[n % 4]} Number {n}."} for n in range(200)]
        with concurrent.futures.ThreadPoolExecutor(200) as pool:
            answers = list(pool.map(lambda body: server.ask("embeddings", body), bodies))
        places = Counter(place for place, _ in answers)
        # What the console shows is a second old at most, and all may have been answered in less.
        eventually(
            lambda: sum(jobs_done(server).values()) == places["edge"],
            what="all answers among the nodes' jobs",
        )
        rows = jobs_done(server)
        fast_done, slow_done = rows[fast.node_id], rows[slow.node_id]
    finally:
        native.send_signal(signal.SIGTERM)
        assert native.wait(15) == 0

    assert len(answers) == 200
    assert all(done > 0 for done in rows.values()), rows
    assert slow_done < fast_done
    fast.assert_clean()
    slow.assert_clean()


# ── the tab goes, in the middle of a job ─────────────────────────────────────────────────────────


def busy(tab: Tab) -> bool:
    row = tab.row()
    return row is not None and row["slots_used"] > 0


def asked_in_the_middle(
    server: Server, tab: Tab, customers: int, harm: Callable[[], None]
) -> list[tuple[str, Any]]:
    """Do ``harm`` while the tab holds work of ``customers`` who ask on and on; return all answers.

    One request each would do for a slow tab only: a fast one might have answered all of them. The
    last of each is asked after the harm is done, before the server can know.
    """
    done = threading.Event()

    def ask_on() -> list[tuple[str, Any]]:
        answers = []
        is_last = False
        while not is_last:
            is_last = done.is_set()
            answers.append(server.ask("responses", CLASSIFY))
        return answers

    with concurrent.futures.ThreadPoolExecutor(customers) as pool:
        asked = [pool.submit(ask_on) for _ in range(customers)]
        try:
            eventually(lambda: busy(tab), what="work on the tab")
            harm()
        finally:
            done.set()
        return [answer for future in asked for answer in future.result()]


def totals_now(server: Server) -> dict[str, Any]:
    totals: dict[str, Any] = fleet_now(server)["totals"]
    return totals


def answered(totals: dict[str, Any]) -> int:
    return int(totals["answered_edge"] + totals["answered_cloud"])


def assert_all_right(server: Server, answers: list[tuple[str, Any]]) -> None:
    """Every customer got the one right answer."""
    _, expected = server.ask("responses", CLASSIFY)
    top = json.loads(text_of(expected))["content"]["iab_2_2"][0]["name"]
    for _, answer in answers:
        assert json.loads(text_of(answer))["content"]["iab_2_2"][0]["name"] == top
    assert len({answer["id"] for _, answer in answers}) == len(answers)


def test_a_closed_tabs_jobs_are_answered_elsewhere(server: Server, context: BrowserContext) -> None:
    tab = Tab(context, server).donate()
    before = totals_now(server)

    answers = asked_in_the_middle(server, tab, 24, tab.page.close)

    assert_all_right(server, answers)
    assert "cloud" in {place for place, _ in answers}
    eventually(lambda: not fleet(server)["totals"]["nodes"], what="the empty fleet", timeout_s=5)
    assert fleet(server)["totals"]["rerouted"] > before["rerouted"]
    tab.assert_clean()


def test_a_crashed_tabs_jobs_are_answered_elsewhere(
    server: Server, context: BrowserContext
) -> None:
    tab = Tab(context, server).donate()
    before = totals_now(server)

    answers = asked_in_the_middle(server, tab, 24, tab.crash)

    assert_all_right(server, answers)
    eventually(lambda: not fleet(server)["totals"]["nodes"], what="the empty fleet", timeout_s=5)
    assert fleet(server)["totals"]["rerouted"] > before["rerouted"]


@pytest.fixture
def patient_server(tmp_path: Path) -> Iterator[Server]:
    """A server that waits: the CPU worker steps in for no slow tab before its lease has ended."""
    patience = {"ZEROGPU_EDGE_BUDGET_S": "20"}
    # Its tab gets ready while the CPU worker does.
    with serving(tmp_path / "patient", env={**UNHEDGED, **patience}, wait_ready=False) as server:
        yield server


@pytest.fixture
def hasty_server(tmp_path: Path) -> Iterator[Server]:
    """A server whose CPU worker may step in for every slow tab, however often it did before."""
    haste = {"ZEROGPU_HEDGE_SHARE": "1"}
    with serving(tmp_path / "hasty", env={**TRUSTING, **haste}, wait_ready=False) as server:
        yield server


def test_a_frozen_tabs_jobs_are_answered_by_the_cpu_worker_before_their_leases_end(
    hasty_server: Server, context: BrowserContext
) -> None:
    server = hasty_server
    tab = Tab(context, server).donate()
    pid = tab.renderer_pid()
    before = totals_now(server)
    try:
        answers = asked_in_the_middle(server, tab, 4, lambda: freeze(pid))
        totals = totals_now(server)
        assert_all_right(server, answers)
    finally:
        thaw(pid)
    assert answered(totals) == answered(before) + len(answers)
    assert totals["hedged"] > before["hedged"]
    assert totals["rerouted"] == before["rerouted"]


def test_a_frozen_tabs_jobs_move_when_their_leases_end_and_nothing_is_answered_twice(
    patient_server: Server, context: BrowserContext
) -> None:
    server = patient_server
    tab = Tab(context, server).donate()
    pid = tab.renderer_pid()
    before = totals_now(server)
    try:
        # freeze() returns only once the kernel says that the renderer is stopped.
        answers = asked_in_the_middle(server, tab, 12, lambda: freeze(pid))
        totals = totals_now(server)
        assert_all_right(server, answers)
    finally:
        thaw(pid)
    assert answered(totals) == answered(before) + len(answers)
    assert totals["rerouted"] > before["rerouted"]
    # Awake again it may still send what it had computed: that is counted and dropped. What it
    # answers from here on comes after it.
    again = [server.ask("responses", CLASSIFY)]
    while again[-1][0] != "edge":
        again.append(server.ask("responses", CLASSIFY))
    # One was asked to see that all were right.
    assert answered(totals_now(server)) == answered(totals) + 1 + len(again)


# ── the server goes ──────────────────────────────────────────────────────────────────────────────


def test_a_tab_finds_back_to_a_server_that_was_killed_and_started_again(
    server: Server, context: BrowserContext
) -> None:
    tab = Tab(context, server).donate()
    port = int(server.url.rsplit(":", 1)[1])
    server.kill()
    expect(tab.page.locator(".now .title")).to_have_text("Reconnecting", timeout=15_000)

    server.start(port=port)
    tab.wait_ready()

    assert server.ask("responses", SUMMARISE)[0] == "edge"
    assert os.path.exists(server.data_dir / "zerogpu.db")
    # The browser itself reports the refused connections of the time in between.
    tab.assert_clean(but=("WebSocket connection to", "Failed to load resource"))
