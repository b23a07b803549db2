// @ts-check
/** Volunteer page: what would happen, the visitor's limits, and what is happening. */
import { effect, html, useEffect, useRef } from '/vendor/@/ui.js';
import { abandon, choice, failure, pausedByVisitor, stage, start, status } from '../lib/donation.js';
import { lacks } from '../lib/device.js';
import { facts, mount } from '../lib/shell.js';
import { Agreement, Given, Missing, StartButton } from './volunteer-consent.js';
import { LimitsCard } from './volunteer-limits.js';
import { LiveCard, phaseWords } from './volunteer-live.js';

const known = facts();
const missing = lacks();
const able = !missing.some(lack => lack.blocks);
const TITLE = document.title;

const Offer = () => html`<div class="stack">
  <div class="intro"><h1>Lend this tab to people who need a small model</h1>
    <p class="muted">While this page is open, your browser can answer short text jobs for the customers of this server. You set the limits, you see what it does, and you can stop at any moment.</p></div>
  <${Given} />
  <div class="grid">
    <div class="c7 stack"><${Agreement} facts=${known} /></div>
    <div class="c5 stack stay"><${LimitsCard}>
      <${Missing} missing=${missing} /><${StartButton} able=${able} /></${LimitsCard}></div>
  </div></div>`;

const Running = () => html`<div class="stack">
  <h1 class="sr">Donating this tab</h1>
  <div class="grid">
    <div class="c7 stack"><${LiveCard} facts=${known} /></div>
    <div class="c5 stack"><${LimitsCard} running=${true} /></div>
  </div>
  <details class="card agreed"><summary>What you agreed to</summary><${Agreement} facts=${known} bare=${true} /></details></div>`;

function App() {
  useEffect(() => {
    if (able && choice.value.autoStart) start();
    // A page that is put aside for the back button must not keep its node, nor come back as if it had one.
    addEventListener('pagehide', abandon);
    const retitle = effect(() => {
      document.title = stage.value === 'offered' ? TITLE
        : `${phaseWords(status.value, { failed: failure.value !== '', paused: pausedByVisitor.value }).title} · ZeroGPU`;
    });
    return () => {
      removeEventListener('pagehide', abandon);
      retitle();
    };
  }, []);
  const offered = stage.value === 'offered';
  const first = useRef(true);
  useEffect(() => {
    // The button that was pressed is gone: go on where the new view begins, not in the middle of it.
    if (!first.current) {
      document.getElementById('main')?.focus();
      scrollTo(0, 0);
    }
    first.current = false;
  }, [offered]);
  return offered ? html`<${Offer} />` : html`<${Running} />`;
}

mount('volunteer', html`<${App} />`);
