// @ts-check
/** The fleet as the dashboard holds it: pure functions from one state and one message to the next. */

/** @typedef {'active' | 'hidden' | 'throttled' | 'paused' | 'draining' | 'loading'} NodeState */

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
 */

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
 */

/** @typedef {{at: number, totals: Totals, nodes: NodeRow[], gone?: string[], events: FleetEvent[]}} Message */

export const SAMPLES_KEPT = 120;
export const EVENTS_KEPT = 200;
// The charts have a place for every second; after a longer silence they begin anew.
const GAP_S = 5;

/** @type {Fleet} */
export const NO_FLEET = { at: 0, totals: null, nodes: new Map(), events: [], samples: [] };

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
  };
}

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
  draining: { group: 'paused', word: 'Leaving', tone: 'off' },
  loading: { group: 'loading', word: 'Loading', tone: 'info' },
};
