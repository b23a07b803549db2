// @ts-check
/** One row of the table of nodes, and the badge that says how far a node is trusted. */
import { html } from '/vendor/@/ui.js';
import { STATES } from '../lib/fleet.js';
import { count, duration, rate } from '../lib/format.js';
import { Icon } from '../lib/shell.js';
import { LEVELS } from '../lib/words.js';
import { askFor } from './operate-orders.js';

/** @typedef {import('../lib/fleet.js').NodeRow} NodeRow */
/** @typedef {import('../lib/fleet.js').Level} Level */

export const KINDS = { browser: 'Browser tab', native: 'Native node', cpu: 'CPU worker' };

/** @param {{level: Level}} props */
export const Badge = ({ level }) => html`<span class="pill"><i class=${`dot ${LEVELS[level].shape} c-${LEVELS[level].tone}`}></i>${LEVELS[level].word}</span>`;

/** What audits said of a node. @param {{agreed: number, disagreed: number}} row */
export const audits = ({ agreed, disagreed }) =>
  (agreed + disagreed === 0 ? 'Never audited' : `${count(agreed)} agreed, ${count(disagreed)} disagreed`);

/** @param {{row: NodeRow}} props */
const Kind = ({ row }) => html`<span class="muted" title=${row.agent}>${KINDS[row.kind]}${row.agent && html`<span class="agent">${row.agent}</span>`}</span>`;

/** @param {{row: NodeRow}} props */
function Orders({ row }) {
  const open = () => askFor({ ...row, note: `${KINDS[row.kind]}, ${LEVELS[row.level].word.toLowerCase()}. ${audits(row)}.` });
  return html`<button class="btn icon quiet small" type="button" aria-haspopup="dialog" aria-label=${`Orders for ${row.id}`} onClick=${open}><${Icon} name="more" /></button>`;
}

/** @param {{row: NodeRow, at: number}} props */
export function Row({ row, at }) {
  const state = STATES[row.state];
  const shape = row.kind === 'browser' ? '' : 'square';
  return html`<tr><th scope="row"><span class="mono">${row.id}</span><${Kind} row=${row} /></th>
    <td><span class="pill"><i class=${`dot ${shape} c-${row.kind === 'cpu' && state.tone === 'ok' ? 'violet' : state.tone}`}></i>${state.word}</span>
      ${row.reason && html`<span class="muted why" title=${row.reason}>${row.reason}</span>`}</td>
    <td>${row.kind === 'cpu' ? html`<span class="muted">Ours</span>` : html`<${Badge} level=${row.level} />
      <span class=${`why num ${row.disagreed ? 't-bad' : 'muted'}`}>${audits(row)}</span>`}</td>
    <td class="x">${row.region || html`<span class="muted">${row.kind === 'cpu' ? '–' : 'Unknown'}</span>`}</td>
    <td class="r num x" title=${row.models.join('\n')}>${row.models.length || '–'}</td>
    <td class="r num x">${row.tokens_per_s === null ? '–' : rate(row.tokens_per_s)}</td>
    <td class="r num x">${row.rtt_ms === null ? '–' : html`${rate(row.rtt_ms)} <span class="muted">ms</span>`}</td>
    <td class="x"><span class="meter num"><progress class="bar" max=${row.slots || 1} value=${row.slots_used} aria-label="Slots in use"></progress>${row.slots_used}/${row.slots}</span></td>
    <td class="r num x">${count(row.jobs_done)}</td>
    <td class=${`r num x${row.failures ? ' t-bad' : ''}`}>${count(row.failures)}</td>
    <td class="r num x">${count(row.reroutes)}</td>
    <td class="r num x muted">${duration(at - row.since)}</td>
    <td class="act">${row.kind !== 'cpu' && html`<${Orders} row=${row} />`}</td></tr>`;
}
