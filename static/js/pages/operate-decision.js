// @ts-check
/** One decision in full: what was to be placed, where it went, every term, who was passed over and why. */
import { html } from '/vendor/@/ui.js';
import { Dialog } from '../lib/dialog.js';
import { moment, plural, span } from '../lib/format.js';
import { grouped, outcomeOf, purposeOf } from '../lib/words.js';
import { TermBar, TermTable } from './operate-terms.js';

/**
 * @typedef {object} Decision  see `orchestrator/domain/fleet.py`
 * @property {string} request_id
 * @property {string} job
 * @property {string} project_id
 * @property {string} model
 * @property {number} at
 * @property {string} purpose
 * @property {string | null} node_id
 * @property {number} tokens
 * @property {number} waited_s
 * @property {number} rtt_s
 * @property {number} backlog_s
 * @property {number} service_s
 * @property {number} cold_load_s
 * @property {number} penalty_s
 * @property {number} finish_s
 * @property {number | null} soonest_s
 * @property {number} considered
 * @property {Record<string, number>} skipped
 * @property {string} outcome
 * @property {number | null} took_s
 */

/** What tells one decision from another: a job is placed more than once, but never the same way. @param {Decision} decision */
export const keyOf = ({ job, purpose, node_id }) => `${job} ${purpose} ${node_id}`;

/** @param {{skipped: Record<string, number>}} props */
export const Skipped = ({ skipped }) => html`<span class="tags">${Object.entries(skipped).map(([group, nodes]) => html`<span key=${group} class="tag num">${grouped(group, nodes)}</span>`)}</span>`;

/** @param {{decision: Decision}} props */
export function Outcome({ decision: { outcome } }) {
  const { word, tone } = outcomeOf(outcome);
  return html`<span class="pill"><i class=${`dot c-${tone}`}></i>${word}</span>`;
}

/** @param {{name: string, children?: unknown}} props */
const Fact = ({ name, children }) => html`<div><dt>${name}</dt><dd>${children}</dd></div>`;

/** @param {{decision: Decision, onClose: () => void}} props */
export function Details({ decision, onClose }) {
  const purpose = purposeOf(decision.purpose);
  const passedOver = Object.keys(decision.skipped).length > 0;
  return html`<${Dialog} title=${`Job ${decision.job}`} onClose=${onClose} wide>
    <dl class="facts num">
      <${Fact} name="Went to">${decision.node_id ? html`<span class="mono">${decision.node_id}</span>` : 'Nobody: no node could take it'}</${Fact}>
      <${Fact} name="Purpose">${purpose.word}<span class="muted">${purpose.means}</span></${Fact}>
      <${Fact} name="Model"><span class="mono">${decision.model}</span></${Fact}>
      <${Fact} name="Project"><span class="mono">${decision.project_id || '–'}</span></${Fact}>
      <${Fact} name="Request"><span class="mono">${decision.request_id || '–'}</span></${Fact}>
      <${Fact} name="Size">${plural(decision.tokens, { one: '# token', other: '# tokens' })}</${Fact}>
      <${Fact} name="Placed">${moment(decision.at)}<span class="muted">after ${span(decision.waited_s)} of waiting</span></${Fact}>
      <${Fact} name="Outcome"><${Outcome} decision=${decision} /><span class="muted">${decision.took_s === null ? 'Not over yet' : `after ${span(decision.took_s)}`}</span></${Fact}>
      <${Fact} name="Compared">${plural(decision.considered, { one: '# node in full', other: '# nodes in full' })}
        ${decision.soonest_s !== null && html`<span class="muted">Of the busy ones the soonest would be done in ${span(decision.soonest_s)}</span>`}</${Fact}>
      <${Fact} name="Passed over">${passedOver ? html`<${Skipped} skipped=${decision.skipped} />` : 'Nobody'}</${Fact}>
    </dl>
    ${decision.node_id && html`<h3>Expected time to the answer</h3><${TermBar} terms=${decision} /><${TermTable} terms=${decision} />`}</${Dialog}>`;
}
