// @ts-check
/** The fleet as the dashboard holds it: pure functions from one state and one message to the next. */

/** @typedef {'active' | 'hidden' | 'throttled' | 'paused' | 'draining' | 'loading'} NodeState */

/** @typedef {'newcomer' | 'trusted' | 'quarantined' | 'banned'} Level */

/**
 * @typedef {object} NodeRow  see `orchestrator/domain/fleet.py`
 * @property {string} id
 * @property {'browser' | 'native' | 'cpu'} kind
 * @property {string} backend
 * @property {NodeState} state
 * @property {string} reason
 * @property {string[]} models
 * @property {number | null} tokens_per_s
 * @property {number | null} rtt_ms
 * @property {number} slots_used
 * @property {number} slots
 * @property {number} jobs_done
 * @property {number} failures
 * @property {number} reroutes
 * @property {number} connected_s   when this row was sent
 * @property {number} since         added here: server time at which the node connected
 * @property {string} agent
 * @property {string} region        "EU", "EU-DE", or empty when unknown
 * @property {Level} level
 * @property {string} identity      empty for the CPU worker
 * @property {string} runtime       kind/backend: trust is kept within one
 * @property {number} agreed        audits that it passed
 * @property {number} disagreed     and that it did not
 */

/**
 * @typedef {object} Totals
 * @property {number} nodes
 * @property {number} nodes_active
 * @property {number} queued
 * @property {number} running
 * @property {number} answered_edge
 * @property {number} answered_cloud
 * @property {number} rerouted
 * @property {number} failed
 * @property {number | null} p50_ms
 * @property {number | null} p95_ms
 * @property {'off' | 'starting' | 'ready' | 'restarting'} cpu_worker
 * @property {number} hedged
 * @property {number} audited
 * @property {number} disagreed
 * @property {number} newcomers
 * @property {number} quarantined
 */

/** @typedef {{id: string, ready: number, loading: number, queued: number, demand_tokens_per_s: number,
 *   supply_tokens_per_s: number, groups: Record<string, number>}} ModelRow */
/** @typedef {{id: string, queued: number, running: number, weight: number}} ProjectRow */

/** @typedef {{seq: number, at: number, kind: string, text: string, node_id: string | null}} FleetEvent */

/**
 * One second of the charts.
 * @typedef {{at: number, edge: number, cloud: number, p50: number | null, p95: number | null}} Sample
 */

/**
 * @typedef {object} Fleet
 * @property {number} at         server time of the last message, seconds since the epoch; 0 = none yet
 * @property {Totals | null} totals
 * @property {Map<string, NodeRow>} nodes
 * @property {FleetEvent[]} events   newest first
 * @property {Sample[]} samples      oldest first
 * @property {ModelRow[]} models
 * @property {ProjectRow[]} projects
 */

/** @typedef {{at: number, totals: Totals, nodes: NodeRow[], gone?: string[], events: FleetEvent[],
 *   models?: ModelRow[], projects?: ProjectRow[]}} Message  left out is what has not changed */

export const SAMPLES_KEPT = 120;
export const EVENTS_KEPT = 200;
// The charts have a place for every second; after a longer silence they begin anew.
const GAP_S = 5;

/** @type {Fleet} */
export const NO_FLEET = { at: 0, totals: null, nodes: new Map(), events: [], samples: [], models: [], projects: [] };

/**
 * The first message of a connection: all rows, and the events this page has not seen.
 * @param {Fleet} fleet
 * @param {Message} message
 * @returns {Fleet}
 */
export function withSnapshot(fleet, message) {
  const restarted = startedAnew(fleet.totals, message.totals);
  const missed = message.at - fleet.at > GAP_S;
  return {
    at: message.at,
    totals: message.totals,
    nodes: new Map(message.nodes.map(row => [row.id, dated(row, message.at)])),
    events: merged(restarted ? [] : fleet.events, message.events),
    samples: restarted || missed ? [] : fleet.samples,
    ...placement(fleet, message),
  };
}

/**
 * What changed in the last second.
 * @param {Fleet} fleet
 * @param {Message} message
 * @returns {Fleet}
 */
export function withChange(fleet, message) {
  const nodes = new Map(fleet.nodes);
  for (const id of message.gone ?? []) nodes.delete(id);
  for (const row of message.nodes) nodes.set(row.id, dated(row, message.at));
  return {
    at: message.at,
    totals: message.totals,
    nodes,
    events: merged(fleet.events, message.events),
    samples: [...fleet.samples, sample(fleet, message)].slice(-SAMPLES_KEPT),
    ...placement(fleet, message),
  };
}

/** @param {Fleet} fleet @param {Message} message */
const placement = (fleet, message) => ({
  models: message.models ?? fleet.models,
  projects: message.projects ?? fleet.projects,
});

/** @param {Fleet} fleet @param {Message} message @returns {Sample} */
function sample(fleet, message) {
  const seconds = Math.max(message.at - fleet.at, 0.001);
  const before = fleet.totals ?? message.totals;
  const perSecond = (/** @type {'answered_edge' | 'answered_cloud'} */ key) =>
    Math.max(0, message.totals[key] - before[key]) / seconds;
  return {
    at: message.at,
    edge: perSecond('answered_edge'),
    cloud: perSecond('answered_cloud'),
    p50: message.totals.p50_ms,
    p95: message.totals.p95_ms,
  };
}

/** Counts that fell mean that another server start is talking. @param {Totals | null} before @param {Totals} now */
const startedAnew = (before, now) =>
  before !== null && now.answered_edge + now.answered_cloud < before.answered_edge + before.answered_cloud;

/** @param {NodeRow} row @param {number} at */
const dated = (row, at) => ({ ...row, since: at - row.connected_s });

/** @param {FleetEvent[]} known newest first @param {FleetEvent[]} fresh oldest first */
const merged = (known, fresh) => (fresh.length ? [...fresh.toReversed(), ...known].slice(0, EVENTS_KEPT) : known);

/** @type {Record<NodeState, {group: string, word: string, tone: string}>} */
export const STATES = {
  active: { group: 'active', word: 'Active', tone: 'ok' },
  hidden: { group: 'limited', word: 'Hidden', tone: 'warn' },
  throttled: { group: 'limited', word: 'Throttled', tone: 'warn' },
  paused: { group: 'paused', word: 'Paused', tone: 'off' },
  draining: { group: 'paused', word: 'Draining', tone: 'off' },
  loading: { group: 'loading', word: 'Loading', tone: 'info' },
};
