// @ts-check
/** Orders to a node or an identity: a small menu, a step that asks again, and a line that says what was done. */
import { html, signal, useEffect, useRef, useState } from '/vendor/@/ui.js';
import { give } from '../lib/desk.js';
import { Dialog } from '../lib/dialog.js';
import { Icon } from '../lib/shell.js';
import { brief } from '../lib/words.js';

/** @typedef {import('../lib/desk.js').Order} Order */
/** @typedef {import('../lib/desk.js').Subject} Subject */
/** @typedef {Subject & {level: import('../lib/fleet.js').Level, state?: string, note: string}} Asked */

/** @type {Record<Order, {verb: string, means: string, done: string, undo?: Order, grave?: boolean}>} */
const ORDERS = {
  drain: { verb: 'Drain', means: 'It finishes what it holds and gets nothing new until you resume it.', done: '# is being drained.', undo: 'resume' },
  resume: { verb: 'Resume', means: 'It gets work again.', done: '# gets work again.' },
  quarantine: { verb: 'Quarantine', means: 'Its identity gets no work until you release it, however often it comes back.', done: '# is in quarantine.', undo: 'release', grave: true },
  ban: { verb: 'Ban', means: 'Its identity is refused at the door, now and whenever it comes back.', done: '# is banned.', undo: 'release', grave: true },
  release: { verb: 'Release', means: 'Ends quarantine and ban. It starts as a newcomer: none of its answers is delivered before it was compared.', done: '# is released and starts as a newcomer.' },
};

const asked = signal(/** @type {{subject: Asked, order: Order | null} | null} */ (null));
const told = signal(/** @type {{text: string, undo: Order | null, subject: Asked | null}} */ ({ text: '', undo: null, subject: null }));
/** Grows with every order that was taken: whoever shows records reads them again. */
export const orders = signal(0);

/** Open the menu, or its second step at once. @param {Asked} subject @param {Order | null} [order] */
export function askFor(subject, order = null) {
  asked.value = { subject, order };
}

/** @param {Subject} subject */
const nameOf = subject => subject.id || `Identity ${brief(subject.identity)}`;

/** What can be ordered now. @param {Asked} subject @returns {Order[]} */
function choices({ id, identity, state, level }) {
  /** @type {Order[]} */
  const list = id ? [state === 'draining' ? 'resume' : 'drain'] : [];
  if (!identity) return list;
  if (level === 'quarantined' || level === 'banned') list.push('release');
  if (level !== 'quarantined' && level !== 'banned') list.push('quarantine');
  if (level !== 'banned') list.push('ban');
  return list;
}

/** Give it; throws the server's sentence. @param {Order} order @param {Asked} subject */
async function carryOut(order, subject) {
  await give(order, subject);
  const { done, undo } = ORDERS[order];
  told.value = { text: done.replace('#', nameOf(subject)), undo: undo ?? null, subject };
  orders.value++;
}

/** Puts the focus where a step begins: its predecessor's button is gone. */
function useFocus() {
  const element = useRef(/** @type {HTMLElement | null} */ (null));
  useEffect(() => element.current?.focus(), []);
  return element;
}

/** @param {{subject: Asked, choose: (order: Order) => void}} props */
function Menu({ subject, choose }) {
  const start = useFocus();
  return html`<p class="muted small">${subject.note}</p>
  <ul class="orders">${choices(subject).map((order, index) => html`<li key=${order}>
    <button type="button" class="order" ref=${index ? null : start} autofocus=${index === 0} onClick=${() => choose(order)}><b class=${ORDERS[order].grave ? 't-bad' : ''}>${ORDERS[order].verb}</b>
      <span class="muted">${ORDERS[order].means}</span></button></li>`)}</ul>`;
}

/** @param {{subject: Asked, order: Order, back: () => void, close: () => void}} props */
function Confirm({ subject, order, back, close }) {
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState('');
  const start = useFocus();
  const { verb, means, grave } = ORDERS[order];
  const confirm = async () => {
    setBusy(true);
    try {
      await carryOut(order, subject);
      close();
    } catch (refused) {
      setError(/** @type {Error} */ (refused).message);
      setBusy(false);
      orders.value++; // an order that was refused is in the audit log, too
    }
  };
  return html`<p class="small">${means}</p>
    <div role="alert">${error && html`<p class="note c-bad"><${Icon} name="triangle-alert" /><span>${error}</span></p>`}</div>
    <div class="choice"><button class="btn" type="button" ref=${start} autofocus onClick=${back}>Back</button>
      <button class=${`btn ${grave ? 'grave' : 'primary'}`} type="button" disabled=${busy} onClick=${confirm}>${verb}</button></div>`;
}

/** The menu and its second step, while one of them is open. */
export function Orders() {
  if (!asked.value) return null;
  const { subject, order } = asked.value;
  const close = () => { asked.value = null; };
  const title = order ? `${ORDERS[order].verb} ${nameOf(subject)}?` : nameOf(subject);
  return html`<${Dialog} title=${title} onClose=${close}>${order
    ? html`<${Confirm} key=${order} subject=${subject} order=${order} close=${close} back=${() => askFor(subject)} />`
    : html`<${Menu} subject=${subject} choose=${(/** @type {Order} */ chosen) => askFor(subject, chosen)} />`}</${Dialog}>`;
}

/** What the last order did, with a way back where there is one. */
export function Told() {
  const { text, undo, subject } = told.value;
  const forget = () => { told.value = { text: '', undo: null, subject: null }; };
  const takeBack = async () => {
    try {
      if (undo && subject) await carryOut(undo, subject);
    } catch (refused) {
      told.value = { text: /** @type {Error} */ (refused).message, undo: null, subject: null };
    }
  };
  return html`<div class="toast" role="status">${text && html`<div class="card"><span>${text}</span>
    ${undo && html`<button class="btn" type="button" onClick=${takeBack}>Undo</button>`}
    <button class="btn icon quiet" type="button" aria-label="Dismiss" onClick=${forget}><${Icon} name="x" /></button></div>`}</div>`;
}
