// @ts-check
/** Landing page: live counts in the picture of a request's way, and examples to copy. */
import { html, signal, useEffect, useRef } from '/vendor/@/ui.js';
import { CodeTabs } from '../lib/code.js';
import { bytes, count, plural, short } from '../lib/format.js';
import { samples } from '../lib/samples.js';
import { facts, Icon, mount } from '../lib/shell.js';

const POLL_MS = 2000;
const MAX_PULSES = 3;
const calm = matchMedia('(prefers-reduced-motion: reduce)');

/**
 * @typedef {object} Stats  see `orchestrator/transport/pages.py`
 * @property {number} nodes_online
 * @property {number} jobs_answered
 * @property {number} jobs_answered_edge
 * @property {number} jobs_answered_cloud
 * @property {'off' | 'starting' | 'ready' | 'restarting'} cpu_worker
 * @property {number | null} p50_ms
 */

/** @type {{value: Stats | null}} */
const stats = signal(null);
const reachable = signal(true);

async function refresh() {
  if (document.hidden) return;
  try {
    const reply = await fetch('/stats');
    reachable.value = reply.ok;
    if (reply.ok) stats.value = await reply.json();
  } catch {
    reachable.value = false;
  }
}

function Live() {
  const now = stats.value;
  if (!reachable.value) return html`<span class="live c-warn"><i></i>This server does not answer just now</span>`;
  if (!now) return null;
  const words = now.nodes_online
    ? plural(now.nodes_online, { one: '# volunteer online', other: '# volunteers online' })
    : now.cpu_worker === 'ready' ? 'No volunteer online, the CPU worker answers' : 'No volunteer online yet';
  return html`<span class=${now.nodes_online ? 'live on num' : 'live c-info'}><i></i>${words}</span>`;
}

/**
 * Send a dot along a cable for each job answered since the last look, a few at most.
 * @param {number | undefined} answered
 * @param {string} end  where the cable ends, from the top
 */
function usePulse(answered, end) {
  const dot = useRef(/** @type {HTMLElement | null} */ (null));
  const before = useRef(answered);
  useEffect(() => {
    const fresh = before.current === undefined || answered === undefined ? 0 : answered - before.current;
    before.current = answered;
    if (fresh <= 0 || calm.matches || !dot.current) return;
    const corners = [['0%', '50%'], ['50%', '50%'], ['50%', end], ['100%', end]];
    const run = dot.current.animate(
      corners.map(([insetInlineStart, insetBlockStart]) => ({ insetInlineStart, insetBlockStart, opacity: 1 })),
      { duration: 800, iterations: Math.min(fresh, MAX_PULSES), easing: 'ease-in-out' },
    );
    return () => run.cancel();
  }, [answered]);
  return dot;
}

/**
 * A cable of the picture: lying on wide screens, hanging on narrow ones.
 * @param {{name: string, lying: unknown, hanging: unknown, children?: unknown}} props
 */
const Cable = ({ name, lying, hanging, children }) => html`<li class=${`cable ${name}`} aria-hidden="true">
  <svg class="lying" viewBox="0 0 100 100" preserveAspectRatio="none">${lying}</svg>
  <svg class="hanging" viewBox="0 0 100 100" preserveAspectRatio="none">${hanging}</svg>${children}</li>`;

const WORKER = { off: 'not started', starting: 'starting', ready: 'ready', restarting: 'restarting' };

function Flow() {
  useEffect(() => {
    refresh();
    const timer = setInterval(refresh, POLL_MS);
    return () => clearInterval(timer);
  }, []);
  const now = stats.value;
  const edge = usePulse(now?.jobs_answered_edge, '23%');
  const cloud = usePulse(now?.jobs_answered_cloud, '77%');
  return html`<ol>
    <li class="stop ask"><${Icon} name="terminal" /><b>Your request</b><span>OpenAI SDK or curl</span></li>
    <${Cable} name="one" lying=${html`<path class="main" d="M0 50H100" />`} hanging=${html`<path class="main" d="M50 0V100" />`} />
    <li class="stop mid c-ok"><${Icon} name="shuffle" /><b>ZeroGPU</b><span>picks who answers soonest</span></li>
    <${Cable} name="two" lying=${html`<path class="main" d="M0 50H50V23H100" /><path class="spare" d="M50 50V77H100" />`}
      hanging=${html`<path class="main" d="M50 0V45H24V100" /><path class="spare" d="M50 45H76V100" />`}>
      <i class="spark c-ok" ref=${edge}></i><i class="spark c-violet" ref=${cloud}></i></${Cable}>
    <li class="stop tabs c-ok"><${Icon} name="tab" /><b>Volunteers</b>
      <span>${now ? plural(now.nodes_online, { one: '# online', other: '# online' }) : '…'}</span>
      <span><span class="num" title=${now && count(now.jobs_answered_edge)}>${now ? short(now.jobs_answered_edge) : '–'}</span> answered</span></li>
    <li class="stop cpu c-violet"><${Icon} name="cpu" /><b>CPU worker</b>
      <span>${now ? WORKER[now.cpu_worker] : '…'}</span>
      <span><span class="num" title=${now && count(now.jobs_answered_cloud)}>${now ? short(now.jobs_answered_cloud) : '–'}</span> answered</span></li>
  </ol>`;
}

mount('live', html`<${Live} />`);
mount('flow', html`<${Flow} />`);
const { runtime_bytes: software, model_bytes: models } = facts();
mount('download', html`One download of <b class="num">${bytes(software + models)}</b>, kept for the next visit.`);
mount('samples', html`<${CodeTabs} name="sample" samples=${samples(location.origin)} />`);
