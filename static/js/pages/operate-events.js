// @ts-check
/** What happened lately: who joined, who left, what was rerouted and why. */
import { html, useState } from '/vendor/@/ui.js';
import { ago, time } from '../lib/format.js';
import { Icon } from '../lib/shell.js';

/** @typedef {import('../lib/fleet.js').FleetEvent} FleetEvent */

const SHOWN = 40;

/** @type {Record<string, {icon: string, tone: string}>} */
const KINDS = {
  joined: { icon: 'heart-handshake', tone: 'ok' },
  left: { icon: 'x', tone: 'off' },
  rerouted: { icon: 'shuffle', tone: 'warn' },
  failed: { icon: 'triangle-alert', tone: 'bad' },
  trusted: { icon: 'shield-check', tone: 'ok' },
  quarantined: { icon: 'shield-check', tone: 'bad' },
  worker: { icon: 'cpu', tone: 'violet' },
};

const FILTERS = [
  { id: 'all', title: 'All', shows: () => true },
  { id: 'trouble', title: 'Reroutes', shows: (/** @type {FleetEvent} */ event) => event.kind === 'rerouted' || event.kind === 'failed' },
];

/** @param {{event: FleetEvent, at: number}} props */
function Line({ event, at }) {
  const { icon, tone } = KINDS[event.kind] ?? KINDS.worker;
  return html`<li><span class=${`ic ${tone}`}><${Icon} name=${icon} /></span><span>${event.text}</span>
    <time class="num" datetime=${new Date(event.at * 1000).toISOString()} title=${time(event.at)}>${ago(at - event.at)}</time></li>`;
}

/** @param {{events: FleetEvent[], at: number}} props */
export function Events({ events, at }) {
  const [filter, setFilter] = useState('all');
  const { shows } = FILTERS.find(one => one.id === filter) ?? FILTERS[0];
  const listed = events.filter(shows).slice(0, SHOWN);
  return html`<section class="card c4 fill feedcard" aria-labelledby="events-h"><header><h2 id="events-h">Events</h2>
      <fieldset class="end seg"><legend class="sr">Which events</legend>${FILTERS.map(({ id, title }) => html`<label key=${id}>
        <input type="radio" name="events" checked=${id === filter} onChange=${() => setFilter(id)} /><span>${title}</span></label>`)}</fieldset></header>
    <div class="feedscroll" tabindex="0" role="region" aria-label="List of events">
      ${listed.length
        ? html`<ul class="feed">${listed.map(event => html`<${Line} key=${event.seq} event=${event} at=${at} />`)}</ul>`
        : html`<p class="muted small none">${filter === 'all' ? 'Nothing has happened since the server started.' : 'No job has been rerouted.'}</p>`}
    </div></section>`;
}
