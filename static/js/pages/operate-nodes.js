// @ts-check
/** The table of nodes: sorted, filtered and paged in the browser. */
import { html, signal } from '/vendor/@/ui.js';
import { CopyLine } from '../lib/code.js';
import { STATES } from '../lib/fleet.js';
import { count, plural } from '../lib/format.js';
import { useHeld, useKeptOrder } from '../lib/held.js';
import { Icon } from '../lib/shell.js';
import { clicked, matching, paged, sorted } from '../lib/table.js';
import { LEVELS } from '../lib/words.js';
import { KINDS, Row } from './operate-node-row.js';

/** @typedef {import('../lib/fleet.js').NodeRow} NodeRow */
/** @typedef {import('../lib/fleet.js').Totals} Totals */

const PAGE_ROWS = 15;

/** A column that is `extra` gives way on narrow screens. */
const COLUMNS = [
  { key: 'id', title: 'Node' },
  { key: 'state', title: 'State' },
  { key: 'level', title: 'Trust' },
  { key: 'region', title: 'Region', extra: true },
  { key: 'models', title: 'Models', numeric: true, extra: true },
  { key: 'tokens_per_s', title: 'Tokens/s', numeric: true, extra: true },
  { key: 'rtt_ms', title: 'RTT', numeric: true, extra: true },
  { key: 'slots', title: 'Slots in use', extra: true },
  { key: 'jobs_done', title: 'Jobs', numeric: true, extra: true },
  { key: 'failures', title: 'Failures', numeric: true, extra: true },
  { key: 'reroutes', title: 'Reroutes', numeric: true, extra: true },
  { key: 'since', title: 'Connected', numeric: true, extra: true },
];

const FILTERS = [
  { id: '', title: 'All' },
  { id: 'active', title: 'Active', tone: 'ok' },
  { id: 'limited', title: 'Limited', tone: 'warn' },
  { id: 'paused', title: 'Paused', tone: 'off' },
  { id: 'loading', title: 'Loading', tone: 'info' },
];

// What the operator chose outlasts a look at another section.
const sort = signal({ key: 'jobs_done', descending: true });
const query = signal('');
const group = signal('');
const wanted = signal(0);

/** @param {NodeRow} row @param {string} key */
export function value(row, key) {
  switch (key) {
    case 'models': return row.models.length;
    case 'slots': return row.slots ? row.slots_used / row.slots : null;
    case 'region': return row.region || null;
    case 'since': return -row.since; // the longest connected is the oldest
    default: return /** @type {any} */ (row)[key];
  }
}

/** @param {NodeRow} row */
const text = row => [row.id, row.identity, KINDS[row.kind], row.agent, row.backend, row.region, LEVELS[row.level].word, STATES[row.state].word, row.reason, ...row.models].join(' ');

/** @param {{column: typeof COLUMNS[number]}} props */
function Heading({ column }) {
  const here = sort.value.key === column.key;
  const order = here ? (sort.value.descending ? 'descending' : 'ascending') : 'none';
  return html`<th scope="col" aria-sort=${order} class=${`${column.numeric ? 'r' : ''}${column.extra ? ' x' : ''}`}>
    <button type="button" onClick=${() => { sort.value = clicked(sort.value, column.key, Boolean(column.numeric)); }}>${column.title}
      <${Icon} name=${here ? (sort.value.descending ? 'down' : 'up') : 'sort'} /></button></th>`;
}

const Nobody = () => html`<div class="nobody"><h3>No volunteer is connected</h3>
  <p class="muted small">Open <a href="/volunteer">the volunteer page</a> in a browser, or start a native node:</p>
  <${CopyLine} text=${`zerogpu node --url ${location.origin}`} label="command" /></div>`;

/** @param {{edge: number, totals: Totals | null}} props  Of a large fleet the server sends the rows that matter. */
const Partial = ({ edge, totals }) => html`<p class="muted small partial num">${totals && edge < totals.nodes
  && `${count(edge)} of ${count(totals.nodes)} nodes are listed: first those in quarantine or in doubt, then those that have done most.`}</p>`;

const Filters = () => html`<div class="end">
  <div class="chips" role="group" aria-label="Filter by state">${FILTERS.map(({ id, title, tone }) => html`<button key=${id} type="button" class="chip"
    aria-pressed=${String(group.value === id)} onClick=${() => { group.value = id; wanted.value = 0; }}>${tone && html`<i class=${`dot c-${tone}`}></i>`}${title}</button>`)}</div>
  <label class="search"><${Icon} name="search" /><span class="sr">Search nodes</span>
    <input type="search" placeholder="Search node, model, reason" value=${query.value}
      onInput=${(/** @type {any} */ event) => { query.value = event.target.value; wanted.value = 0; }} /></label></div>`;

/** @param {{nodes: Map<string, NodeRow>, at: number, totals: Totals | null}} props */
export function Nodes({ nodes, at, totals }) {
  const { held, hold } = useHeld();
  const all = [...nodes.values()];
  const found = sorted(
    matching(all.filter(row => !group.value || STATES[row.state].group === group.value), query.value, text), sort.value, value);
  const { rows, page, first, last, from } = paged(found, wanted.value, PAGE_ROWS);
  const list = JSON.stringify([sort.value, query.value, group.value, page]);
  const drawn = useKeptOrder(rows, held, list, nodes);
  const turn = (/** @type {number} */ to) => () => { wanted.value = to; };
  return html`<section class="card c12" aria-labelledby="nodes-h"><header><h2 id="nodes-h">Nodes</h2><${Filters} /></header>
    ${all.length > 0 && html`<div class="tablewrap"><div class="scroll" tabindex="0" role="region" aria-label="Table of nodes">
      <table class="tbl"><caption class="sr">Nodes, sortable by column</caption>
        <thead><tr>${COLUMNS.map(column => html`<${Heading} key=${column.key} column=${column} />`)}<th scope="col"><span class="sr">Orders</span></th></tr></thead>
        <tbody ...${hold}>${drawn.map(row => html`<${Row} key=${row.id} row=${row} at=${at} />`)}</tbody></table></div></div>
    <div class="pager"><span class="num">${found.length === 0 ? 'No node matches' : found.length <= PAGE_ROWS
        ? plural(found.length, { one: '# node', other: '# nodes' })
        : `${count(from + 1)}–${count(from + rows.length)} of ${count(found.length)}`}</span>
      <${Partial} edge=${all.filter(row => row.kind !== 'cpu').length} totals=${totals} />
      ${found.length > PAGE_ROWS && html`<div class="end"><button class="btn" type="button" disabled=${first} onClick=${turn(page - 1)}>Previous</button>
        <button class="btn" type="button" disabled=${last} onClick=${turn(page + 1)}>Next</button></div>`}</div>`}
    ${totals && all.every(row => row.kind === 'cpu') && html`<${Nobody} />`}</section>`;
}
