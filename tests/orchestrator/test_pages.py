"""Pages and files over plain ASGI: headers, caching, encodings, and what is refused."""

from __future__ import annotations

import gzip
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import brotli
import msgspec
import pytest
from starlette.types import ASGIApp, Scope

from orchestrator.clock import Clock
from orchestrator.domain.fleet import Totals
from orchestrator.errors import CatalogueError
from orchestrator.settings import Settings
from orchestrator.transport.assets import choose_encoding, media_type
from orchestrator.transport.pages import build_pages
from tests.orchestrator.page_fakes import FakeFleet, ask, write_build
from tests.orchestrator.page_server import REPOSITORY


@dataclass
class Site:
    """The pages over a small build; ``now`` is the clock, ``asked`` counts looks at the fleet."""

    root: Path
    names: dict[str, str]
    now: float = 0.0
    asked: int = 0
    signed_in: bool = False

    @cached_property
    def app(self) -> ASGIApp:
        return build_pages(
            Settings(build_dir=self.root / "build", static_dir=self.root / "static"),
            totals_source=self._totals,
            signed_in=self._is_signed_in,
            clock=Clock(monotonic=lambda: self.now, wall=lambda: self.now),
        )

    def _totals(self) -> Totals:
        self.asked += 1
        return FakeFleet().counted()

    async def _is_signed_in(self, scope: Scope) -> bool:
        return self.signed_in


@pytest.fixture
def site(tmp_path: Path) -> Site:
    (tmp_path / "static").symlink_to(REPOSITORY / "static")
    return Site(tmp_path, write_build(tmp_path / "build"))


@pytest.fixture
def own_files(tmp_path: Path) -> Site:
    """A site whose own files the test may write."""
    (tmp_path / "static/html").mkdir(parents=True)
    return Site(tmp_path, write_build(tmp_path / "build"))


@pytest.mark.parametrize("path", ["/", "/volunteer", "/operate"])
async def test_a_page_may_run_our_scripts_and_nothing_else(site: Site, path: str) -> None:
    reply = await ask(site.app, path)

    policy = reply.headers["content-security-policy"]
    assert reply.status == 200
    assert reply.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'; script-src 'self';" in policy
    assert "require-trusted-types-for 'script'" in policy
    assert "unsafe" not in policy
    assert reply.headers["cross-origin-opener-policy"] == "same-origin"
    assert reply.headers["x-content-type-options"] == "nosniff"


async def test_only_the_volunteer_page_is_isolated_and_may_start_a_worker(site: Site) -> None:
    volunteer, home = await ask(site.app, "/volunteer"), await ask(site.app, "/")

    assert volunteer.headers["cross-origin-embedder-policy"] == "require-corp"
    assert "trusted-types node-worker" in volunteer.headers["content-security-policy"]
    assert "cross-origin-embedder-policy" not in home.headers
    assert "trusted-types 'none'" in home.headers["content-security-policy"]


@pytest.mark.parametrize("path", ["/static/worker/node.js", "/runtime/11112222/pyodide.mjs"])
async def test_what_workers_start_from_may_compile_wasm_and_has_no_trusted_types(
    site: Site, path: str
) -> None:
    reply = await ask(site.app, path)

    policy = reply.headers["content-security-policy"]
    assert "script-src 'self' 'wasm-unsafe-eval'" in policy
    assert "trusted-types" not in policy
    assert reply.headers["cross-origin-embedder-policy"] == "require-corp"
    assert reply.headers["cross-origin-resource-policy"] == "same-origin"


async def test_the_chosen_theme_is_written_by_the_server(site: Site) -> None:
    plain = await ask(site.app, "/")
    dark = await ask(site.app, "/", cookie='other={"a":1}; theme=dark')
    odd = await ask(site.app, "/", cookie='theme="><script>')

    assert b'data-theme="auto"' in plain.body
    assert b'data-theme="dark"' in dark.body
    assert odd.body == plain.body
    assert plain.headers["etag"] != dark.headers["etag"]


