// @ts-check
/** The table of nodes: sorted, filtered and paged in the browser. */
import { html, useState } from '/vendor/@/ui.js';
import { CopyLine } from '../lib/code.js';
import { STATES } from '../lib/fleet.js';
import { count, duration, plural, rate } from '../lib/format.js';
import { Icon } from '../lib/shell.js';
import { clicked, matching, paged, sorted } from '../lib/table.js';

/** @typedef {import('../lib/fleet.js').NodeRow} NodeRow */

const PAGE_ROWS = 15;

/** A column that is `extra` gives way on narrow screens. */
const COLUMNS = [
  { key: 'id', title: 'Node' },
  { key: 'state', title: 'State' },
  { key: 'models', title: 'Models ready', numeric: true, extra: true },
  { key: 'tokens_per_s', title: 'Tokens/s', numeric: true },
  { key: 'rtt_ms', title: 'RTT', numeric: true, extra: true },
  { key: 'slots', title: 'Slots in use', extra: true },
  { key: 'jobs_done', title: 'Jobs', numeric: true },
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

const KINDS = { browser: 'Browser tab', native: 'Native node', cpu: 'CPU worker' };

/** @param {NodeRow} row @param {string} key */
export function value(row, key) {
  switch (key) {
    case 'models': return row.models.length;
    case 'slots': return row.slots ? row.slots_used / row.slots : null;
    case 'since': return -row.since; // the longest connected is the oldest
    default: return /** @type {any} */ (row)[key];
  }
}

/** @param {NodeRow} row */
const text = row => [row.id, KINDS[row.kind], row.agent, row.backend, STATES[row.state].word, row.reason, ...row.models].join(' ');

/** @param {{row: NodeRow}} props */
const Kind = ({ row }) => html`<span class="muted" title=${row.agent}>${KINDS[row.kind]}${row.agent && html`<span class="agent">${row.agent}</span>`}</span>`;

/** @param {{row: NodeRow, at: number}} props */
function Row({ row, at }) {
  const state = STATES[row.state];
  const shape = row.kind === 'browser' ? '' : 'square';
  return html`<tr><th scope="row"><span class="mono">${row.id}</span><${Kind} row=${row} /></th>
    <td><span class="pill"><i class=${`dot ${shape} c-${row.kind === 'cpu' && state.tone === 'ok' ? 'violet' : state.tone}`}></i>${state.word}</span>
      ${row.reason && html`<span class="muted why" title=${row.reason}>${row.reason}</span>`}</td>
    <td class="r num x" title=${row.models.join('\n')}>${row.models.length || '–'}</td>
    <td class="r num">${row.tokens_per_s === null ? '–' : rate(row.tokens_per_s)}</td>
    <td class="r num x">${row.rtt_ms === null ? '–' : html`${rate(row.rtt_ms)} <span class="muted">ms</span>`}</td>
    <td class="x"><span class="meter num"><progress class="bar" max=${row.slots || 1} value=${row.slots_used} aria-label="Slots in use"></progress>${row.slots_used}/${row.slots}</span></td>
    <td class="r num">${count(row.jobs_done)}</td>
    <td class=${`r num x${row.failures ? ' t-bad' : ''}`}>${count(row.failures)}</td>
    <td class="r num x">${count(row.reroutes)}</td>
    <td class="r num x muted">${duration(at - row.since)}</td></tr>`;
}

/** @param {{column: typeof COLUMNS[number], sort: import('../lib/table.js').Sort, onSort: (sort: import('../lib/table.js').Sort) => void}} props */
function Heading({ column, sort, onSort }) {
  const here = sort.key === column.key;
  const order = here ? (sort.descending ? 'descending' : 'ascending') : 'none';
  return html`<th scope="col" aria-sort=${order} class=${`${column.numeric ? 'r' : ''}${column.extra ? ' x' : ''}`}>
    <button type="button" onClick=${() => onSort(clicked(sort, column.key, Boolean(column.numeric)))}>${column.title}
      <${Icon} name=${here ? (sort.descending ? 'down' : 'up') : 'sort'} /></button></th>`;
}

const Nobody = () => html`<div class="nobody"><h3>No volunteer is connected</h3>
  <p class="muted small">Open <a href="/volunteer">the volunteer page</a> in a browser, or start a native node:</p>
  <${CopyLine} text=${`zerogpu node --url ${location.origin}`} label="command" /></div>`;

/** @param {{nodes: Map<string, NodeRow>, at: number, known: boolean}} props  `known`: the first message has come */
export function Nodes({ nodes, at, known }) {
  const [sort, setSort] = useState({ key: 'jobs_done', descending: true });
  const [query, setQuery] = useState('');
  const [group, setGroup] = useState('');
  const [wanted, setPage] = useState(0);
  const all = [...nodes.values()];
  const found = sorted(
    matching(all.filter(row => !group || STATES[row.state].group === group), query, text), sort, value);
  const { rows, page, first, last, from } = paged(found, wanted, PAGE_ROWS);
  return html`<section class="card c12" aria-labelledby="nodes-h"><header><h2 id="nodes-h">Nodes</h2><div class="end">
      <div class="chips" role="group" aria-label="Filter by state">${FILTERS.map(({ id, title, tone }) => html`<button key=${id} type="button" class="chip"
        aria-pressed=${String(group === id)} onClick=${() => { setGroup(id); setPage(0); }}>${tone && html`<i class=${`dot c-${tone}`}></i>`}${title}</button>`)}</div>
      <label class="search"><${Icon} name="search" /><span class="sr">Search nodes</span>
        <input type="search" placeholder="Search node, model, reason" value=${query} onInput=${(/** @type {any} */ event) => { setQuery(event.target.value); setPage(0); }} /></label></div></header>
    ${all.length > 0 && html`<div class="tablewrap"><div class="scroll" tabindex="0" role="region" aria-label="Table of nodes">
      <table class="tbl"><caption class="sr">Nodes, sortable by column</caption>
        <thead><tr>${COLUMNS.map(column => html`<${Heading} key=${column.key} column=${column} sort=${sort} onSort=${setSort} />`)}</tr></thead>
        <tbody>${rows.map(row => html`<${Row} key=${row.id} row=${row} at=${at} />`)}</tbody></table></div></div>
    <div class="pager"><span class="num">${found.length === 0 ? 'No node matches' : found.length <= PAGE_ROWS
        ? plural(found.length, { one: '# node', other: '# nodes' })
        : `${count(from + 1)}–${count(from + rows.length)} of ${count(found.length)}`}</span>
      ${found.length > PAGE_ROWS && html`<div class="end"><button class="btn" type="button" disabled=${first} onClick=${() => setPage(page - 1)}>Previous</button>
        <button class="btn" type="button" disabled=${last} onClick=${() => setPage(page + 1)}>Next</button></div>`}</div>`}
    ${known && all.every(row => row.kind === 'cpu') && html`<${Nobody} />`}</section>`;
}
