// @ts-check
/** The sections of the dashboard: links with an address of their own, so that a reload comes back to it. */
import { computed, html, signal } from '/vendor/@/ui.js';

export const SECTIONS = [
  { id: 'fleet', title: 'Fleet', heading: 'Fleet' },
  { id: 'decisions', title: 'Decisions', heading: 'Decisions' },
  { id: 'trust', title: 'Trust', heading: 'Trust' },
  { id: 'models', title: 'Models', heading: 'Models' },
  { id: 'queue', title: 'Queue', heading: 'Queue by project' },
  { id: 'audit-log', title: 'Audit log', heading: 'Audit log' },
];

/** @param {string} hash */
const named = hash => SECTIONS.find(({ id }) => `#${id}` === hash);

const chosen = signal(named(location.hash)?.id ?? 'fleet');
export const section = computed(() => SECTIONS.find(({ id }) => id === chosen.value) ?? SECTIONS[0]);

/** Follow the address; returns what ends that. */
export function followAddress() {
  const follow = () => {
    // Other fragments, such as that of the skip link, lead to places within the section.
    const found = named(location.hash) ?? (location.hash === '' ? SECTIONS[0] : undefined);
    if (!found) return;
    chosen.value = found.id;
    document.title = `${found.heading} · ZeroGPU`;
  };
  follow();
  addEventListener('hashchange', follow);
  return () => removeEventListener('hashchange', follow);
}

export const Sections = () => html`<nav class="sections" aria-label="Sections">${SECTIONS.map(({ id, title }) => html`<a key=${id}
  href=${`#${id}`} aria-current=${section.value.id === id ? 'page' : undefined}>${title}</a>`)}</nav>`;
