// @ts-check
/** The two charts of the dashboard: answers per second, and answer times. */
import { html } from '/vendor/@/ui.js';
import { Chart, columns, line, roundedUp } from '../lib/chart.js';
import { SAMPLES_KEPT } from '../lib/fleet.js';
import { rate, short } from '../lib/format.js';

/** @typedef {import('../lib/fleet.js').Sample} Sample */

const FROM = '2 min ago';

/** Labels of an axis that ends at `top`: decimals only where the steps need them. @param {number} top */
const axis = top => (/** @type {number} */ value) => (top < 10 && value % 1 ? rate : short)(value);

/** @param {{tone: string, name: string, value: string}} props */
const Key = ({ tone, name, value }) => html`<span class=${`c-${tone}`}><i></i>${name} <b>${value}</b></span>`;

// Nothing is known of what came before the page was opened.
const NO_ANSWER = {
  young: 'No job was answered since this page was opened',
  old: 'No job was answered in the last two minutes',
};

/** @param {{samples: Sample[]}} props */
export function Answers({ samples }) {
  const edge = samples.map(one => one.edge);
  const cloud = samples.map(one => one.cloud);
  const top = roundedUp(Math.max(1, ...samples.map(one => one.edge + one.cloud)));
  const [nowEdge, nowCloud] = [edge.at(-1) ?? 0, cloud.at(-1) ?? 0];
  const quiet = samples.every(one => one.edge + one.cloud === 0);
  return html`<section class="card c4 fill" aria-labelledby="answers-h"><header><h2 id="answers-h">Answers per second</h2></header>
    <div class="keys num"><${Key} tone="ok" name="Edge" value=${rate(nowEdge)} /><${Key} tone="violet" name="CPU worker" value=${rate(nowCloud)} /></div>
    <${Chart} slots=${SAMPLES_KEPT} top=${top} format=${axis(top)} from=${FROM}
      empty=${quiet ? NO_ANSWER[samples.length < SAMPLES_KEPT ? 'young' : 'old'] : ''}
      label=${`Answers per second over the last two minutes. Now ${rate(nowEdge)} by volunteers and ${rate(nowCloud)} by the CPU worker.`}
      series=${[
        { tone: 'ok', kind: 'columns', path: columns(edge, edge.map(() => 0), top, SAMPLES_KEPT) },
        { tone: 'violet', kind: 'columns', path: columns(cloud, edge, top, SAMPLES_KEPT) },
      ]} /></section>`;
}

/** @param {number | null | undefined} value */
const ms = value => (value == null ? '–' : `${rate(value)} ms`);

/** @param {{samples: Sample[]}} props */
export function Latency({ samples }) {
  const top = roundedUp(Math.max(1, ...samples.map(one => one.p95 ?? 0)));
  const last = samples.at(-1);
  const none = samples.every(one => one.p95 === null);
  return html`<section class="card c4 fill" aria-labelledby="latency-h"><header><h2 id="latency-h">Time to answer</h2></header>
    <div class="keys num"><${Key} tone="info" name="p50" value=${ms(last?.p50)} /><${Key} tone="warn" name="p95" value=${ms(last?.p95)} /></div>
    <${Chart} slots=${SAMPLES_KEPT} top=${top} format=${axis(top)} from=${FROM}
      empty=${none ? 'No answer has been timed yet' : ''}
      label=${`Time to answer over the last two minutes. Now p50 ${ms(last?.p50)}, p95 ${ms(last?.p95)}.`}
      series=${[
        { tone: 'info', kind: 'line', path: line(samples.map(one => one.p50), top, SAMPLES_KEPT) },
        { tone: 'warn', kind: 'line', path: line(samples.map(one => one.p95), top, SAMPLES_KEPT) },
      ]} /></section>`;
}
