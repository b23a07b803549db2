"""The pages and what they load: our files, the built ones, and `/stats`.

Routes (GET and HEAD only):

    /  /volunteer  /operate  /reference pages; the theme comes from a cookie, so nothing flashes
    /static/…                           our scripts and styles: no-cache with an ETag
    /runtime/<hash>/… /vendor/<hash>/…  built by `wasm_build`: immutable
    /models/manifests/… /models/parts/… the same
    /stats                              public counts, no names

Whatever else is asked for is not here: people are told by a page, programs by the API's error.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import msgspec
from starlette.types import ASGIApp, Receive, Scope, Send

from orchestrator.clock import Clock
from orchestrator.domain.fleet import Totals
from orchestrator.settings import Settings
from orchestrator.transport.assets import (
    REVALIDATE,
    Asset,
    SourceFiles,
    make_asset,
    send_asset,
    send_file,
    send_reply,
)
from orchestrator.transport.built import Build
from orchestrator.transport.headers import (
    inert_headers,
    page_headers,
    read_cookie,
    worker_headers,
)
from orchestrator.transport.preflight import is_preflight, send_preflight
from orchestrator.transport.strays import (
    READING,
    is_program,
    send_nothing_here,
    send_only_read,
)

THEME_COOKIE: Final = "theme"
STATS_MAX_AGE_S: Final = 1.0
_THEMES: Final = frozenset({"dark", "light"})
_INCLUDE: Final = re.compile(rb"<!-- include ([a-z-]+\.html) -->")
_DEFAULT_THEME: Final = b'data-theme="auto"'


class Stats(msgspec.Struct, frozen=True):
    """What anybody may know: counts since the server started."""

    nodes_online: int
    jobs_answered: int
    jobs_answered_edge: int
    jobs_answered_cloud: int
    cpu_worker: str
    p50_ms: float | None

    @classmethod
    def of(cls, totals: Totals) -> Stats:
        return cls(
            nodes_online=totals.nodes,
            jobs_answered=totals.answered_edge + totals.answered_cloud,
            jobs_answered_edge=totals.answered_edge,
            jobs_answered_cloud=totals.answered_cloud,
            cpu_worker=totals.cpu_worker,
            p50_ms=totals.p50_ms,
        )


@dataclass(frozen=True, slots=True)
class Page:
    """An HTML page. ``isolated`` pages may share memory with the worker they start."""

    file: str
    isolated: bool = False


HOME: Final = Page("index.html")
VOLUNTEER: Final = Page("volunteer.html", isolated=True)
OPERATE: Final = Page("operate.html")
REFERENCE: Final = Page("reference.html")
SIGNED_OUT: Final = Page("signed-out.html")
NOT_FOUND: Final = Page("not-found.html")
_PAGES: Final = {"/": HOME, "/volunteer": VOLUNTEER, "/reference": REFERENCE}
# Pages that stand on another page's address.
_PLACES: Final = {"signed-out": "operate"}
_HTML: Final = "html/"


def build_pages(
    settings: Settings,
    *,
    totals_source: Callable[[], Totals],
    signed_in: Callable[[Scope], Awaitable[bool]],
    clock: Clock,
) -> ASGIApp:
    """Return the ASGI app of the routes above; raises `CatalogueError` when nothing is built.

    ``signed_in`` decides between the dashboard and the page that says how to get in. Whatever is
    not a route here is answered 404, so the app can stand last.
    """
    return _Pages(
        settings=settings, totals_source=totals_source, signed_in=signed_in, clock=clock
    ).serve


class _Pages:
    def __init__(
        self,
        *,
        settings: Settings,
        totals_source: Callable[[], Totals],
        signed_in: Callable[[Scope], Awaitable[bool]],
        clock: Clock,
    ) -> None:
        self._build = Build(settings.build_dir)
        self._root = settings.static_dir
        self._files = SourceFiles(settings.static_dir, render=self._render, stamp=self._build.stamp)
        self._totals_source = totals_source
        self._signed_in = signed_in
        self._clock = clock
        self._themed: dict[tuple[str, str], Asset] = {}
        self._stats: tuple[float, bytes] | None = None

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        path: str = scope["path"]
        if is_program(scope) and not self._is_here(path):
            if is_preflight(scope):
                # Else the page never hears that nothing is here.
                await send_preflight(scope, send, own=inert_headers())
            else:
                await send_nothing_here(scope, send)
        elif scope["method"] not in READING:
            await send_only_read(scope, send)
        elif page := _PAGES.get(path):
            await self._page(scope, send, page)
        elif path == "/operate":
            page = OPERATE if await self._signed_in(scope) else SIGNED_OUT
            await self._page(scope, send, page)
        elif path == "/stats":
            await self._send_stats(scope, send)
        elif path.startswith("/static/"):
            await self._source(scope, send, path.removeprefix("/static/"))
        elif found := self._build.find(path):
            # Threads of the runtime are nested workers: each obeys its own script's headers.
            guard = worker_headers() if path.startswith("/runtime/") else inert_headers()
            await send_file(scope, send, found, headers=guard)
        else:
            await self._page(scope, send, NOT_FOUND, status=404)

    def _is_here(self, path: str) -> bool:
        """Whether one of the routes above has something at ``path``."""
        if path in _PAGES or path in {"/operate", "/stats"}:
            return True
        if path.startswith("/static/"):
            return self._own(path.removeprefix("/static/")) is not None
        return self._build.find(path) is not None

    def _own(self, name: str) -> Asset | None:
        return None if name.startswith(_HTML) else self._files.get(name)

    async def _page(self, scope: Scope, send: Send, page: Page, *, status: int = 200) -> None:
        asset = self._files.get(f"{_HTML}{page.file}")
        if asset is None:
            await send_reply(scope, send, status=404, headers=inert_headers())
            return
        theme = _theme(scope)
        await send_asset(
            scope,
            send,
            self._with_theme(asset, theme) if theme else asset,
            status=status,
            headers=[
                *page_headers(isolated=page.isolated),
                REVALIDATE,
                (b"vary", b"accept-encoding, cookie"),
            ],
        )

    async def _source(self, scope: Scope, send: Send, name: str) -> None:
        asset = self._own(name)
        if asset is None:
            await send_reply(scope, send, status=404, headers=inert_headers())
            return
        guard = worker_headers() if name.startswith("worker/") else inert_headers()
        await send_asset(
            scope, send, asset, headers=[*guard, REVALIDATE, (b"vary", b"accept-encoding")]
        )

    async def _send_stats(self, scope: Scope, send: Send) -> None:
        now = self._clock.monotonic()
        if self._stats is None or now - self._stats[0] >= STATS_MAX_AGE_S:
            # Everybody may ask, so asking must cost nothing: one count a second serves them all.
            self._stats = (now, msgspec.json.encode(Stats.of(self._totals_source())))
        await send_reply(
            scope,
            send,
            status=200,
            headers=[
                *inert_headers(),
                (b"content-type", b"application/json"),
                (b"cache-control", b"no-store"),
            ],
            body=self._stats[1],
        )

    def _with_theme(self, asset: Asset, theme: str) -> Asset:
        key = (asset.digest, theme)
        if key not in self._themed:
            if len(self._themed) > 32:
                self._themed.clear()  # only while pages are being edited
            themed = asset.bodies["identity"].replace(
                _DEFAULT_THEME, f'data-theme="{theme}"'.encode(), 1
            )
            self._themed[key] = make_asset(themed, asset.media_type)
        return self._themed[key]

    def _render(self, name: str, text: bytes) -> bytes:
        if name.startswith(_HTML):
            text = _INCLUDE.sub(lambda match: self._include(match[1].decode(), name), text)
            # A data block is inert for scripts, but "</script>" would end it.
            facts = msgspec.json.encode(self._build.facts()).replace(b"<", b"\\u003c")
            text = text.replace(b"@facts@", facts)
        for written, meant in self._build.placeholders().items():
            text = text.replace(written, meant)
        return text

    def _include(self, part: str, page: str) -> bytes:
        body = (self._root / _HTML / part).read_bytes()
        # The link to the page it stands on says so, to eyes and to screen readers.
        place = page.removeprefix(_HTML).removesuffix(".html")
        here = f'data-page="{_PLACES.get(place, place)}"'.encode()
        return body.replace(here, here + b' aria-current="page"')


def _theme(scope: Scope) -> str | None:
    """Return the theme the visitor chose, if any."""
    value = read_cookie(scope, THEME_COOKIE)
    return value if value in _THEMES else None
