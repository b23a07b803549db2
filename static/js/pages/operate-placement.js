// @ts-check
/** Which models are where and whether that is enough; what waits, project by project. */
import { html } from '/vendor/@/ui.js';
import { count, percent, rate } from '../lib/format.js';
import { grouped } from '../lib/words.js';

/** @typedef {import('../lib/fleet.js').ModelRow} ModelRow */
/** @typedef {import('../lib/fleet.js').ProjectRow} ProjectRow */

/** @param {{row: ModelRow}} props */
function Supply({ row }) {
  const { demand_tokens_per_s: demand, supply_tokens_per_s: supply } = row;
  const tight = demand > supply;
  return html`<span class=${`supply num c-${tight ? 'warn' : 'ok'}`}><progress class="bar" max=${Math.max(supply, 1)} value=${Math.min(demand, Math.max(supply, 1))} aria-label=${`Demand on ${row.id}`}></progress>
    <span><b>${count(demand)}</b> of ${count(supply)} tokens/s${tight && html` <b class="t-warn">More than nodes can do</b>`}</span></span>`;
}

/** @param {{row: ModelRow}} props */
const Model = ({ row }) => html`<tr><th scope="row"><span class="mono">${row.id}</span></th>
  <td class="r num" data-label="Ready">${count(row.ready)}</td><td class="r num" data-label="Loading">${count(row.loading)}</td><td class="r num" data-label="Queued">${count(row.queued)}</td>
  <td class="w"><${Supply} row=${row} /></td>
  <td class="w"><span class="tags">${Object.entries(row.groups).map(([group, nodes]) => html`<span key=${group} class="tag num">${grouped(group, nodes)}</span>`)}
    ${Object.keys(row.groups).length === 0 && html`<span class="muted">No node is ready for it</span>`}</span></td></tr>`;

/** @param {{models: ModelRow[], known: boolean}} props  `known`: the first message has come */
export const Models = ({ models, known }) => html`<section class="card" aria-labelledby="models-h"><header><h2 id="models-h">Where models are</h2></header>
  <div class="tablewrap"><div class="scroll" tabindex="0" role="region" aria-label="Table of models">${models.length > 0 && html`<table class="tbl stacks"><caption class="sr">Models</caption>
    <thead><tr><th scope="col">Model</th><th scope="col" class="r">Ready</th><th scope="col" class="r">Loading</th><th scope="col" class="r">Queued</th><th scope="col">Demand of supply</th><th scope="col">Nodes by what they do</th></tr></thead>
    <tbody>${models.map(row => html`<${Model} key=${row.id} row=${row} />`)}</tbody></table>`}
    ${known && models.length === 0 && html`<p class="muted small empty">This server has no model. Build one with wasm_build.</p>`}</div></div></section>`;

/** @param {{row: ProjectRow, all: number}} props  `all`: jobs waiting over all projects */
const Project = ({ row, all }) => html`<tr><th scope="row"><span class="mono">${row.id}</span></th>
  <td class="r num" data-label="Waiting">${count(row.queued)}</td><td class="r num" data-label="Running">${count(row.running)}</td>
  <td class="r num" data-label="Weight">${rate(row.weight)}</td>
  <td class="w"><span class="supply num c-info"><progress class="bar" max=${Math.max(all, 1)} value=${row.queued} aria-label=${`Share of the queue of ${row.id}`}></progress>
    <span>${row.queued ? html`<b>${percent(row.queued / all)}</b> of all that waits` : 'Nothing waits'}</span></span></td></tr>`;

/** @param {{projects: ProjectRow[], known: boolean}} props */
export function Projects({ projects, known }) {
  const all = projects.reduce((sum, row) => sum + row.queued, 0);
  const rows = projects.toSorted((left, right) => right.queued - left.queued || right.running - left.running);
  return html`<section class="card" aria-labelledby="projects-h"><header><h2 id="projects-h">What waits and runs</h2></header>
    <div class="tablewrap"><div class="scroll" tabindex="0" role="region" aria-label="Table of projects">${rows.length > 0 && html`<table class="tbl stacks"><caption class="sr">Projects, the longest queue first</caption>
      <thead><tr><th scope="col">Project</th><th scope="col" class="r">Waiting</th><th scope="col" class="r">Running</th><th scope="col" class="r">Weight</th><th scope="col">Share of the queue</th></tr></thead>
      <tbody>${rows.map(row => html`<${Project} key=${row.id} row=${row} all=${all} />`)}</tbody></table>`}
      ${known && rows.length === 0 && html`<p class="muted small empty">No project has a job waiting or running.</p>`}</div></div></section>`;
}
