// @ts-check
/** Code to copy: a block with a button, and a block behind a choice of languages. */
import { html, useEffect, useRef, useState } from '/vendor/@/ui.js';
import { Icon } from './shell.js';

const SHOWN_MS = 1800;

/** @param {{text: string, label?: string}} props */
export function CopyButton({ text, label = 'Copy' }) {
  const [done, setDone] = useState('');
  const timer = useRef(0);
  useEffect(() => () => clearTimeout(timer.current), []);
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text);
      setDone('Copied');
    } catch {
      setDone('Select the text and copy it by hand'); // no permission, or not a secure context
    }
    clearTimeout(timer.current);
    timer.current = window.setTimeout(() => setDone(''), SHOWN_MS);
  };
  return html`<button class="btn icon quiet" type="button" aria-label=${label} title=${done || label} onClick=${copy}>
    <${Icon} name=${done === 'Copied' ? 'check' : 'copy'} /></button>
    <span class="sr" role="status">${done}</span>`;
}

/** @param {{text: string, label: string}} props  one line of a terminal */
export const CopyLine = ({ text, label }) => html`<div class="code line">
  <pre tabindex="0" aria-label=${label}><code>${text}</code></pre><${CopyButton} text=${text} label=${`Copy ${label}`} /></div>`;

/** Set strings apart from the rest; everything stays text. @param {string} source */
export const highlighted = source =>
  source.split(/("(?:[^"\\\n]|\\.)*"|'[^']*')/).map((piece, index) => (index % 2 ? html`<span class="s">${piece}</span>` : piece));

/**
 * @param {{name: string, samples: {id: string, title: string, text: string}[]}} props
 *   `name` is also the name of the radio group, so one page may hold several
 */
export function CodeTabs({ name, samples }) {
  const [chosen, choose] = useState(samples[0].id);
  const sample = samples.find(one => one.id === chosen) ?? samples[0];
  return html`<fieldset class="seg"><legend class="sr">Language</legend>
    ${samples.map(({ id, title }) => html`<label key=${id}>
      <input type="radio" name=${name} checked=${id === chosen} onChange=${() => choose(id)} /><span>${title}</span></label>`)}
  </fieldset>
  <div class="code"><pre tabindex="0" aria-label=${`${sample.title} example`}><code>${highlighted(sample.text)}</code></pre>
    <${CopyButton} text=${sample.text} label="Copy example" /></div>`;
}
