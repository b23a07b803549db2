// @ts-check
/** Code of an operation in the reader's language, chosen once for the whole page, and an answer to it. */
import { html, signal, useState } from '/vendor/@/ui.js';
import { CopyButton, highlighted } from '../lib/code.js';

/** @typedef {import('../lib/openapi.js').Operation} Operation */

const KEPT = 'reference-language';

/** What a reader chose before; storage may be shut. */
function kept() {
  try {
    return localStorage.getItem(KEPT) ?? 'Python';
  } catch {
    return 'Python';
  }
}

const language = signal(kept());

/** @param {string} label */
function choose(label) {
  language.value = label;
  try {
    localStorage.setItem(KEPT, label);
  } catch {
    // Chosen for this visit only.
  }
}

/** @param {{name: string, legend: string, choices: string[], chosen: string, onChoose: (choice: string) => void}} props */
const Choice = ({ name, legend, choices, chosen, onChoose }) => html`<fieldset class="seg"><legend class="sr">${legend}</legend>
  ${choices.map(choice => html`<label key=${choice}>
    <input type="radio" name=${name} checked=${choice === chosen} onChange=${() => onChoose(choice)} /><span>${choice}</span></label>`)}
</fieldset>`;

/** @param {{text: string, label: string}} props */
const Block = ({ text, label }) => html`<div class="code">
  <pre tabindex="0" aria-label=${label}><code>${highlighted(text)}</code></pre><${CopyButton} text=${text} label=${`Copy ${label}`} /></div>`;

/** @param {{operation: Operation, origin: string, server: string}} props  what is written for `server` is shown for `origin` */
export function Code({ operation, origin, server }) {
  const { id, samples, answers } = operation;
  const titles = [...new Set(samples.map(one => one['x-example']))];
  const [title, setTitle] = useState(titles[0]);
  const ofTitle = samples.filter(one => one['x-example'] === title);
  const sample = ofTitle.find(one => one.label === language.value) ?? ofTitle[0];
  const streams = /"?stream"?[=:] ?[Tt]rue/.test(sample.source);
  const answer = answers.find(one => (one.type === 'text/event-stream') === streams) ?? answers[0];
  const told = typeof answer.example === 'string' ? answer.example : JSON.stringify(answer.example, null, 2);
  return html`<div class="top picks">
      <${Choice} name=${`${id}-language`} legend="Language" choices=${ofTitle.map(one => one.label)} chosen=${sample.label} onChoose=${choose} />
      ${titles.length > 1 ? html`<${Choice} name=${`${id}-example`} legend="Example" choices=${titles} chosen=${title} onChoose=${setTitle} />` : null}
    </div>
    <${Block} text=${sample.source.replaceAll(server, origin)} label=${`${sample.label} example`} />
    <p class="cap">Answer, <code>${answer.type}</code></p>
    <${Block} text=${told} label="answer" />`;
}
