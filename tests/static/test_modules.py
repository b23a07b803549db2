"""The pure modules of the pages, run where they will run: in Chromium."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page

from tests.orchestrator.page_server import REPOSITORY, serve

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.slow]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def page(chromium: Browser) -> AsyncIterator[Page]:
    async with serve(build_dir=REPOSITORY / "build") as served:
        page = await chromium.new_page(base_url=served.url, locale="en-GB")
        await page.goto("/")
        yield page
        await page.close()


async def run(page: Page, module: str, expression: str) -> object:
    """Evaluate ``expression`` with the module's exports in scope as ``m``."""
    return await page.evaluate(
        f"import('/static/js/lib/{module}.js').then(m => ({{ value: {expression} }}).value)"
    )


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        ("m.count(18204)", "18,204"),
        ("m.short(9999)", "9,999"),
        ("m.short(18204)", "18.2k"),
        ("m.rate(9.96)", "10.0"),
        ("m.rate(812.4)", "812"),
        ("m.bytes(29_914_366)", "29.9 MB"),
        ("m.percent(0.125)", "13%"),
        ("m.duration(42.9)", "42s"),
        ("m.duration(185)", "3m 5s"),
        ("m.duration(7200)", "2h"),
        ("m.duration(93_600)", "1d 2h"),
        ("m.duration(-1)", "0s"),
        ("m.ago(0.2)", "now"),
        ("m.plural(1, {one: '# tab', other: '# tabs'})", "1 tab"),
        ("m.plural(1200, {one: '# tab', other: '# tabs'})", "1,200 tabs"),
    ],
)
async def test_numbers_are_written_for_the_visitor(page: Page, expression: str, text: str) -> None:
    assert await run(page, "format", expression) == text


ROWS = "[{n: 'b', v: 2}, {n: 'a', v: null}, {n: 'c', v: 10}, {n: 'd', v: 2}]"


@pytest.mark.parametrize(
    ("key", "descending", "order"),
    [("v", "false", "bdca"), ("v", "true", "cbda"), ("n", "true", "dcba"), ("n", "false", "abcd")],
)
async def test_rows_without_a_value_come_last_and_ties_stay(
    page: Page, key: str, descending: str, order: str
) -> None:
    sort = f"{{key: '{key}', descending: {descending}}}"
    names = f"m.sorted({ROWS}, {sort}, (row, key) => row[key]).map(row => row.n).join('')"

    assert await run(page, "table", names) == order


async def test_every_word_of_a_search_must_occur(page: Page) -> None:
    found = "m.matching(['tab on battery', 'tab', 'native battery'], ' Tab  BATT', row => row)"

    assert await run(page, "table", found) == ["tab on battery"]


async def test_a_page_that_no_longer_exists_becomes_the_last(page: Page) -> None:
    cut = await run(page, "table", "m.paged([1, 2, 3, 4, 5], 9, 2)")

    assert cut == {"rows": [5], "page": 2, "first": False, "last": True, "from": 4}


@pytest.mark.parametrize(("value", "top"), [(0, 1), (1, 1), (1.2, 2), (4, 4), (22, 30), (501, 600)])
async def test_an_axis_ends_at_a_round_number(page: Page, value: float, top: float) -> None:
    assert await run(page, "chart", f"m.roundedUp({value})") == top


async def test_a_gap_in_the_data_is_a_gap_in_the_line(page: Page) -> None:
    path = await run(page, "chart", "m.line([10, null, 5, 0], 10, 4)")

    assert path == "M0.5 0.00M2.5 50.00L3.5 100.00"


async def test_columns_stand_on_those_below_and_end_at_now(page: Page) -> None:
    path = await run(page, "chart", "m.columns([0, 5], [3, 2], 10, 4)")

    assert path == "M3.14 80.00v-50.00h.72V80.00z"


TOTALS = "{answered_edge: %d, answered_cloud: %d, p50_ms: null, p95_ms: null}"
ROW = "{id: 'n_1', connected_s: 5, jobs_done: %d}"


async def test_a_change_replaces_rows_and_counts_the_second(page: Page) -> None:
    told = await run(
        page, "fleet",
        f"""(() => {{
          const first = m.withSnapshot(m.NO_FLEET, {{at: 100, totals: {TOTALS % (10, 1)},
            nodes: [{ROW % 1}, {{id: 'n_2', connected_s: 1}}], events: [{{seq: 1}}, {{seq: 2}}]}});
          const next = m.withChange(first, {{at: 102, totals: {TOTALS % (16, 1)},
            nodes: [{ROW % 7}], gone: ['n_2'], events: [{{seq: 3}}]}});
          return {{rows: [...next.nodes.values()], events: next.events.map(e => e.seq),
            samples: next.samples.map(s => [s.edge, s.cloud]), before: first.nodes.size}};
        }})()""",
    )  # fmt: skip

    assert told == {
        "rows": [{"id": "n_1", "connected_s": 5, "jobs_done": 7, "since": 97}],
        "events": [3, 2, 1],
        "samples": [[3, 0]],
        "before": 2,
    }


async def test_after_a_long_silence_the_chart_begins_anew(page: Page) -> None:
    kept = await run(
        page, "fleet",
        f"""(() => {{
          const said = at => ({{at, totals: {TOTALS % (10, 0)}, nodes: [], events: []}});
          const fleet = m.withChange(m.withSnapshot(m.NO_FLEET, said(1)), said(2));
          return [m.withSnapshot(fleet, said(4)), m.withSnapshot(fleet, said(60))]
            .map(later => later.samples.length);
        }})()""",
    )  # fmt: skip

    assert kept == [1, 0]


async def test_another_server_start_begins_a_new_chart(page: Page) -> None:
    samples = await run(
        page, "fleet",
        f"""(() => {{
          const said = (at, totals, seqs) =>
            ({{at, totals, nodes: [], events: seqs.map(seq => ({{seq}}))}});
          let fleet = m.withSnapshot(m.NO_FLEET, said(1, {TOTALS % (10, 0)}, [9]));
          fleet = m.withChange(fleet, said(2, {TOTALS % (12, 0)}, []));
          fleet = m.withSnapshot(fleet, said(9, {TOTALS % (1, 0)}, [1]));
          return [fleet.samples.length, fleet.events.map(e => e.seq)];
        }})()""",
    )  # fmt: skip

    assert samples == [0, [1]]


@pytest.mark.parametrize(
    "stored",
    ["null", "'{'", "'null'", "'[]'", "'7'", '\'{"limits": {"cpuShare": 9, "threads": "x"}}\''],
)
async def test_a_stored_choice_that_does_not_fit_is_the_default(page: Page, stored: str) -> None:
    choice = await run(page, "consent", f"m.parseChoice({stored}, 8)")

    assert choice == await run(page, "consent", "m.defaults(8)")


async def test_consent_to_older_terms_is_no_consent(page: Page) -> None:
    stored = "JSON.stringify({version: 0, autoStart: true, limits: {cpuShare: 0.8, threads: 2}})"

    choice = await run(page, "consent", f"m.parseChoice({stored}, 8)")

    assert isinstance(choice, dict)
    assert (choice["agreed"], choice["autoStart"]) == (False, False)
    assert (choice["limits"]["cpuShare"], choice["limits"]["threads"]) == (0.8, 2)
