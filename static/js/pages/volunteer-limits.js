// @ts-check
/** The visitor's limits: they hold from the next moment on, whether the node runs or not. */
import { html } from '/vendor/@/ui.js';
import { choice, choose, limit } from '../lib/donation.js';
import { shareOfComputer } from '../lib/consent.js';
import { cores, savesData, tellsBattery } from '../lib/device.js';
import { percent } from '../lib/format.js';

/** @param {{label: string, hint?: string, checked: boolean, disabled?: boolean, onChange: (checked: boolean) => void}} props */
const Switch = ({ label, hint, checked, disabled = false, onChange }) => html`<label class="switch">
  <span><span>${label}</span>${hint && html`<span class="muted hint">${hint}</span>`}</span>
  <input type="checkbox" role="switch" checked=${checked} disabled=${disabled} onChange=${(/** @type {any} */ event) => onChange(event.target.checked)} /></label>`;

/** @param {{id: string, label: string, low: number, high: number, step: number, value: number, shown: string, disabled?: boolean, hint?: string, onInput: (value: number) => void}} props */
const Slider = ({ id, label, low, high, step, value, shown, disabled = false, hint, onInput }) => html`<div class="slider">
  <label for=${id}>${label}</label><output for=${id} class="num">${shown}</output>
  <input id=${id} type="range" min=${low} max=${high} step=${step} value=${value} disabled=${disabled} aria-valuetext=${shown}
    style=${{ '--fill': `${high > low ? (value - low) / (high - low) * 100 : 100}%` }}
    onInput=${(/** @type {any} */ event) => onInput(Number(event.target.value))} />
  ${hint && html`<p class="muted hint">${hint}</p>`}</div>`;

/** @param {{running?: boolean, children?: unknown}} props */
export function LimitsCard({ running = false, children }) {
  const { limits, autoStart } = choice.value;
  const all = cores();
  const whole = percent(shareOfComputer(limits, all));
  const isolated = window.crossOriginIsolated === true;
  return html`<section class="card" aria-labelledby="limits-h"><header><h2 id="limits-h">Your limits</h2></header>
    <div class="limits">
      <${Slider} id="share" label="Processor time" low=${10} high=${100} step=${5} value=${Math.round(limits.cpuShare * 100)} shown=${percent(limits.cpuShare)}
        onInput=${(/** @type {number} */ value) => limit({ cpuShare: value / 100 })} />
      <${Slider} id="threads" label="Threads" low=${1} high=${all} step=${1} value=${limits.threads} shown=${`${limits.threads} of ${all}`} disabled=${!isolated || all === 1}
        hint=${running ? 'A new number of threads counts from the next start.' : ''} onInput=${(/** @type {number} */ value) => limit({ threads: value })} />
      <p class="sum num">Together at most <b>${whole}</b> of this computer’s processor.</p>
      <${Switch} label="Keep working while this tab is hidden" checked=${limits.runHidden} onChange=${(/** @type {boolean} */ on) => limit({ runHidden: on })} />
      <${Switch} label="Keep working on battery" checked=${limits.runOnBattery} disabled=${!tellsBattery()}
        hint=${tellsBattery() ? '' : 'This browser does not tell about its battery, so this page cannot pause for it.'}
        onChange=${(/** @type {boolean} */ on) => limit({ runOnBattery: on })} />
      ${savesData() && html`<${Switch} label="Keep working with data saver on" checked=${limits.runOnSaveData} onChange=${(/** @type {boolean} */ on) => limit({ runOnSaveData: on })} />`}
      <${Switch} label="Start by itself on my next visit" checked=${autoStart} onChange=${(/** @type {boolean} */ on) => choose({ autoStart: on })} />
    </div>${children && html`<div class="limits last">${children}</div>`}</section>`;
}
