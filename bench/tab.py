"""A visitor's tab in real Chromium: how soon it is ready, what it downloads, holds and computes.

Times are the page's own clock, from the click that agrees until every model is shown as ready.
Downloads are counted by a proxy on the way. The server and its CPU worker are the real ones and
share the machine with the browser.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import msgspec
from playwright.sync_api import BrowserContext, sync_playwright

from bench import chromium
from bench.dispatch import compose
from bench.load import Order, give
from bench.meter import Meter, metering
from bench.processes import (
    command_line,
    cpu_seconds,
    descendants,
    module,
    thread_cpu_seconds,
    unique_mb,
)
from bench.report import Figure, Section, Table
from e2e.server import Server, serving

COLD_S: Final = 5.0
WARM_S: Final = 3.0
BOOT_CPU_S: Final = 1.0
SECOND_VISIT_KB: Final = 100.0
MEMORY_MB: Final = 350.0
_CONNECTIONS: Final = 8


class Visit(msgspec.Struct, frozen=True, kw_only=True):
    """One visit, from opening the page to readiness."""

    ready_s: float
    boot_s: float
    boot_cpu_s: float
    tab_cpu_s: float
    http_kb: float
    requests: int
    socket_kb: float


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """What the tab then did at full share: answers per second, and its memory."""

    tokens_per_s: float
    edge_share: float
    p50_ms: float
    memory_mb: float


def measure(*, visits: int, seconds: float) -> Section:
    """Visit ``visits`` times with an empty profile, each followed by two with what it kept."""
    cold: list[Visit] = []
    warm: list[Visit] = []
    full: list[Visit] = []
    work: Work | None = None
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        serving(Path(folder) / "data") as server,
        metering(urlsplit(server.url).port or 0) as meter,
        sync_playwright() as playwright,
    ):
        for number in range(visits):
            profile = Path(folder) / f"profile-{number}"
            with chromium.profile(playwright, profile) as context:
                cold.append(_visit(context, profile, meter))
            with chromium.profile(playwright, profile) as context:
                warm.append(_visit(context, profile, meter))
            with chromium.profile(playwright, profile) as context:
                full.append(_visit(context, profile, meter, full_share=True))
                if number == visits - 1:
                    work = _work(context, profile, server, seconds)
    assert work is not None
    return report(cold, warm, full, work)


def _visit(
    context: BrowserContext, profile: Path, meter: Meter, *, full_share: bool = False
) -> Visit:
    meter.reset()
    page = chromium.donate(context, f"http://127.0.0.1:{meter.port}", full_share=full_share)
    chromium.marked(page, "word")
    pid = _renderer(profile)
    boot_cpu_s = thread_cpu_seconds(pid, "DedicatedWorker")
    marks = chromium.marked(page, "ready")
    return Visit(
        ready_s=(marks["ready"] - marks["click"]) / 1000,
        boot_s=(marks["word"] - marks["click"]) / 1000,
        boot_cpu_s=boot_cpu_s,
        tab_cpu_s=cpu_seconds(pid),
        http_kb=meter.http_bytes / 1000,
        requests=meter.requests,
        socket_kb=meter.socket_bytes / 1000,
    )


def _renderer(profile: Path) -> int:
    """Return the renderer that has used the most CPU of this profile's browser: the page's."""
    flag = f"--user-data-dir={profile}"
    browsers = [
        pid
        for pid in descendants(os.getpid())
        if flag in (words := command_line(pid)) and not any(w.startswith("--type=") for w in words)
    ]
    renderers = [
        pid
        for browser in browsers
        for pid in descendants(browser)
        if "--type=renderer" in command_line(pid)
    ]
    return max(renderers, key=cpu_seconds)


def _work(context: BrowserContext, profile: Path, server: Server, seconds: float) -> Work:
    """Let the tab work at full share, on texts of about 160 tokens that differ."""
    page = context.pages[-1]
    chromium.give_all(page)
    bodies = tuple(
        json.dumps({"model": "all-minilm-l6-v2", "input": text, "encoding_format": "base64"})
        for text in compose(64)
    )
    counted = server.infer("embeddings", {"model": "all-minilm-l6-v2", "input": compose(64)})[2]
    order = Order(
        port=urlsplit(server.url).port or 0,
        path="/v1/embeddings",
        bodies=bodies,
        headers={"x-api-key": server.api_key},
        connections=_CONNECTIONS,
        seconds=seconds,
    )
    with module("bench.load") as load:
        outcome = give(load, order)
    edge = outcome.places.get("edge", 0)
    if not edge:
        raise RuntimeError(f"the tab got no work: {outcome.statuses}, {outcome.places}")
    return Work(
        tokens_per_s=edge * counted["usage"]["prompt_tokens"] / len(bodies) / outcome.seconds,
        edge_share=edge / outcome.requests,
        p50_ms=outcome.p50_ms,
        memory_mb=unique_mb(_renderer(profile)),
    )


def report(cold: list[Visit], warm: list[Visit], full: list[Visit], work: Work) -> Section:
    rows = []
    for name, visits in (("cold", cold), ("warm", warm), ("warm, full share", full)):
        rows += [
            (
                name,
                f"{visit.ready_s:.2f}",
                f"{visit.boot_s:.2f}",
                f"{visit.boot_cpu_s:.2f}",
                f"{visit.tab_cpu_s:.2f}",
                f"{visit.http_kb:,.0f}",
                str(visit.requests),
                f"{visit.socket_kb:,.0f}",
            )
            for visit in visits
        ]
    figures = [
        Figure("ready after consent, cold", _ready_s(cold), "s", COLD_S),
        Figure("ready after consent, warm", _ready_s(warm), "s", WARM_S),
        Figure("ready after consent, warm, full share", _ready_s(full), "s"),
        Figure(
            "CPU until Python runs, warm",
            statistics.median(v.boot_cpu_s for v in warm),
            "s",
            BOOT_CPU_S,
        ),
        Figure(
            "second visit, transfer",
            statistics.median(v.http_kb for v in warm),
            "kB",
            SECOND_VISIT_KB,
        ),
        Figure("memory of the tab (USS)", work.memory_mb, "MB", MEMORY_MB),
        Figure("answered by the tab at full share", work.tokens_per_s, "tokens/s"),
        Figure("answered by the tab, of all", work.edge_share * 100, "%"),
        Figure(f"p50 at {_CONNECTIONS} connections", work.p50_ms, "ms"),
    ]
    columns = (
        *("visit", "ready s", "Python s", "Python CPU s", "tab CPU s"),
        *("HTTP kB", "requests", "socket kB"),
    )
    note = (
        "The default limit is half the processor; Python CPU is the worker thread's until its first"
        " message."
    )
    return Section("tab", "The tab", figures, [Table(columns, rows)], note)


def _ready_s(visits: list[Visit]) -> float:
    return statistics.median(visit.ready_s for visit in visits)
