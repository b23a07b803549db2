// @ts-check
/** Who is out of service or in doubt, on what evidence, and the way back. */
import { html, signal, useState } from '/vendor/@/ui.js';
import { standingPath, usePolled } from '../lib/desk.js';
import { count, moment } from '../lib/format.js';
import { Icon } from '../lib/shell.js';
import { brief, checkOf, LEVELS } from '../lib/words.js';
import { audits, Badge } from './operate-node-row.js';
import { askFor, orders } from './operate-orders.js';

/** @typedef {import('../lib/fleet.js').NodeRow} NodeRow */
/** @typedef {{identity: string, runtime: string, level: import('../lib/fleet.js').Level, agreed: number, disagreed: number, reason: string, at: number}} Standing */
/** @typedef {{at: number, node_id: string, model: string, kind: string, min_cosine: number, reason: string}} Evidence */

const EVERY_MS = 5_000;
const PAGE_ROWS = 20;
const COLUMNS = 6;

const LISTS = [
  { id: 'quarantined', title: 'In quarantine', none: 'Nobody is in quarantine. A node gets there by two wrong answers, or by your order.' },
  { id: 'banned', title: 'Banned', none: 'Nobody is banned. Only an operator bans.' },
  { id: 'disagreed', title: 'Disagreed', none: 'No audit has found a wrong answer.' },
];

const only = signal('quarantined');
const from = signal(0);

/** @param {{totals: import('../lib/fleet.js').Totals | null}} props */
const Figures = ({ totals }) => html`<section class="card pad" aria-label="Trust in figures"><dl class="figures four num">${[
  ['Newcomers connected', totals?.newcomers], ['In quarantine, connected', totals?.quarantined],
  ['Audits since the start', totals?.audited], ['Wrong answers found', totals?.disagreed],
].map(([name, value]) => html`<div key=${name}><dt>${name}</dt><dd>${value === undefined ? '–' : count(Number(value))}</dd></div>`)}</dl></section>`;

/** @param {{standing: Standing, paused: boolean}} props */
function Proof({ standing, paused }) {
  const { value, error } = usePolled(standingPath(standing), { everyMs: EVERY_MS, still: paused, revision: orders.value });
  /** @type {Evidence[]} */
  const evidence = value?.evidence ?? [];
  return html`<tr class="below"><td class="w" colspan=${COLUMNS}>${error && html`<p class="t-bad small">${error}</p>`}
    ${value && evidence.length === 0 && html`<p class="muted small">No wrong answer of this identity is on record.</p>`}
    ${evidence.length > 0 && html`<table class="evidence num"><caption class="sr">Wrong answers of ${brief(standing.identity)}, newest first</caption>
      <thead><tr><th scope="col">When</th><th scope="col">Found by</th><th scope="col">Model</th><th scope="col" class="r">Least cosine</th><th scope="col">What was wrong</th><th scope="col">Node</th></tr></thead>
      <tbody>${evidence.map((one, index) => html`<tr key=${index}><td>${moment(one.at)}</td><td>${checkOf(one.kind)}</td><td><span class="mono">${one.model}</span></td>
        <td class="r" data-label="Least cosine">${one.min_cosine.toFixed(4)}</td><td class="wrap">${one.reason}</td><td data-label="Node"><span class="mono">${one.node_id}</span></td></tr>`)}</tbody></table>`}</td></tr>`;
}

