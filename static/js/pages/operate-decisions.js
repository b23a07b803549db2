// @ts-check
/** Where jobs went and why, newest first; it stands still while somebody reads it. */
import { html, signal } from '/vendor/@/ui.js';
import { usePolled } from '../lib/desk.js';
import { count, plural, span, time } from '../lib/format.js';
import { useHeld } from '../lib/held.js';
import { Icon } from '../lib/shell.js';
import { matching, paged } from '../lib/table.js';
import { outcomeOf, purposeOf } from '../lib/words.js';
import { Details, keyOf, Outcome, Skipped } from './operate-decision.js';
import { TermBar, TermKeys, TermLine } from './operate-terms.js';

/** @typedef {import('./operate-decision.js').Decision} Decision */

const EVERY_MS = 2_000;
const READ = 100;
const PAGE_ROWS = 20;

const CHECKS = new Set(['audit', 'replay']);
const FILTERS = [
  { id: '', title: 'All', shows: () => true },
  { id: 'customers', title: 'For customers', shows: (/** @type {Decision} */ one) => !CHECKS.has(one.purpose) },
  { id: 'checks', title: 'Checks of nodes', shows: (/** @type {Decision} */ one) => CHECKS.has(one.purpose) },
  { id: 'unplaced', title: 'Not placed', shows: (/** @type {Decision} */ one) => one.node_id === null },
];

const filter = signal('');
const query = signal('');
const wanted = signal(0);
const opened = signal(/** @type {Decision | null} */ (null));

/** @param {Decision} one */
const text = one => [one.job, one.request_id, one.model, one.project_id, one.node_id ?? 'nobody', purposeOf(one.purpose).word, outcomeOf(one.outcome).word].join(' ');

/** @param {{one: Decision}} props */
function Row({ one }) {
  const open = () => { opened.value = one; };
  return html`<tr onClick=${open}><th scope="row"><button type="button" class="link num" aria-haspopup="dialog" aria-label=${`Job ${one.job} in full`}
      onClick=${(/** @type {Event} */ event) => { event.stopPropagation(); open(); }}>${time(one.at)}</button><span class="muted">${purposeOf(one.purpose).word}</span></th>
    <td>${one.node_id ? html`<span class="mono">${one.node_id}</span>` : html`<b class="t-warn">Nobody</b>`}<span class="muted why clip" title=${one.model}>${one.model}</span></td>
    <td class="x"><span class="mono clip" title=${one.project_id}>${one.project_id || '–'}</span></td>
    <td class="because">${one.node_id && html`<${TermBar} terms=${one} /><${TermLine} terms=${one} />`}<${Skipped} skipped=${one.skipped} /></td>
    <td class="r num x">${span(one.waited_s)}</td>
    <td class="r num x">${one.node_id ? span(one.finish_s) : '–'}</td>
    <td class="r num x">${one.took_s === null ? '–' : span(one.took_s)}</td>
    <td class="x"><${Outcome} decision=${one} /></td></tr>`;
}

/** @param {{paused: boolean, held: boolean}} props */
const Freshness = ({ paused, held }) => html`<span class="muted small state">${paused ? 'Paused' : held ? 'Stands still while you are in it' : 'Read again every 2 s'}</span>`;

/** @param {{known: boolean}} props */
const Nothing = ({ known }) => html`<p class="muted small empty">${known
  ? 'No decision matches.'
  : 'No job has been placed since the server started. Send a request, and where it went stands here.'}</p>`;

/** @param {{paused: boolean}} props */
export function Decisions({ paused }) {
  const { held, hold } = useHeld();
  const { value, error } = usePolled(`decisions?limit=${READ}`, { everyMs: EVERY_MS, still: paused || held || opened.value !== null });
  /** @type {Decision[]} */
  const all = value?.data ?? [];
  const shows = FILTERS.find(({ id }) => id === filter.value)?.shows ?? FILTERS[0].shows;
  const found = matching(all.filter(shows), query.value, text);
  const { rows, page, first, last, from } = paged(found, wanted.value, PAGE_ROWS);
  const turn = (/** @type {number} */ to) => () => { wanted.value = to; };
  return html`<section class="card c12" aria-labelledby="decisions-h"><header><h2 id="decisions-h">Placements</h2>
      <${Freshness} paused=${paused} held=${held} /><div class="end">
      <div class="chips" role="group" aria-label="Filter by purpose">${FILTERS.map(({ id, title }) => html`<button key=${id} type="button" class="chip"
        aria-pressed=${String(filter.value === id)} onClick=${() => { filter.value = id; wanted.value = 0; }}>${title}</button>`)}</div>
      <label class="search"><${Icon} name="search" /><span class="sr">Search decisions</span>
        <input type="search" placeholder="Search job, model, node" value=${query.value}
          onInput=${(/** @type {any} */ event) => { query.value = event.target.value; wanted.value = 0; }} /></label></div></header>
    <${TermKeys} />
    ${error && html`<p class="note c-warn inset" role="status"><${Icon} name="triangle-alert" /><span>${error}</span></p>`}
    <div class="tablewrap"><div class="scroll" tabindex="0" role="region" aria-label="Table of decisions" ...${hold}>
      ${rows.length > 0 && html`<table class="tbl decisions"><caption class="sr">Decisions, newest first</caption>
        <thead><tr><th scope="col">When</th><th scope="col">Went to</th><th scope="col" class="x">Project</th><th scope="col">Why: the expected time</th>
          <th scope="col" class="r x">Waited</th><th scope="col" class="r x">Expected</th><th scope="col" class="r x">Took</th><th scope="col" class="x">Outcome</th></tr></thead>
        <tbody>${rows.map(one => html`<${Row} key=${keyOf(one)} one=${one} />`)}</tbody></table>`}
      ${value && rows.length === 0 && html`<${Nothing} known=${all.length > 0} />`}</div></div>
    ${rows.length > 0 && html`<div class="pager"><span class="num">${found.length <= PAGE_ROWS
        ? plural(found.length, { one: '# placement', other: '# placements' })
        : `${count(from + 1)}–${count(from + rows.length)} of the last ${count(found.length)}`}</span>
      ${found.length > PAGE_ROWS && html`<div class="end"><button class="btn" type="button" disabled=${first} onClick=${turn(page - 1)}>Previous</button>
        <button class="btn" type="button" disabled=${last} onClick=${turn(page + 1)}>Next</button></div>`}</div>`}
    ${opened.value && html`<${Details} decision=${all.find(one => opened.value && keyOf(one) === keyOf(opened.value)) ?? opened.value} onClose=${() => { opened.value = null; }} />`}</section>`;
}
