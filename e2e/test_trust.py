"""Trust as the three users meet it: earned by itself, kept, demanded, lost; on default settings."""

from __future__ import annotations

import contextlib
import copy
import functools
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext

from e2e.server import ROOT, TRUSTING, Server, eventually, serving
from e2e.tab import Tab, fleet
from e2e.texts import ARTICLE, RECIPE, SENTENCES

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

# As `READY_MS` of a tab: how fast it answers ten known questions is the test machine's affair.
TRUSTED_S = 90.0


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server as anybody starts it: a tab is a newcomer."""
    with serving(tmp_path / "data") as server:
        yield server


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


def test_a_tab_earns_trust_by_itself_on_what_the_cpu_worker_has_answered(
    server: Server, context: BrowserContext
) -> None:
    assert ask(server, SENTENCES)[0] == "cloud"

    tab = wait_trusted(Tab(context, server).donate())
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


def test_a_server_that_nobody_has_asked_yet_answers_cloud_three_times_and_then_edge(
    server: Server, context: BrowserContext
) -> None:
    tab = Tab(context, server).donate()
    places = []
    for number in range(3):
        # Known questions go to an idle tab first; a trial beside the CPU worker wants it idle, too.
        asked = eventually(lambda: idle(tab), timeout_s=TRUSTED_S, what="the idle tab")["agreed"]
        places.append(ask(server, f"{SENTENCES[number]} {RECIPE}")[0])
        compared = functools.partial(agreed_more, tab, asked)
        eventually(compared, timeout_s=TRUSTED_S, what="the comparison")

    assert places == ["cloud"] * 3
    wait_trusted(tab)
    assert ask(server, ARTICLE)[0] == "edge"
    tab.assert_clean()


def idle(tab: Tab) -> dict[str, Any] | None:
    """Return the tab's row once it has answered all known questions that it gets."""
    row = tab.row()
    return row if row and row["agreed"] >= 10 and not row["slots_used"] else None


def agreed_more(tab: Tab, before: int) -> bool:
    row = tab.row()
    return row is not None and row["agreed"] > before


# ── kept ─────────────────────────────────────────────────────────────────────────────────────────


def test_trust_belongs_to_the_key_pair_and_outlives_the_tab_and_the_server(
    server: Server, context: BrowserContext, browser: Browser
) -> None:
    ask(server, SENTENCES)
    first = wait_trusted(Tab(context, server).donate())
    before = first.row()
    first.page.close()
    port = int(server.url.rsplit(":", 1)[1])
    assert server.terminate() == 0
    server.start(port=port)

    again = Tab(context, server).donate()
    after = again.row()

    assert before is not None
    assert after is not None
    assert after["identity"] == before["identity"]
    assert after["level"] == "trusted"
    assert fleet(server)["totals"]["audited"] == 0
    assert ask(server, ARTICLE)[0] == "edge"
    again.assert_clean()
    again.page.close()

    # Another browser profile has another key pair: nobody is trusted for where they come from.
    stranger = Tab(browser.new_context(), server).open().agree()
    eventually(stranger.row, timeout_s=TRUSTED_S, what="the stranger")
    assert level(stranger) == "newcomer"
    stranger.context.close()


# ── demanded ─────────────────────────────────────────────────────────────────────────────────────


def test_a_pair_needs_two_networks_and_one_network_s_tabs_leave_it_to_the_cpu_worker(
    tmp_path: Path, browser: Browser
) -> None:
    # How trust is earned is shown above; here two tabs of one machine have it from the start. The
    # server listens on IPv4 and IPv6: two loopback networks.
    with serving(tmp_path / "data", "--host", "::", env=TRUSTING) as server:
        zerogpu(server, "projects", "set", server.project_id, "--verify", "always")
        tabs = [Tab(browser.new_context(), server).donate() for _ in range(2)]

        place, request_id = ask(server, RECIPE)
        assert place == "cloud"
        assert [why["node_id"][:4] for why in decisions(server, request_id)] == ["cpu_"]

        other = copy.copy(server)
        other.url = server.url.replace("127.0.0.1", "[::1]")
        tabs.append(Tab(browser.new_context(), other).donate())
        place, request_id = ask(server, SENTENCES[0])

        assert place == "edge"
        pair = decisions(server, request_id)
        assert [why["purpose"] for why in pair] == ["trial", "trial"]
        assert tabs[2].node_id in {why["node_id"] for why in pair}
        assert len({why["node_id"] for why in pair}) == 2
        for tab in tabs:
            tab.assert_clean()
            tab.context.close()


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
    totals = fleet(server)["totals"]
    assert (totals["answered_edge"], totals["disagreed"]) == (0, 2)
    listed = zerogpu(server, "nodes", "list", "--only", "quarantined")
    assert listed.startswith(liar["identity"][:16])


def vectors(server: Server) -> list[Any]:
    status, headers, answer = server.infer("embeddings", embed(SENTENCES))
    assert (status, headers["x-inference-type"]) == (200, "cloud")
    return [row["embedding"] for row in answer["data"]]


def test_a_server_whose_nodes_cannot_take_a_job_says_at_once_why_each_cannot(
    tmp_path: Path, context: BrowserContext
) -> None:
    with serving(tmp_path / "data", "--no-cpu-worker", env=TRUSTING) as server:
        with beside("orchestrator", "worker", "--data-dir", str(server.data_dir)):
            tab = Tab(context, server).donate()
        eventually(lambda: fleet(server)["totals"]["cpu_worker"] == "off", what="its end")
        assert ask(server, ARTICLE)[0] == "edge"

        tab.page.get_by_role("button", name="Pause").click()
        eventually(lambda: (tab.row() or {})["state"] == "paused", what="the pause")
        status, headers, body = server.infer("embeddings", embed(ARTICLE))

        assert (status, body["error"]["code"]) == (503, "no_capacity")
        assert body["error"]["skipped"] == {"paused": 1, "no_cpu_worker": 1}
        assert int(headers["retry-after"]) >= 1
        [why] = decisions(server, headers["x-request-id"])
        assert why["outcome"] == "unplaced"
        # The edge budget is five seconds: nothing was waited for.
        assert why["waited_s"] < 1
        tab.assert_clean()