/** @param {{standing: Standing, here: string[], paused: boolean}} props */
function Row({ standing, here, paused }) {
  const [open, setOpen] = useState(false);
  const short = brief(standing.identity);
  const out = standing.level === 'quarantined' || standing.level === 'banned';
  const subject = { id: '', ...standing, note: `${LEVELS[standing.level].word}. ${audits(standing)}.` };
  return html`<tr><th scope="row"><span class="mono" title=${standing.identity}>${short}</span><span class="muted">${standing.runtime}</span></th>
      <td class="w"><${Badge} level=${standing.level} /><span class=${`why num ${standing.disagreed ? 't-bad' : 'muted'}`}>${audits(standing)}</span></td>
      <td class="wrap w">${standing.reason || html`<span class="muted">–</span>`}</td>
      <td class="num muted" data-label="Changed">${moment(standing.at)}</td>
      <td data-label="Connected as">${here.length ? html`<span class="mono">${here.join(', ')}</span>` : html`<span class="muted">Not connected</span>`}</td>
      <td class="act w"><span class="acts"><button class="btn" type="button" aria-expanded=${String(open)} aria-label=${`Evidence against ${short}`} onClick=${() => setOpen(!open)}>Evidence</button>
        ${out && html`<button class="btn" type="button" aria-haspopup="dialog" aria-label=${`Undo: release ${short}`} onClick=${() => askFor(subject, 'release')}>Undo</button>`}
        <button class="btn icon quiet" type="button" aria-haspopup="dialog" aria-label=${`Orders for ${short}`} onClick=${() => askFor(subject)}><${Icon} name="more" /></button></span></td></tr>
    ${open && html`<${Proof} standing=${standing} paused=${paused} />`}`;
}

/** Who is connected of each identity. @param {Iterable<NodeRow>} nodes */
function connected(nodes) {
  /** @type {Map<string, string[]>} */
  const found = new Map();
  for (const { id, identity, runtime } of nodes) found.set(`${identity} ${runtime}`, [...(found.get(`${identity} ${runtime}`) ?? []), id]);
  return found;
}

/** @param {{fleet: import('../lib/fleet.js').Fleet, paused: boolean}} props */
export function Trust({ fleet, paused }) {
  const { value, error } = usePolled(`standings?only=${only.value}&limit=${PAGE_ROWS}&offset=${from.value}`,
    { everyMs: EVERY_MS, still: paused, revision: orders.value });
  /** @type {Standing[]} */
  const rows = value?.data ?? [];
  const here = connected(fleet.nodes.values());
  const list = LISTS.find(({ id }) => id === only.value) ?? LISTS[0];
  const turn = (/** @type {number} */ by) => () => { from.value = Math.max(0, from.value + by); };
  return html`<${Figures} totals=${fleet.totals} />
  <section class="card" aria-labelledby="standings-h"><header><h2 id="standings-h">Identities</h2>
      <fieldset class="end seg"><legend class="sr">Which identities</legend>${LISTS.map(({ id, title }) => html`<label key=${id}>
        <input type="radio" name="standings" checked=${id === only.value} onChange=${() => { only.value = id; from.value = 0; }} /><span>${title}</span></label>`)}</fieldset></header>
    ${error && html`<p class="note c-warn inset" role="status"><${Icon} name="triangle-alert" /><span>${error}</span></p>`}
    <div class="tablewrap"><div class="scroll" tabindex="0" role="region" aria-label="Table of identities">
      ${rows.length > 0 && html`<table class="tbl stacks"><caption class="sr">${list.title}, last changed first</caption>
        <thead><tr><th scope="col">Identity</th><th scope="col">Trust</th><th scope="col">Reason</th><th scope="col">Changed</th><th scope="col">Connected as</th><th scope="col"><span class="sr">Evidence and orders</span></th></tr></thead>
        <tbody>${rows.map(one => html`<${Row} key=${`${one.identity} ${one.runtime}`} standing=${one} paused=${paused} here=${here.get(`${one.identity} ${one.runtime}`) ?? []} />`)}</tbody></table>`}
      ${value && rows.length === 0 && html`<p class="muted small empty">${from.value ? 'There are no more.' : list.none}</p>`}</div></div>
    ${(from.value > 0 || value?.more) && html`<div class="pager"><div class="end"><button class="btn" type="button" disabled=${from.value === 0} onClick=${turn(-PAGE_ROWS)}>Previous</button>
      <button class="btn" type="button" disabled=${!value?.more} onClick=${turn(PAGE_ROWS)}>Next</button></div></div>`}</section>`;
}
