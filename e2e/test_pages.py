"""The pages on the real server: what each of its three users sees."""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, expect

from e2e.server import Server, eventually, serving
from e2e.tab import Tab
from tests.certificates import self_signed

pytestmark = pytest.mark.slow


def test_the_home_page_tells_its_three_users_what_this_is_with_true_numbers(
    server: Server, context: BrowserContext
) -> None:
    tab = Tab(context, server)
    server.infer("embeddings", {"model": "all-minilm-l6-v2", "input": "hello"})
    tab.page.goto(server.url)

    expect(tab.page.get_by_role("heading", level=1)).to_be_visible()
    for link in ("/volunteer", "/operate"):
        expect(tab.page.locator(f"main a[href^='{link}']").first).to_be_visible()
    expect(tab.page.locator("main")).to_contain_text("/v1")
    # Nobody has asked this server before.
    assert server.stats()["jobs_answered"] == 1
    tab.assert_clean()


def test_the_console_link_signs_in_once_and_shows_the_fleet_live(
    server: Server,
    context: BrowserContext,
    browser: Browser,
    new_profile: Callable[[], BrowserContext],
) -> None:
    operator = Tab(context, server)
    operator.page.goto(f"{server.url}/operate")
    expect(operator.page.locator("main")).to_contain_text("console-link")

    operator.page.goto(server.console_url)
    expect(operator.page).to_have_url(f"{server.url}/operate")
    table = operator.page.get_by_role("table")
    expect(table).to_contain_text("cpu_", timeout=10_000)

    # Another visitor's browser: the row appears by itself, and goes by itself.
    visitor = Tab(new_profile(), server).open().agree()
    node_id = visitor.node_id
    expect(table).to_contain_text(node_id, timeout=60_000)
    eventually(
        lambda: (
            server.infer("embeddings", {"model": "all-minilm-l6-v2", "input": "hi"})[1][
                "x-inference-type"
            ]
            == "edge"
        ),
        what="an answer by the tab",
    )
    visitor.page.close()
    expect(table).not_to_contain_text(node_id, timeout=10_000)

    again = Tab(browser.new_context(), server)
    again.page.goto(server.console_url)
    expect(again.page.locator("main")).to_contain_text("console-link")
    again.context.close()
    operator.assert_clean()


def test_an_open_dashboard_does_not_keep_the_server_from_stopping(
    tmp_path: Path, context: BrowserContext
) -> None:
    # The page is there before the CPU worker is.
    with serving(tmp_path / "data", wait_ready=False) as server:
        operator = Tab(context, server)
        operator.page.goto(server.console_url)
        expect(operator.page.get_by_role("table")).to_contain_text("cpu_", timeout=30_000)

        assert server.terminate(timeout_s=15) == 0
    # From here on the page reports refused connections; that is the truth.


def test_the_volunteer_page_is_isolated_and_served_under_a_strict_policy(
    shared_server: Server,
) -> None:
    _, headers, _ = shared_server.get("/volunteer")

    assert headers["cross-origin-opener-policy"] == "same-origin"
    assert headers["cross-origin-embedder-policy"] == "require-corp"
    policy = headers["content-security-policy"]
    assert "require-trusted-types-for 'script'" in policy
    assert "unsafe" not in policy


def test_a_foreign_host_name_is_not_answered(shared_server: Server) -> None:
    assert shared_server.get("/", host="evil.example")[0] == 421


def test_https_is_served_with_a_certificate(tmp_path: Path) -> None:
    certificate, key = self_signed(tmp_path)
    with serving(
        tmp_path / "data",
        *("--no-cpu-worker", "--tls-cert", str(certificate), "--tls-key", str(key)),
        wait_ready=False,
    ) as server:
        assert server.url.startswith("https://")
        port = int(server.url.rsplit(":", 1)[1])
        trust = ssl.create_default_context(cafile=str(certificate))
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=10, context=trust)
        connection.request("GET", "/healthz")
        assert connection.getresponse().status == 200
        connection.close()
