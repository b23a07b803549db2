"""A visitor's tab: a real page in real Chromium, and the means to harm it."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from playwright.sync_api import BrowserContext, ConsoleMessage, Page, expect

from e2e.server import Server, eventually

READY_MS = 90_000
# What a headless browser does not show by itself: a hidden tab, and a processor under pressure.
# The real pressure of a busy test machine would pause tabs at random: the test's word replaces it.
SIGNALS = """
(() => {
  let hidden = false;
  Object.defineProperty(document, 'hidden', {get: () => hidden});
  window.testHide = value => {
    hidden = value;
    document.dispatchEvent(new Event('visibilitychange'));
  };
  let tell = () => {};
  window.PressureObserver = class {
    constructor(callback) { tell = state => callback([{state}]); }
    async observe() {}
    disconnect() {}
  };
  window.testPressure = state => tell(state);
  addEventListener('securitypolicyviolation', event =>
    console.error(`csp: ${event.violatedDirective} ${event.blockedURI}`));
})()
"""


class Tab:
    """The volunteer page; every console error, page error and policy violation is kept."""

    def __init__(self, context: BrowserContext, server: Server) -> None:
        self.server = server
        self.context = context
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.page: Page = context.new_page()
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.errors.append(f"page error: {error}"))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.add_init_script(SIGNALS)

    def _console(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.errors.append(f"console: {message.text}")

    def assert_clean(self, *, but: tuple[str, ...] = ()) -> None:
        """Fail on any error the page has shown, except those that start with one of ``but``."""
        if not self.page.is_closed():
            self.page.evaluate("0")  # lets messages that are still under way arrive
        left = [e for e in self.errors if not any(part in e for part in but)]
        self.errors.clear()  # a tab may go on to another journey: it has heard of these
        assert not left, left

    # ── what a visitor does ──────────────────────────────────────────────────────────────────────

    def open(self) -> Tab:
        self.page.goto(f"{self.server.url}/volunteer")
        expect(self.page.get_by_role("button", name="Start donating")).to_be_visible()
        return self

    def agree(self) -> Tab:
        self.page.get_by_role("button", name="Start donating").click()
        return self

    def limit(self, *, cpu_percent: int) -> Tab:
        slider = self.page.get_by_label("Processor time")
        slider.fill(str(cpu_percent))
        return self

    def wait_ready(self) -> Tab:
        """Wait until every model is ready on this page, and the server offers the node work."""
        models = self.page.locator("ul.models li")
        expect(models).to_have_count(3, timeout=READY_MS)
        expect(models.filter(has_text="ready")).to_have_count(3, timeout=READY_MS)
        eventually(self.listed, what="the tab's listing")
        return self

    def donate(self) -> Tab:
        return self.open().agree().wait_ready()

    def pause(self) -> None:
        self.page.get_by_role("button", name="Pause").click()
        eventually(lambda: self.state()[0] == "paused", what="the pause")

    def resume(self) -> None:
        self.page.get_by_role("button", name="Resume").click()
        eventually(lambda: self.state()[0] == "active", what="the resumption")

    @property
    def node_id(self) -> str:
        return self.page.locator(".node .mono").inner_text(timeout=READY_MS)

    def title(self) -> str:
        return self.page.locator(".now .title").inner_text()

    def jobs_done(self) -> int:
        figure = self.page.locator(".figures div", has_text="answered").locator("dd")
        return int(figure.get_attribute("title") or "0")

    # ── what the server says ─────────────────────────────────────────────────────────────────────

    def row(self, *, now: bool = False) -> dict[str, Any] | None:
        """Return this tab's row in the operator's fleet: ``now``, or up to a second ago."""
        wanted = self.node_id
        nodes = (fleet_now if now else fleet)(self.server)["nodes"]
        return next((row for row in nodes if row["id"] == wanted), None)

    def state(self) -> tuple[str, str]:
        """Return the state of the tab as the server was told it, and the reason."""
        row = self.row() or {}
        return row.get("state", ""), row.get("reason", "")

    def listed(self) -> bool:
        row = self.row()
        return row is not None and len(row["models"]) == 3

    # ── harm ─────────────────────────────────────────────────────────────────────────────────────

    def renderer_pid(self) -> int:
        """Return the pid of the renderer that this tab's site runs in.

        The browser must have no other page open on a site, or the answer is ambiguous.
        """
        browser = self.context.browser
        assert browser is not None
        session = browser.new_browser_cdp_session()
        processes = session.send("SystemInfo.getProcessInfo")["processInfo"]
        session.detach()
        busy = sorted(
            (p for p in processes if p["type"] == "renderer"), key=lambda p: -float(p["cpuTime"])
        )
        return int(busy[0]["id"])

    def crash(self) -> None:
        """Crash the renderer; the command itself never answers, so nobody waits for it."""
        session: Any = self.context.new_cdp_session(self.page)
        with self.page.expect_event("crash"):
            task = session._loop.create_task(session._impl_obj.send("Page.crash", None, None))
            task.add_done_callback(lambda done: done.cancelled() or done.exception())


class Visitor:
    """Somebody with one browser profile, whose tab stays open from journey to journey."""

    def __init__(self, context: BrowserContext, server: Server) -> None:
        self._context = context
        self._server = server
        self.visits: list[Tab] = []

    def tab(self) -> Tab:
        """Return the open tab if it is at work, else that of a new visit."""
        if not self.visits or not self._at_work(self.visits[-1]):
            self.leave()
            self.visits.append(Tab(self._context, self._server).donate())
        return self.visits[-1]

    def leave(self) -> None:
        if self.visits:
            self.visits[-1].page.close()

    def _at_work(self, tab: Tab) -> bool:
        if tab.page.is_closed() or not tab.page.locator(".node .mono").count():
            return False
        return tab.state()[0] == "active"


def fleet(server: Server) -> dict[str, Any]:
    """Read one snapshot of the operator's stream; signs in with the first console link."""
    cookie = getattr(server, "console_cookie", None)
    if cookie is None:
        import http.client
        from urllib.parse import urlsplit

        parts = urlsplit(server.console_url)
        connection = http.client.HTTPConnection(parts.netloc, timeout=10)
        connection.request("GET", f"{parts.path}?{parts.query}")
        response = connection.getresponse()
        header = response.getheader("set-cookie")
        connection.close()
        assert header, f"the sign-in link answered {response.status} without a cookie"
        cookie = header.split(";")[0]
        server.console_cookie = cookie  # type: ignore[attr-defined]
    return read_stream(server, cookie)


def fleet_now(server: Server) -> dict[str, Any]:
    """Read a snapshot made after this call: the one at hand may be nearly a second old."""
    asked_at = time.time()

    def made_since() -> dict[str, Any] | None:
        snapshot = fleet(server)
        return snapshot if snapshot["at"] >= asked_at else None

    snapshot: dict[str, Any] = eventually(made_since, what="the console's next picture")
    return snapshot


def read_stream(server: Server, cookie: str) -> dict[str, Any]:
    import urllib.request

    request = urllib.request.Request(
        f"{server.url}/console/stream", headers={"cookie": cookie, "accept": "text/event-stream"}
    )
    with urllib.request.urlopen(request, timeout=10) as stream:
        for raw in stream:
            line = raw.decode()
            if line.startswith("data:"):
                snapshot: dict[str, Any] = json.loads(line[5:])
                if "nodes" in snapshot:
                    return snapshot
    raise AssertionError("the stream ended without a snapshot")


def stopped(pid: int) -> bool:
    """Whether the process is stopped by a signal (state T)."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def freeze(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)
    eventually(lambda: stopped(pid), what="the stopped renderer")


def thaw(pid: int) -> None:
    os.kill(pid, signal.SIGCONT)