async def test_a_page_marks_its_own_place_in_the_navigation(site: Site) -> None:
    volunteer, signed_out = await ask(site.app, "/volunteer"), await ask(site.app, "/operate")

    assert b'data-page="volunteer" aria-current="page"' in volunteer.body
    assert volunteer.body.count(b"aria-current") == 1
    assert b'data-page="operate" aria-current="page"' in signed_out.body


async def test_operate_shows_the_dashboard_only_to_whoever_is_signed_in(site: Site) -> None:
    outside = await ask(site.app, "/operate")
    site.signed_in = True
    inside = await ask(site.app, "/operate")

    assert b"one-time link" in outside.body
    assert b'id="fleet"' in inside.body


async def test_no_file_of_ours_is_served_with_a_placeholder_left(site: Site) -> None:
    app = site.app
    for file in (REPOSITORY / "static").rglob("*.*"):
        name = file.relative_to(REPOSITORY / "static").as_posix()
        if name.startswith(("html/", "worker/")):
            continue
        reply = await ask(app, f"/static/{name}")
        assert (reply.status, name) == (200, name)
        assert b"/@/" not in reply.body

    home = await ask(app, "/")
    assert b"/vendor/33334444/ui.js" in home.body
    assert b"<!-- include" not in home.body


async def test_an_own_file_is_revalidated_by_its_etag(site: Site) -> None:
    first = await ask(site.app, "/static/css/app.css")
    again = await ask(
        site.app, "/static/css/app.css", if_none_match=f'"x", {first.headers["etag"]}'
    )
    other = await ask(site.app, "/static/css/app.css", if_none_match='"x"')

    assert first.headers["cache-control"] == "no-cache"
    assert (again.status, again.body) == (304, b"")
    assert again.headers["etag"] == first.headers["etag"]
    assert other.status == 200


async def test_an_own_file_is_sent_as_small_as_the_client_can_read(site: Site) -> None:
    plain = await ask(site.app, "/static/css/app.css")
    br = await ask(site.app, "/static/css/app.css", accept_encoding="gzip, deflate, br")
    gz = await ask(site.app, "/static/css/app.css", accept_encoding="gzip, br;q=0")

    assert "content-encoding" not in plain.headers
    assert brotli.decompress(br.body) == gzip.decompress(gz.body) == plain.body
    assert len({reply.headers["etag"] for reply in (plain, br, gz)}) == 3
    assert br.headers["vary"] == "accept-encoding"


async def test_a_file_that_changes_on_disk_is_read_again(own_files: Site) -> None:
    script = own_files.root / "static/a.js"
    script.write_text("import '/vendor/@/ui.js';")
    app = own_files.app
    before = await ask(app, "/static/a.js")
    script.write_text("import '/runtime/@/b.js';")
    os.utime(script, ns=(1, 1))

    after = await ask(app, "/static/a.js")

    assert before.body == b"import '/vendor/33334444/ui.js';"
    assert after.body == b"import '/runtime/11112222/b.js';"
    assert before.headers["etag"] != after.headers["etag"]


async def test_facts_cannot_break_out_of_their_data_block(own_files: Site) -> None:
    (own_files.root / "static/html/index.html").write_text("<script>@facts@</script>")

    reply = await ask(own_files.app, "/")

    assert b"MiniLM \\u003cL6>" in reply.body
    assert reply.body.count(b"<") == 2


