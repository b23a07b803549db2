// @ts-check
/** Fields of a body, a query string or an answer; what is inside of one unfolds. */
import { html, useState } from '/vendor/@/ui.js';
import { fields, inside, limits, typeOf } from '../lib/openapi.js';

/** @typedef {import('../lib/openapi.js').Schema} Schema @typedef {import('../lib/openapi.js').Field} Field */

/** Text with `code` in it. @param {{text: string}} props */
export const Prose = ({ text }) => text.split('`').map((piece, at) => (at % 2 ? html`<code>${piece}</code>` : piece));

/** @param {{doc: Schema, schema: Schema, sent: boolean}} props  `sent`: by the customer, so what may be left out matters */
export const Fields = ({ doc, schema, sent }) => html`<${Rows} doc=${doc} rows=${fields(doc, schema)} sent=${sent} />`;

/** @param {{doc: Schema, rows: Field[], sent: boolean}} props */
export const Rows = ({ doc, rows, sent }) => html`<ul class="fields">
  ${rows.map(row => html`<${Row} key=${row.name} doc=${doc} row=${row} sent=${sent} />`)}</ul>`;

/** @param {{doc: Schema, row: Field, sent: boolean}} props */
function Row({ doc, row, sent }) {
  const said = limits(row.schema);
  return html`<li>
    <p class="field"><code class="name">${row.name}</code> <span class="type">${typeOf(doc, row.schema, { nulls: !sent })}</span>
      ${row.place && row.place !== 'query' ? html` <span class="place">${row.place}</span>` : null}
      ${sent && row.required ? html` <span class="must">required</span>` : null}
      ${!sent && !row.required ? html` <span class="place">not always there</span>` : null}</p>
    ${row.text ? html`<p class="says"><${Prose} text=${row.text} /></p>` : null}
    ${said.length ? html`<p class="says num">${said.join(' · ')}</p>` : null}
    ${inside(doc, row.schema).map(one => html`<${Unfold} key=${one.title} doc=${doc} title=${one.title} schema=${one.schema} sent=${sent} />`)}
  </li>`;
}

/** Fields that are drawn only once they are asked for: some objects hold each other. */
/** @param {{doc: Schema, title: string, schema: Schema, sent: boolean}} props */
export function Unfold({ doc, title, schema, sent }) {
  const [open, setOpen] = useState(false);
  return html`<details class="unfold" onToggle=${(/** @type {ToggleEvent} */ event) => setOpen(event.newState === 'open')}>
    <summary>Fields of ${title}</summary>
    ${open ? html`${schema.description ? html`<p class="says"><${Prose} text=${schema.description} /></p>` : null}
      <${Fields} doc=${doc} schema=${schema} sent=${sent} />` : null}</details>`;
}
