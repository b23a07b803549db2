// @ts-check
/** The API reference: the server's own OpenAPI document, to read, to search and to link to. */
import { html, signal, useEffect, useState } from '/vendor/@/ui.js';
import { CopyLine } from '../lib/code.js';
import { plural } from '../lib/format.js';
import { groups, matches } from '../lib/openapi.js';
import { Icon, mount } from '../lib/shell.js';
import { Prose } from './reference-fields.js';
import { Method, OperationView } from './reference-operation.js';

/** @typedef {import('../lib/openapi.js').Schema} Schema @typedef {ReturnType<typeof groups>} Groups */

const WIDE = matchMedia('(min-width: 1081px)');

const search = signal('');
const current = signal('');

/** @param {Groups} all @returns {Groups} what the search leaves, without groups that are empty */
const found = all => all
  .map(group => ({ ...group, operations: group.operations.filter(one => matches(one, search.value.trim())) }))
  .filter(group => group.operations.length);

/** Show what the address names: the page is longer than the browser knew when it looked. */
function goToAddress() {
  let id;
  try {
    id = decodeURIComponent(location.hash.slice(1));
  } catch {
    return; // An address that somebody mistyped: a % without its digits.
  }
  if (!id) return;
  if (!document.getElementById(id)) search.value = '';
  // Drawn anew first, where the search had hidden it.
  requestAnimationFrame(() => document.getElementById(id)?.scrollIntoView());
}

/** Note which operation is being read. @param {Groups} shown */
function useReading(shown) {
  useEffect(() => {
    const seen = new IntersectionObserver(
      entries => entries.filter(entry => entry.isIntersecting).forEach(entry => { current.value = entry.target.id; }),
      { rootMargin: '-15% 0px -75% 0px' },
    );
    document.querySelectorAll('.operation').forEach(one => seen.observe(one));
    return () => seen.disconnect();
  }, [shown.map(group => group.operations.length).join()]);
}

/** @param {{shown: Groups, total: number}} props */
function Contents({ shown, total }) {
  const [wide, setWide] = useState(WIDE.matches);
  useEffect(() => {
    const changed = () => setWide(WIDE.matches);
    WIDE.addEventListener('change', changed);
    return () => WIDE.removeEventListener('change', changed);
  }, []);
  const count = shown.reduce((sum, group) => sum + group.operations.length, 0);
  return html`<div class="contents">
    <label class="search"><span class="sr">Search the operations</span><${Icon} name="search" />
      <input type="search" placeholder="Search operations and fields" value=${search.value}
        onInput=${(/** @type {{currentTarget: HTMLInputElement}} */ event) => { search.value = event.currentTarget.value; }} /></label>
    <p class="sr" role="status">${search.value ? plural(count, { one: '# operation found', other: '# operations found' }) : ''}</p>
    <details open=${wide || search.value !== ''}><summary>${search.value ? `${count} of ${total}` : plural(total, { one: '# operation', other: '# operations' })}</summary>
      <nav aria-label="Operations">${shown.map(group => html`<div key=${group.tag}><h2>${group.tag}</h2><ul>
        ${group.operations.map(one => html`<li key=${one.id}>
          <a href=${`#${one.id}`} aria-current=${one.id === current.value ? 'location' : undefined}>
            <span>${one.title}</span><${Method} method=${one.method} /></a></li>`)}</ul></div>`)}</nav></details>
  </div>`;
}

/** @param {{doc: Schema, origin: string}} props */
const Introduction = ({ doc, origin }) => html`<section class="intro" aria-label="Introduction">
  ${doc.info.description.split('\n\n').map((/** @type {string} */ text) => html`<p key=${text}><${Prose} text=${text} /></p>`)}
  <div class="two"><div><p class="cap">Base URL of OpenAI’s clients</p><${CopyLine} text=${`${origin}/v1`} label="base URL" /></div>
    <div><p class="cap">The key</p><${CopyLine} text="x-api-key: zgpu-api-…" label="header with the key" /></div></div>
  <p class="small muted">Made from <a href="/openapi.json">/openapi.json</a> (OpenAPI ${doc.openapi}), which generators of clients read too.</p>
</section>`;

/** @param {{doc: Schema, all: Groups}} props */
function Reference({ doc, all }) {
  const shown = found(all);
  useReading(shown);
  useEffect(() => {
    goToAddress();
    addEventListener('hashchange', goToAddress);
    return () => removeEventListener('hashchange', goToAddress);
  }, []);
  const { origin } = location;
  const total = all.reduce((sum, group) => sum + group.operations.length, 0);
  return html`<div class="reference"><${Contents} shown=${shown} total=${total} />
    <div class="stack">
      ${search.value ? null : html`<${Introduction} doc=${doc} origin=${origin} />`}
      ${shown.map(group => html`<section class="stack" key=${group.tag} aria-labelledby=${`tag-${group.tag}`}>
        <div><h2 class="tag" id=${`tag-${group.tag}`}>${group.tag}</h2><p class="muted"><${Prose} text=${group.text} /></p></div>
        ${group.operations.map(one => html`<${OperationView} key=${one.id} doc=${doc} operation=${one} origin=${origin} server=${doc.servers[0].url} />`)}
      </section>`)}
      ${shown.length ? null : html`<div class="card pad"><p>No operation has “${search.value.trim()}” in its name, path or fields.</p>
        <p><button class="btn" type="button" onClick=${() => { search.value = ''; }}>Show all</button></p></div>`}
    </div></div>`;
}

try {
  const reply = await fetch('/openapi.json');
  if (!reply.ok) throw new Error(`status ${reply.status}`);
  const doc = await reply.json();
  mount('reference', html`<${Reference} doc=${doc} all=${groups(doc)} />`);
} catch (error) {
  mount('reference', html`<p class="note c-bad"><${Icon} name="triangle-alert" />
    <span>The description of the API could not be read (${String(error instanceof Error ? error.message : error)}). Load the page again.</span></p>`);
}
