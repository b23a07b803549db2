"""Trust as the three users meet it: earned by itself, kept, demanded, lost; on default settings."""

from __future__ import annotations

import contextlib
import copy
import functools
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext

from e2e.server import ROOT, TRUSTING, Server, eventually, serving
from e2e.tab import Tab, fleet, fleet_now
from e2e.texts import ARTICLE, RECIPE, SENTENCES

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

# As `READY_MS` of a tab: how fast it answers ten known questions is the test machine's affair.
TRUSTED_S = 90.0


@pytest.fixture
def context(new_profile: Callable[[], BrowserContext]) -> BrowserContext:
    return new_profile()


@pytest.fixture
def server(tmp_path: Path, tab_port: int) -> Iterator[Server]:
    """A server as anybody starts it: a tab is a newcomer."""
    with serving(tmp_path / "data", port=tab_port) as server:
        yield server


@pytest.fixture(scope="module")
def earned(
    tmp_path_factory: pytest.TempPathFactory,
    browser: Browser,
    browser_context_args: dict[str, Any],
) -> Iterator[Tab]:
    """A tab that is trusted, of a server as anybody starts it, which was asked once before."""
    with serving(tmp_path_factory.mktemp("earned") / "data") as server:
        assert ask(server, SENTENCES)[0] == "cloud"
        context = browser.new_context(**browser_context_args)
        yield wait_trusted(Tab(context, server).donate())
        context.close()


def embed(text: str | list[str]) -> dict[str, Any]:
    return {"model": "all-minilm-l6-v2", "input": text}


def ask(server: Server, text: str | list[str]) -> tuple[str, str]:
    """Ask for embeddings; return where they were made and the id of the request."""
    status, headers, answer = server.infer("embeddings", embed(text))
    assert status == 200, answer
    return headers["x-inference-type"], headers["x-request-id"]


def decisions(server: Server, request_id: str) -> list[dict[str, Any]]:
    _, _, raw = server.get(f"/v1/requests/{request_id}/decisions", x_api_key=server.api_key)
    rows: list[dict[str, Any]] = json.loads(raw)["data"]
    return rows


def level(tab: Tab) -> str:
    return str((tab.row() or {}).get("level"))


def wait_trusted(tab: Tab) -> Tab:
    eventually(lambda: level(tab) == "trusted", timeout_s=TRUSTED_S, what="the tab's trust")
    return tab


