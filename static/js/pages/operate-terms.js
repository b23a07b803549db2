// @ts-check
/** The terms of an expected finish time: as a bar, in a line of numbers, and in full. */
import { html } from '/vendor/@/ui.js';
import { span } from '../lib/format.js';

/** @typedef {{rtt_s: number, backlog_s: number, service_s: number, cold_load_s: number, penalty_s: number, finish_s: number}} Terms */

/** @type {{key: keyof Terms, word: string, means: string, tone: string}[]} */
export const TERMS = [
  { key: 'rtt_s', word: 'RTT', means: 'Way there and back', tone: 'info' },
  { key: 'backlog_s', word: 'Backlog', means: 'Work it had already', tone: 'warn' },
  { key: 'service_s', word: 'Service', means: 'Computing this job', tone: 'ok' },
  { key: 'cold_load_s', word: 'Cold load', means: 'Loading the model first', tone: 'violet' },
  { key: 'penalty_s', word: 'Penalty', means: 'For failures before', tone: 'bad' },
];

/** What the colours of the bars mean. */
export const TermKeys = () => html`<div class="keys">${TERMS.map(({ key, word, tone }) => html`<span key=${key} class=${`c-${tone}`}><i></i>${word}</span>`)}</div>`;

/** The shares of the whole; the numbers stand beside it. @param {{terms: Terms}} props */
export function TermBar({ terms }) {
  let x = 0;
  return html`<svg class="terms" viewBox="0 0 100 6" preserveAspectRatio="none" aria-hidden="true">${TERMS.map(({ key, tone }) => {
    const width = (terms[key] / Math.max(terms.finish_s, 1e-9)) * 100;
    x += width;
    return width > 0 && html`<rect key=${key} class=${`c-${tone}`} x=${(x - width).toFixed(2)} width=${width.toFixed(2)} height="6" />`;
  })}</svg>`;
}

/** The terms that count, in words: those of less than a tenth of a millisecond are none. @param {{terms: Terms}} props */
export const TermLine = ({ terms }) => html`<span class="termline num">${TERMS.filter(({ key }) => terms[key] >= 1e-4)
  .map(({ key, word }) => html`<span key=${key}>${word} <b>${span(terms[key])}</b></span>`)}</span>`;

/** Every term with what it means, and their sum. @param {{terms: Terms}} props */
export const TermTable = ({ terms }) => html`<table class="sum num"><caption class="sr">Terms of the expected finish time</caption>
  <tbody>${TERMS.map(({ key, word, means, tone }) => html`<tr key=${key}>
    <th scope="row"><i class=${`dot square c-${tone}`}></i>${word}<span class="muted">${means}</span></th><td class="r">${span(terms[key])}</td></tr>`)}</tbody>
  <tfoot><tr><th scope="row">Expected</th><td class="r"><b>${span(terms.finish_s)}</b></td></tr></tfoot></table>`;
