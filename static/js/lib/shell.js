// @ts-check
/** What every page has: icons, the theme switch, the facts the server wrote into the page, a way to mount. */
import { html, render, signal } from '/vendor/@/ui.js';

const OWN_ICONS = new Set(['down', 'more', 'search', 'send', 'sort', 'tab', 'up']);

/** @param {{name: string}} props  a symbol of our sprite or of the vendored one */
export const Icon = ({ name }) => html`<svg class="i" aria-hidden="true">
  <use href=${(OWN_ICONS.has(name) ? '/static/icons.svg#' : '/vendor/@/icons.svg#') + name} /></svg>`;

/**
 * @typedef {object} Facts  see `orchestrator/transport/built.py`
 * @property {number} runtime_bytes
 * @property {number} model_bytes
 * @property {number} stored_bytes
 * @property {{id: string, name: string, pipeline: string}[]} models
 */

/** What the server wrote into this page. @returns {Facts} */
export const facts = () => JSON.parse(document.getElementById('facts')?.textContent ?? '{}');

/**
 * Render a view in place of what an element holds.
 * @param {string} id
 * @param {unknown} view
 */
export function mount(id, view) {
  const host = document.getElementById(id);
  if (!host) throw new Error(`this page has no #${id}`);
  host.replaceChildren();
  render(view, host);
}

const root = document.documentElement;
const prefersDark = matchMedia('(prefers-color-scheme: dark)');
const chosen = root.dataset.theme;
const theme = signal(chosen === 'dark' || chosen === 'light' ? chosen : prefersDark.matches ? 'dark' : 'light');

function switchTheme() {
  theme.value = theme.value === 'dark' ? 'light' : 'dark';
  root.dataset.theme = theme.value;
  // The server reads this and writes the attribute itself, so the next page does not flash.
  document.cookie = `theme=${theme.value};path=/;max-age=31536000;samesite=lax`;
}

const ThemeSwitch = () => html`<button class="btn icon quiet" type="button"
  aria-label=${theme.value === 'dark' ? 'Use the light theme' : 'Use the dark theme'} onClick=${switchTheme}>
  <${Icon} name=${theme.value === 'dark' ? 'sun' : 'moon'} /></button>`;

mount('theme', html`<${ThemeSwitch} />`);