async def test_facts_tell_what_travels_not_what_lies_on_disk(own_files: Site) -> None:
    (own_files.root / "static/html/index.html").write_text("@facts@")
    build = own_files.root / "build"

    facts = msgspec.json.decode((await ask(own_files.app, "/")).body)

    compressed = build / "models/parts" / f"{own_files.names['part']}.br"
    assert facts["model_bytes"] == compressed.stat().st_size
    assert facts["stored_bytes"] == 256 * 1200
    assert facts["runtime_bytes"] == sum(
        file.stat().st_size for file in (build / "runtime/11112222").glob("*.br")
    )


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/runtime/11112222/pyodide.mjs", "text/javascript; charset=utf-8"),
        ("/runtime/11112222/pyodide.asm.wasm", "application/wasm"),
        ("/vendor/33334444/ui.js", "text/javascript; charset=utf-8"),
        ("/models/manifests/{digest}.json", "application/json"),
        ("/models/parts/{part}", "application/octet-stream"),
    ],
)
async def test_a_built_file_is_immutable_and_comes_compressed(
    site: Site, path: str, kind: str
) -> None:
    path = path.format(**site.names)
    plain = await ask(site.app, path)
    br = await ask(site.app, path, accept_encoding="br")
    head = await ask(site.app, path, method="HEAD", accept_encoding="br")
    again = await ask(site.app, path, accept_encoding="br", if_none_match=br.headers["etag"])

    assert plain.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert plain.headers["content-type"] == br.headers["content-type"] == kind
    assert br.headers["content-encoding"] == "br"
    assert br.headers["vary"] == "accept-encoding"
    assert brotli.decompress(br.body) == plain.body
    assert plain.headers["etag"] != br.headers["etag"]
    assert (head.headers, head.body) == (br.headers, b"")
    assert head.headers["content-length"] == str(len(br.body))
    assert (again.status, again.body) == (304, b"")


async def test_a_part_larger_than_a_chunk_arrives_whole(site: Site) -> None:
    reply = await ask(site.app, f"/models/parts/{site.names['part']}")

    assert reply.complete
    assert reply.body == bytes(range(256)) * 1200


@pytest.mark.parametrize(
    "path",
    [
        "/static/../pyproject.toml",
        "/static/html/index.html",
        "/static//etc/passwd",
        "/runtime/11112222/../../index.json",
        "/runtime/../index.json",
        "/runtime/11112222/.hidden",
        "/runtime/11112222/pyodide.mjs.br",
        "/runtime/11112222/pyodide.mjs/",
        "/runtime/11112222/pyodide.mjs\n",
        "/vendor/11112222/pyodide.mjs",
        "/models/parts/..%2f..%2findex.json",
        "/models/parts/../../index.json",
        "/models/parts/" + "0" * 64,
        "/index.json",
        "/volunteer/",
        "/nothing",
    ],
)
async def test_whatever_is_not_a_known_file_is_not_found(site: Site, path: str) -> None:
    reply = await ask(site.app, path)

    assert reply.status == 404


async def test_pages_are_for_reading_only(site: Site) -> None:
    reply = await ask(site.app, "/", method="POST")

    assert (reply.status, reply.headers["allow"]) == (405, "GET, HEAD")


async def test_stats_are_public_counts_asked_once_a_second(site: Site) -> None:
    app = site.app
    first = await ask(app, "/stats")
    await ask(app, "/stats")
    asked = site.asked
    site.now = 1.0
    await ask(app, "/stats")

    assert msgspec.json.decode(first.body) == {
        "nodes_online": 24,
        "jobs_answered": 19_515,
        "jobs_answered_edge": 18_204,
        "jobs_answered_cloud": 1_311,
        "cpu_worker": "ready",
        "p50_ms": None,
    }
    assert first.headers["cache-control"] == "no-store"
    assert (asked, site.asked) == (1, 2)


def test_serving_without_a_build_says_what_to_run(tmp_path: Path) -> None:
    site = Site(tmp_path, {})
    (tmp_path / "static").mkdir()
    (tmp_path / "static/a.js").write_text("")

    with pytest.raises(CatalogueError, match="make setup"):
        _ = site.app


@pytest.mark.parametrize(
    ("accepted", "chosen"),
    [
        (None, "identity"),
        ("", "identity"),
        ("br", "br"),
        ("gzip, deflate, br, zstd", "br"),
        ("gzip;q=1.0, br;q=0", "gzip"),
        ("*", "br"),
        ("*;q=0", "identity"),
        ("BR", "br"),
        ("br;q=nonsense, gzip", "gzip"),
    ],
)
def test_the_encoding_is_one_that_the_client_allows(accepted: str | None, chosen: str) -> None:
    assert choose_encoding(accepted, ("br", "gzip")) == chosen


def test_unknown_kinds_of_file_are_bytes() -> None:
    assert media_type("a" * 64) == "application/octet-stream"
    assert media_type("x.whl") == "application/zip"
