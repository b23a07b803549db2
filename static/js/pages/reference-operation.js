// @ts-check
/** One operation: what it is for, what it takes, what it gives back, what can go wrong, code to copy. */
import { html } from '/vendor/@/ui.js';
import { CopyButton } from '../lib/code.js';
import { inside, tagOf, typeOf } from '../lib/openapi.js';
import { Code } from './reference-code.js';
import { Fields, Prose, Rows, Unfold } from './reference-fields.js';

/**
 * @typedef {import('../lib/openapi.js').Schema} Schema
 * @typedef {import('../lib/openapi.js').Operation} Operation
 * @typedef {import('../lib/openapi.js').Failure} Failure
 */

/** A long name that a narrow screen may break behind some letter. @param {string} name @param {string} letter */
const breakable = (name, letter) => name.split(letter).map((part, at) => (at ? html`${letter}<wbr />${part}` : part));

/** @param {{method: string}} props  a word first, a colour second */
export const Method = ({ method }) => html`<span class=${`method m-${method.toLowerCase()}`}>${method}</span>`;

/** @param {{doc: Schema, operation: Operation, origin: string, server: string}} props */
export const OperationView = ({ doc, operation, origin, server }) => html`
  <article class="card operation" id=${operation.id} aria-labelledby=${`${operation.id}-h`}>
    <div class="about">
      <h3 id=${`${operation.id}-h`}><a class="anchor" href=${`#${operation.id}`}>${operation.title}</a></h3>
      <p class="route"><${Method} method=${operation.method} /> <code>${breakable(operation.path, '/')}</code>
        <${CopyButton} text=${origin + operation.path} label=${`Copy the address of ${operation.title}`} /></p>
      ${operation.text ? html`<p><${Prose} text=${operation.text} /></p>` : null}
      <${Parameters} doc=${doc} operation=${operation} />
      ${operation.body ? html`<h4>Body <code class="kind">${operation.body.type}</code></h4>
        <${Fields} doc=${doc} schema=${operation.body.schema} sent=${true} />` : null}
      <${Answers} doc=${doc} operation=${operation} />
      <${Failures} failures=${operation.failures} />
    </div>
    <div class="sample"><${Code} operation=${operation} origin=${origin} server=${server} /></div>
  </article>`;

/** @param {{doc: Schema, operation: Operation}} props */
function Parameters({ doc, operation }) {
  const own = operation.parameters.filter(one => one.place !== 'header');
  const headers = operation.parameters.filter(one => one.place === 'header');
  return html`
    ${own.length ? html`<h4>Parameters</h4><${Rows} doc=${doc} rows=${own} sent=${true} />` : null}
    ${headers.length ? html`<details class="unfold first"><summary>Headers that may be sent</summary>
      <${Rows} doc=${doc} rows=${headers.map(one => ({ ...one, place: '' }))} sent=${true} /></details>` : null}`;
}

/** @param {{doc: Schema, operation: Operation}} props */
const Answers = ({ doc, operation }) => operation.answers.map(answer => {
  const schema = answer.events ?? answer.schema;
  const parts = inside(doc, schema);
  return html`<h4 key=${answer.type}>Answer <code class="kind">${answer.type}</code></h4>
    ${parts.length
      ? html`<details class="unfold first"><summary>${answer.events ? 'Each event is' : 'Fields of'} ${parts.length > 1 ? `one of ${parts.length}` : typeOf(doc, schema)}</summary>
          ${parts.length > 1
            ? html`<ul class="fields">${parts.map(one => html`<li key=${one.title}><${Unfold} doc=${doc} title=${tagOf(one.schema) ?? one.title} schema=${one.schema} sent=${false} /></li>`)}</ul>`
            : html`<${Fields} doc=${doc} schema=${schema} sent=${false} />`}</details>`
      : html`<p class="says">The bytes of the file, as they are.</p>`}`;
});

/** @param {{failures: Failure[]}} props */
const Failures = ({ failures }) => html`<h4>Errors</h4>
  <details class="unfold first"><summary>${failures.map(one => one.status).join(' · ')}</summary>
    <div class="scroll" tabindex="0" role="group" aria-label="Errors">
      <table class="failures"><thead><tr><th scope="col">Status</th><th scope="col">Code</th><th scope="col">Meaning</th></tr></thead>
        <tbody>${failures.flatMap(({ status, codes }) => codes.map(([code, meaning], at) => html`<tr key=${code}>
          ${at ? null : html`<th scope="rowgroup" rowspan=${codes.length} class="num">${status}</th>`}
          <td><code>${breakable(code, '_')}</code></td><td><${Prose} text=${meaning} /></td></tr>`))}</tbody></table>
    </div></details>`;
