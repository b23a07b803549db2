// @ts-check
/** The operator's dashboard: wires the stream to the views; the views are functions of the fleet. */
import { computed, html, signal, useEffect } from '/vendor/@/ui.js';
import { NO_FLEET, withChange, withSnapshot } from '../lib/fleet.js';
import { ago } from '../lib/format.js';
import { Icon, mount } from '../lib/shell.js';
import { watch } from '../lib/stream.js';
import { AuditLog } from './operate-audit.js';
import { Answers, Latency } from './operate-charts.js';
import { Decisions } from './operate-decisions.js';
import { Events } from './operate-events.js';
import { Figures } from './operate-figures.js';
import { Nodes } from './operate-nodes.js';
import { Orders, Told } from './operate-orders.js';
import { Models, Projects } from './operate-placement.js';
import { followAddress, section, Sections } from './operate-sections.js';
import { Trust } from './operate-trust.js';

/** @typedef {import('../lib/fleet.js').Fleet} Fleet */
/** @typedef {import('../lib/stream.js').Connection} Connection */

// Two missed seconds are jitter; after more than this the age of the data is told.
const STALE_S = 3;

const fleet = signal(NO_FLEET);
const connection = signal(/** @type {Connection} */ ('connecting'));
const heardAt = signal(0);
/** What is shown while updates are paused, and how many have come since. */
const frozen = signal(/** @type {Fleet | null} */ (null));
const waiting = signal(0);
const nowMs = signal(Date.now());
const shown = computed(() => frozen.value ?? fleet.value);

/** @param {(fleet: Fleet, message: any) => Fleet} step */
const take = step => (/** @type {any} */ message) => {
  fleet.value = step(fleet.value, message);
  heardAt.value = nowMs.value = Date.now();
  if (frozen.value) waiting.value++;
};

function togglePause() {
  frozen.value = frozen.value ? null : fleet.value;
  waiting.value = 0;
}

function Freshness() {
  const age = (nowMs.value - heardAt.value) / 1000;
  const state = connection.value;
  if (frozen.value) {
    return html`<span class="live c-warn num"><i></i>Paused${waiting.value > 0 && html`<span>${waiting.value} waiting</span>`}</span>`;
  }
  if (state === 'live' && age <= STALE_S) return html`<span class="live on"><i></i>Live</span>`;
  const word = state === 'connecting' ? 'Connecting' : state === 'signed-out' ? 'Signed out' : 'Connection lost';
  const told = heardAt.value > 0 && state !== 'connecting';
  return html`<span class="live c-warn num"><i></i>${state === 'live' ? 'No news' : word}${told && html`<span>data from ${ago(age)}</span>`}</span>`;
}

const Controls = () => html`<button class="btn" type="button" aria-label=${frozen.value ? 'Resume updates' : 'Pause updates'} onClick=${togglePause}>
    <${Icon} name=${frozen.value ? 'play' : 'pause'} /><span class="hide-s">${frozen.value ? 'Resume updates' : 'Pause updates'}</span></button>
  <form method="post" action="/console/sign-out"><button class="btn quiet">Sign out</button></form>`;

const Ended = () => html`<p class="note c-warn" role="alert"><${Icon} name="triangle-alert" />
  <span>This session has ended, so the numbers below stand still. <a href="/operate">Sign in again</a></span></p>`;

/** @param {{fleet: Fleet}} props */
const Overview = ({ fleet: { totals, nodes, events, samples, at } }) => html`<${Figures} totals=${totals} />
  <div class="grid">
    <${Answers} samples=${samples} />
    <${Latency} samples=${samples} />
    <${Events} events=${events} at=${at} />
    <${Nodes} nodes=${nodes} at=${at} totals=${totals} />
  </div>`;

/** The section that was chosen. @param {{fleet: Fleet, paused: boolean}} props */
function Chosen({ fleet, paused }) {
  const known = fleet.totals !== null;
  switch (section.value.id) {
    case 'decisions': return html`<${Decisions} paused=${paused} />`;
    case 'trust': return html`<${Trust} fleet=${fleet} paused=${paused} />`;
    case 'models': return html`<${Models} models=${fleet.models} known=${known} />`;
    case 'queue': return html`<${Projects} projects=${fleet.projects} known=${known} />`;
    case 'audit-log': return html`<${AuditLog} paused=${paused} />`;
    default: return html`<${Overview} fleet=${fleet} />`;
  }
}

function App() {
  useEffect(() => {
    const stop = watch({
      snapshot: take(withSnapshot),
      change: take(withChange),
      connection: state => { connection.value = state; },
    });
    const unfollow = followAddress();
    const timer = setInterval(() => { nowMs.value = Date.now(); }, 1000);
    return () => {
      stop();
      unfollow();
      clearInterval(timer);
    };
  }, []);
  const paused = frozen.value !== null || connection.value === 'signed-out';
  return html`<div class="stack">
    <div class="top"><div class="grow"><h1>${section.value.heading}</h1></div><${Freshness} /><${Controls} /></div>
    <${Sections} />
    ${connection.value === 'signed-out' && html`<${Ended} />`}
    <${Chosen} fleet=${shown.value} paused=${paused} />
    <${Orders} /><${Told} /></div>`;
}

mount('fleet', html`<${App} />`);
