// @ts-check
/** The first row of the dashboard: is it fine? */
import { html } from '/vendor/@/ui.js';
import { count, percent, plural, rate, short } from '../lib/format.js';
import { Icon } from '../lib/shell.js';

/** @typedef {import('../lib/fleet.js').Totals} Totals */

const WORKER = {
  off: { word: 'CPU worker is off', tone: 'off' },
  starting: { word: 'CPU worker is starting', tone: 'info' },
  ready: { word: 'CPU worker is ready', tone: 'ok' },
  restarting: { word: 'CPU worker is restarting', tone: 'bad' },
};

/** @param {{icon: string, label: string, value: string, unit?: string, title?: string, children?: unknown}} props */
const Figure = ({ icon, label, value, unit, title, children }) => html`<div class="card kpi">
  <dt><${Icon} name=${icon} />${label}</dt>
  <dd class="num" title=${title}>${value}${unit && html`<small>${unit}</small>`}</dd>
  <dd class="more num">${children}</dd></div>`;

/** @param {{totals: Totals | null}} props */
export function Figures({ totals }) {
  if (!totals) return html`<dl class="kpis waiting" aria-label="Key figures">${Array.from({ length: 6 }, (_, index) => html`<div key=${index} class="card kpi"></div>`)}</dl>`;
  const answered = totals.answered_edge + totals.answered_cloud;
  const worker = WORKER[totals.cpu_worker];
  const idle = totals.nodes - totals.nodes_active;
  return html`<dl class="kpis" aria-label="Key figures">
    <${Figure} icon="users" label="Volunteers online" value=${short(totals.nodes)}>
      ${totals.quarantined > 0 ? html`<b class="t-bad">${count(totals.quarantined)}</b> in quarantine` : totals.nodes === 0 ? 'Nobody is connected' : idle === 0 ? 'All are active' : plural(idle, { one: '# is not active', other: '# are not active' })}</${Figure}>
    <${Figure} icon="heart-handshake" label="Answered at the edge" value=${short(totals.answered_edge)} title=${count(totals.answered_edge)}>
      ${answered ? html`<b>${percent(totals.answered_edge / answered)}</b> of all answers` : 'No answer yet'}</${Figure}>
    <${Figure} icon="cpu" label="Answered by CPU worker" value=${short(totals.answered_cloud)} title=${count(totals.answered_cloud)}>
      <span class="pill"><i class=${`dot square c-${worker.tone}`}></i>${worker.word}</span></${Figure}>
    <${Figure} icon="shuffle" label="Reroutes" value=${short(totals.rerouted)} title=${count(totals.rerouted)}>
      ${totals.failed > 0
        ? html`<b class="t-bad">${count(totals.failed)}</b> ${totals.failed === 1 ? 'job' : 'jobs'} failed`
        : totals.rerouted ? html`<b>${percent(totals.rerouted / Math.max(answered, 1))}</b> of answers, none failed` : 'No job has failed'}</${Figure}>
    <${Figure} icon="list-ordered" label="Queue" value=${short(totals.queued)} unit="waiting">
      <b>${count(totals.running)}</b> running</${Figure}>
    <${Figure} icon="timer" label="Latency p95" value=${totals.p95_ms === null ? '–' : rate(totals.p95_ms)} unit=${totals.p95_ms === null ? '' : 'ms'}>
      ${totals.p50_ms === null ? 'No answer yet' : html`p50 <b>${rate(totals.p50_ms)} ms</b>`}</${Figure}>
  </dl>`;
}
