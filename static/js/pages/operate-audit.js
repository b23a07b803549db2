// @ts-check
/** The audit log: who ordered what, and when. */
import { html } from '/vendor/@/ui.js';
import { usePolled } from '../lib/desk.js';
import { moment } from '../lib/format.js';
import { Icon } from '../lib/shell.js';
import { brief } from '../lib/words.js';
import { orders } from './operate-orders.js';

/** @typedef {{at: number, who: string, action: string, target: string, detail: string}} Action */

const EVERY_MS = 5_000;
const READ = 100;

/** @type {Record<string, string>} */
const SENTENCES = {
  drain: 'Drained node',
  resume: 'Resumed node',
  quarantine: 'Quarantined identity',
  ban: 'Banned identity',
  release: 'Released identity',
};

/** @param {{one: Action}} props */
const Row = ({ one }) => html`<tr><th scope="row"><span class="num">${moment(one.at)}</span></th><td><span class="mono">${one.who}</span></td>
  <td class="wrap">${SENTENCES[one.action] ?? one.action} <span class="mono" title=${one.target}>${brief(one.target)}</span>${one.detail && html`<span class="muted small after">${one.detail}</span>`}</td></tr>`;

/** @param {{paused: boolean}} props */
export function AuditLog({ paused }) {
  const { value, error } = usePolled(`actions?limit=${READ}`, { everyMs: EVERY_MS, still: paused, revision: orders.value });
  /** @type {Action[]} */
  const rows = value?.data ?? [];
  return html`<section class="card" aria-labelledby="audit-h"><header><h2 id="audit-h">Orders of operators</h2></header>
    ${error && html`<p class="note c-warn inset" role="status"><${Icon} name="triangle-alert" /><span>${error}</span></p>`}
    <div class="tablewrap"><div class="scroll" tabindex="0" role="region" aria-label="Table of orders">${rows.length > 0 && html`<table class="tbl audit"><caption class="sr">Orders, newest first</caption>
      <thead><tr><th scope="col">When</th><th scope="col">Who</th><th scope="col">What</th></tr></thead>
      <tbody>${rows.map((one, index) => html`<${Row} key=${rows.length - index} one=${one} />`)}</tbody></table>`}
      ${value && rows.length === 0 && html`<p class="muted small empty">No order has been given yet. Draining, quarantine, ban and release are kept here, with who ordered them.</p>`}</div></div></section>`;
}
