// @ts-check
/** What the node in this tab does right now, and why. */
import { html } from '/vendor/@/ui.js';
import { activity, ACTIVITY_SECONDS, failure, nowMs, pausedByVisitor, stage, startedAt, status, stop, togglePause } from '../lib/donation.js';
import { bytes, count, duration, plural, rate, short } from '../lib/format.js';
import { Icon } from '../lib/shell.js';
import { columns, roundedUp } from '../lib/chart.js';

/** @typedef {import('../../worker/node.js').StatusMessage} Status */
/** @typedef {import('../lib/shell.js').Facts} Facts */

const PHASES = {
  loading: { title: 'Getting ready', tone: 'info', text: 'The software and the models are on their way.' },
  calibrating: { title: 'Measuring', tone: 'info', text: 'Answering questions with known answers: this measures the speed and proves the results.' },
  ready: { title: 'Waiting for work', tone: 'ok', text: 'Connected. The next job is taken as soon as it comes.' },
  working: { title: 'Working', tone: 'ok', text: 'Answering a job.' },
  paused: { title: 'Paused', tone: 'warn', text: 'Nothing is computed at the moment.' },
  reconnecting: { title: 'Reconnecting', tone: 'warn', text: 'The connection was lost. It is taken up again by itself.' },
  stopped: { title: 'Stopped', tone: 'off', text: '' },
  error: { title: 'Cannot go on', tone: 'bad', text: 'Something went wrong in this tab.' },
};

/**
 * Title, tone and sentence for the state that the node reports.
 * @param {Status | null} now
 * @param {{failed: boolean, paused: boolean}} page  what the page knows before the node has said it
 */
export function phaseWords(now, { failed, paused }) {
  const phase = failed && now?.phase !== 'stopped' ? 'error' : (now?.phase ?? 'loading');
  const settled = phase === 'error' || phase === 'stopped' || phase === 'loading' || phase === 'calibrating';
  if (paused && !settled) return { ...PHASES.paused, text: 'You paused it. Nothing is computed until you resume.' };
  // Connected and well, but holding back: green would say the opposite of the sentence below it.
  if (now?.state === 'throttled' && !settled) return { title: 'Holding back', tone: 'warn', text: now.reason };
  return { ...PHASES[phase], text: now?.reason || PHASES[phase].text };
}

/** @param {{now: Status | null, facts: Facts}} props */
function Progress({ now, facts }) {
  const { doneBytes, totalBytes } = now?.progress ?? { doneBytes: 0, totalBytes: 0 };
  if (now && now.phase !== 'loading') return null;
  const known = totalBytes > 0;
  const words = !known ? `Loading the software, ${bytes(facts.runtime_bytes)} on a first visit`
    : doneBytes < totalBytes ? `Models: ${bytes(doneBytes)} of ${bytes(totalBytes)}` : 'Starting the models';
  return html`<div class="loading"><progress class=${known ? 'bar c-info' : 'bar c-info endless'} max="1" value=${known ? doneBytes / totalBytes : 0} aria-label="Download"></progress>
    <p class="muted small num">${words}</p></div>`;
}

function Activity() {
  const values = activity.value;
  const top = roundedUp(Math.max(1, ...values));
  const path = columns(values, values.map(() => 0), top, ACTIVITY_SECONDS);
  return html`<div class="activity" role="img" aria-label="Tokens answered per second over the last minute">
    <svg viewBox=${`0 0 ${ACTIVITY_SECONDS} 100`} preserveAspectRatio="none" aria-hidden="true"><path class="floor" d=${`M0 100H${ACTIVITY_SECONDS}`} /><path class="columns c-ok" d=${path} /></svg>
    <p class="muted" aria-hidden="true"><span>Last minute</span><span class="num">${values.some(Boolean) ? `peak ${rate(Math.max(...values))} tokens/s` : 'no work yet'}</span></p></div>`;
}

const MODEL_WORDS = { loading: 'loading', calibrating: 'measuring', ready: 'ready', failed: 'failed' };
const MODEL_TONES = { loading: 'info', calibrating: 'info', ready: 'ok', failed: 'bad' };

/** @param {{now: Status | null, facts: Facts}} props */
const Models = ({ now, facts }) => now && now.models.length > 0 && html`<ul class="models">${now.models.map(({ id, state }) => html`<li key=${id}>
  <i class=${`dot c-${MODEL_TONES[state]}`}></i><span>${facts.models.find(model => model.id === id)?.name ?? id}</span><span class="muted">${MODEL_WORDS[state]}</span></li>`)}</ul>`;

function Controls() {
  const over = failure.value !== '' || status.value?.phase === 'stopped';
  const stopping = stage.value === 'stopping';
  return html`<div class="controls">
    ${!over && html`<button class="btn" type="button" disabled=${stopping} onClick=${togglePause}><${Icon} name=${pausedByVisitor.value ? 'play' : 'pause'} />${pausedByVisitor.value ? 'Resume' : 'Pause'}</button>`}
    <button class="btn" type="button" disabled=${stopping} onClick=${stop}><${Icon} name="square" />${stopping ? 'Stopping…' : over ? 'Back' : 'Stop'}</button></div>`;
}

/** @param {{facts: Facts}} props */
export function LiveCard({ facts }) {
  const now = status.value;
  const words = phaseWords(now, { failed: failure.value !== '', paused: pausedByVisitor.value });
  const moving = words.tone === 'ok' || words.tone === 'info';
  return html`<section class="card now" aria-label="This tab">
    <div class="head"><div class=${`orb c-${words.tone}${moving ? ' on' : ''}`} aria-hidden="true"><i></i></div>
      <div role="status" class="say"><p class="title">${words.title}</p><p class="muted">${failure.value || words.text}</p></div><${Controls} /></div>
    ${!failure.value && html`<${Progress} now=${now} facts=${facts} />`}
    <dl class="figures">
      <div><dt>${plural(now?.jobsDone ?? 0, { one: 'job answered', other: 'jobs answered' })}</dt><dd title=${count(now?.jobsDone ?? 0)}>${short(now?.jobsDone ?? 0)}</dd></div>
      <div><dt>tokens</dt><dd title=${count(now?.tokensDone ?? 0)}>${short(now?.tokensDone ?? 0)}</dd></div>
      <div><dt>tokens per second</dt><dd>${now?.tokensPerS ? rate(now.tokensPerS) : '–'}</dd></div>
      <div><dt>this visit</dt><dd>${duration((nowMs.value - startedAt.value) / 1000)}</dd></div>
    </dl>
    <${Activity} />
    <${Models} now=${now} facts=${facts} />
    ${now?.notice && html`<p class="note c-info"><${Icon} name="info" /><span>${now.notice}</span></p>`}
    <p class="muted node num">${now?.nodeId ? html`Connected as <span class="mono">${now.nodeId}</span>` : 'Not connected yet'}</p></section>`;
}
