// @ts-check
/** What the visitor is asked to agree to, before anything is fetched. */
import { html, useState } from '/vendor/@/ui.js';
import { choice, forget, given, start } from '../lib/donation.js';
import { bytes, plural, short } from '../lib/format.js';
import { Icon } from '../lib/shell.js';

/** @typedef {import('../lib/shell.js').Facts} Facts */
/** @typedef {import('../lib/device.js').Lack} Lack */

/** @param {Facts} facts @returns {{icon: string, title: string, text: unknown}[]} */
const terms = facts => [
  {
    icon: 'cpu', title: 'What runs',
    text: html`Small language models that turn text into numbers, sort it into categories and pick its key sentences:${' '}
      ${facts.models.map((model, index) => html`${index > 0 && ', '}<span class="model">${model.name}</span>`)}. They run in a sandboxed worker of this tab and can reach nothing but this server.`,
  },
  {
    icon: 'users', title: 'For whom',
    text: html`The customers of <b>${location.host}</b>. Their texts pass through this tab’s memory. They are not shown and not kept. The first answers, and later a few, are compared with the server’s own to see that they are right.`,
  },
  {
    icon: 'download', title: 'Download',
    text: html`<b class="num">${bytes(facts.runtime_bytes + facts.model_bytes)}</b>, once:
      ${' '}<span class="num">${bytes(facts.runtime_bytes)}</span> of software and <span class="num">${bytes(facts.model_bytes)}</span> of models, kept in this browser. The next visit downloads almost nothing.`,
  },
  {
    icon: 'gauge', title: 'Processor and power',
    text: 'Never more than the limits you set here. Computing uses power and warms the machine; a smaller share uses less.',
  },
  {
    icon: 'send', title: 'What leaves this computer',
    text: 'The answers, how long they took, and coarse facts: browser, number of cores, memory size, kind of connection, battery, time zone. A random key, made here, lets the server know this browser again. No name, no account, no history. Like any site, the server sees your network address.',
  },
  {
    icon: 'circle-stop', title: 'How to stop',
    text: 'Press Stop, or close the tab. Whatever was being computed moves to another machine at once. Everything kept here can be removed with one button.',
  },
];

/** @param {{facts: Facts, bare?: boolean}} props  `bare`: without a card of its own */
export const Agreement = ({ facts, bare = false }) => html`<section class=${bare ? '' : 'card'} aria-labelledby=${bare ? undefined : 'terms-h'}>
  ${!bare && html`<header><h2 id="terms-h">What you agree to</h2></header>`}
  <dl class="terms">${terms(facts).map(({ icon, title, text }) => html`<div key=${title}>
    <dt><${Icon} name=${icon} />${title}</dt><dd>${text}</dd></div>`)}</dl></section>`;

/** @param {{missing: Lack[]}} props */
export const Missing = ({ missing }) => missing.map(({ id, text, blocks }) => html`<p key=${id} class=${`note ${blocks ? 'c-bad' : 'c-warn'}`}>
  <${Icon} name="triangle-alert" /><span>${text}</span></p>`);

/** @param {{able: boolean}} props */
export const StartButton = ({ able }) => html`<div class="yes">
  <button class="btn primary big" type="button" disabled=${!able} onClick=${start}><${Icon} name="play" />Start donating</button>
  <p class="muted small">${!able ? 'This browser cannot take part as it is.'
    : choice.value.agreed ? 'By pressing the button you agree to what is listed here.'
      : 'Nothing has been downloaded yet. By pressing the button you agree to what is listed here.'}</p>
  ${choice.value.agreed && html`<${Forget} />`}</div>`;

function Forget() {
  const [state, setState] = useState('');
  const remove = async () => {
    setState('Removing…');
    await forget();
  };
  return html`<p><button class="btn quiet" type="button" disabled=${state !== ''} onClick=${remove}>Remove everything from this browser</button></p>`;
}

/** The thanks after a visit. */
export function Given() {
  const visit = given.value;
  if (!visit) return null;
  const jobs = plural(visit.jobs, { one: 'You answered # job', other: 'You answered # jobs' });
  return html`<p class="note c-ok" role="status"><${Icon} name="heart-handshake" /><span>${visit.jobs
    ? html`<b class="num">${jobs}</b> (${short(visit.tokens)} tokens) in this visit. Thank you.`
    : 'Stopped. There was no work for this tab this time; thank you for the offer.'}</span></p>`;
}