@contextlib.contextmanager
def beside(*words: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program of this project beside the server."""
    process = subprocess.Popen(
        [sys.executable, "-m", *words],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


def zerogpu(server: Server, *words: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", "orchestrator", *words, "--data-dir", str(server.data_dir)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout


# ── earned ───────────────────────────────────────────────────────────────────────────────────────


def test_a_tab_earns_trust_by_itself_on_what_the_cpu_worker_has_answered(earned: Tab) -> None:
    tab, server = earned, earned.server

    place, request_id = ask(server, "Nobody has asked this before.")

    assert place == "edge"
    row = tab.row()
    assert row is not None
    assert row["agreed"] >= 10
    assert row["disagreed"] == 0
    [told] = [event for event in fleet(server)["events"] if event["kind"] == "trusted"]
    assert row["identity"][:8] in told["text"]
    # Why it went there: the customer sees the terms of the one placement, and they add up.
    [why] = decisions(server, request_id)
    assert (why["node_id"], why["purpose"], why["outcome"]) == (tab.node_id, "serve", "answered")
    terms = ("rtt_s", "backlog_s", "service_s", "cold_load_s", "penalty_s")
    assert sum(why[term] for term in terms) == pytest.approx(why["finish_s"])
    assert why["finish_s"] > why["service_s"] > 0
    tab.assert_clean()


# ── kept ─────────────────────────────────────────────────────────────────────────────────────────


def test_trust_belongs_to_the_key_pair_and_outlives_the_tab_and_the_server(
    earned: Tab, browser: Browser
) -> None:
    server = earned.server
    before = earned.row()
    earned.page.close()
    port = int(server.url.rsplit(":", 1)[1])
    assert server.terminate() == 0
    server.start(port=port)

    again = Tab(earned.context, server).donate()
    after = again.row()

    assert before is not None
    assert after is not None
    assert after["identity"] == before["identity"]
    assert after["level"] == "trusted"
    assert fleet_now(server)["totals"]["audited"] == 0
    assert ask(server, ARTICLE)[0] == "edge"
    again.assert_clean()
    again.page.close()

    # Another browser profile has another key pair: nobody is trusted for where they come from.
    stranger = Tab(browser.new_context(), server).open().agree()
    eventually(stranger.row, timeout_s=TRUSTED_S, what="the stranger")
    assert level(stranger) == "newcomer"
    stranger.context.close()


# ── earned where nobody has asked yet ────────────────────────────────────────────────────────────


def test_a_server_that_nobody_has_asked_yet_trusts_a_tab_after_three_compared_requests(
    server: Server, context: BrowserContext
) -> None:
    tab = Tab(context, server).donate()
    levels = []
    for number in range(3):
        # Known questions go to an idle tab first; a trial beside the CPU worker wants it idle, too.
        row = eventually(lambda: idle(tab), timeout_s=TRUSTED_S, what="the idle tab")
        levels.append(row["level"])
        # Whichever answer came first: the customer gets it once it agrees with the other.
        ask(server, f"{SENTENCES[number]} {RECIPE}")
        compared = functools.partial(agreed_more, tab, row["agreed"])
        eventually(compared, timeout_s=TRUSTED_S, what="the comparison")

    assert levels == ["newcomer"] * 3
    wait_trusted(tab)
    assert ask(server, ARTICLE)[0] == "edge"
    tab.assert_clean()


def idle(tab: Tab) -> dict[str, Any] | None:
    """Return the tab's row once it has answered all known questions that it gets."""
    row = tab.row(now=True)
    return row if row and row["agreed"] >= 10 and not row["slots_used"] else None


def agreed_more(tab: Tab, before: int) -> bool:
    row = tab.row()
    return row is not None and row["agreed"] > before


# ── demanded ─────────────────────────────────────────────────────────────────────────────────────


def test_a_pair_needs_two_networks_and_one_network_s_tabs_leave_it_to_the_cpu_worker(
    tmp_path: Path, tab_port: int, new_profile: Callable[[], BrowserContext]
) -> None:
    # How trust is earned is shown above; here two tabs of one machine have it from the start. The
    # server listens on IPv4 and IPv6: two loopback networks.
    with serving(tmp_path / "data", "--host", "::", env=TRUSTING, port=tab_port) as server:
        zerogpu(server, "projects", "set", server.project_id, "--verify", "always")
        fleet(server)  # signs in, which the copy could not do a second time
        other = copy.copy(server)
        other.url = server.url.replace("127.0.0.1", "[::1]")
        # Side by side, as most of a tab's start is waiting for one thread.
        tabs = [Tab(new_profile(), at).open().agree() for at in (server, server, other)]
        for tab in tabs:
            tab.wait_ready()
        elsewhere = tabs[2]

        elsewhere.pause()
        place, request_id = ask(server, RECIPE)
        assert place == "cloud"
        assert [why["node_id"][:4] for why in decisions(server, request_id)] == ["cpu_"]

        elsewhere.resume()
        place, request_id = ask(server, SENTENCES[0])
        assert place == "edge"
        pair = decisions(server, request_id)
        assert [why["purpose"] for why in pair] == ["trial", "trial"]
        assert elsewhere.node_id in {why["node_id"] for why in pair}
        assert len({why["node_id"] for why in pair}) == 2
        for tab in tabs:
            tab.assert_clean()


# ── lost, or never had ───────────────────────────────────────────────────────────────────────────


def test_a_node_that_calibrates_honestly_and_lies_afterwards_answers_no_customer(
    server: Server, tmp_path: Path
) -> None:
    right = vectors(server)

    with beside("e2e.liar", server.url, str(tmp_path / "liar")):
        liar = eventually(
            lambda: next((r for r in fleet(server)["nodes"] if r["level"] == "quarantined"), None),
            what="the quarantine",
        )
        assert vectors(server) == right

    assert liar["disagreed"] == 2
    totals = fleet_now(server)["totals"]
    assert (totals["answered_edge"], totals["disagreed"]) == (0, 2)
    listed = zerogpu(server, "nodes", "list", "--only", "quarantined")
    assert listed.startswith(liar["identity"][:16])


def vectors(server: Server) -> list[Any]:
    status, headers, answer = server.infer("embeddings", embed(SENTENCES))
    assert (status, headers["x-inference-type"]) == (200, "cloud")
    return [row["embedding"] for row in answer["data"]]


def test_a_server_whose_nodes_cannot_take_a_job_says_at_once_why_each_cannot(
    tmp_path: Path, tab_port: int, context: BrowserContext
) -> None:
    with serving(tmp_path / "data", "--no-cpu-worker", env=TRUSTING, port=tab_port) as server:
        with beside("orchestrator", "worker", "--data-dir", str(server.data_dir)):
            tab = Tab(context, server).donate()
            eventually(lambda: fleet(server)["totals"]["cpu_worker"] == "ready", what="the worker")
        eventually(lambda: fleet(server)["totals"]["cpu_worker"] == "off", what="its end")
        assert ask(server, ARTICLE)[0] == "edge"

        tab.pause()
        status, headers, body = server.infer("embeddings", embed(ARTICLE))

        assert (status, body["error"]["code"]) == (503, "no_capacity")
        assert body["error"]["skipped"] == {"paused": 1, "no_cpu_worker": 1}
        assert int(headers["retry-after"]) >= 1
        [why] = decisions(server, headers["x-request-id"])
        assert why["outcome"] == "unplaced"
        # The edge budget is five seconds: nothing was waited for.
        assert why["waited_s"] < 1
        tab.assert_clean()
