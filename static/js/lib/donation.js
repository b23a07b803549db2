// @ts-check
/** The donation of this tab: one store, and what may be done to it. The views read, the page's controls call. */
import { batch, signal } from '/vendor/@/ui.js';
import { loadChoice, saveChoice, shareOfComputer, withdraw } from './consent.js';
import { cores, deviceFacts, forgetEverything, watchSignals } from './device.js';
import { startNode } from './worker.js';

/** @typedef {import('../../worker/node.js').StatusMessage} Status */
/** @typedef {import('../../worker/node.js').Limits} Limits */
/** @typedef {import('./worker.js').RunningNode} RunningNode */

export const ACTIVITY_SECONDS = 60;

/** offered: nothing runs · running · stopping: the node says goodbye */
export const stage = signal(/** @type {'offered' | 'running' | 'stopping'} */ ('offered'));
export const choice = signal(loadChoice(cores()));
export const status = signal(/** @type {Status | null} */ (null));
export const failure = signal('');
export const pausedByVisitor = signal(false);
export const startedAt = signal(0);
export const nowMs = signal(Date.now());
/** Tokens answered in each of the last seconds, oldest first. */
export const activity = signal(/** @type {number[]} */ ([]));
/** What the visit that just ended has given. */
export const given = signal(/** @type {{jobs: number, tokens: number} | null} */ (null));

// Above this share the node's own work alone makes a processor look busy, and its pressure says nothing of others.
const PRESSURE_TELLS_BELOW = 0.5;

/** @type {RunningNode | null} */
let node = null;
/** @type {ReturnType<typeof watchSignals> | null} */
let watched = null;
let ticker = 0;
let tokensBefore = 0;

/** The visitor agrees and the node starts: the first moment at which anything of it is fetched. */
export function start() {
  if (node) return;
  watched = watchSignals(changed => node?.send({ type: 'signals', ...meant(changed) }));
  node = startNode({ limits: choice.value.limits, signals: meant(watched.now), device: deviceFacts() }, heard);
  tokensBefore = 0;
  ticker = window.setInterval(tick, 1000);
  batch(() => {
    stage.value = 'running';
    status.value = given.value = null;
    failure.value = '';
    pausedByVisitor.value = false;
    activity.value = [];
    startedAt.value = nowMs.value = Date.now();
  });
  choose({ agreed: true });
}

export function togglePause() {
  pausedByVisitor.value = !pausedByVisitor.value;
  node?.send({ type: pausedByVisitor.value ? 'pause' : 'resume' });
}

export async function stop() {
  const leaving = node;
  if (!leaving || stage.value === 'stopping') return;
  if (failure.value || status.value?.phase === 'stopped') leaving.kill(); // it is past saying goodbye
  else {
    stage.value = 'stopping';
    await leaving.stop();
  }
  ended();
}

/** The page goes away: nobody is left to wait for a goodbye. */
export function abandon() {
  if (!node) return;
  node.kill();
  ended();
}

/** Keep a part of the choice, and tell the running node. @param {Partial<import('./consent.js').Choice>} part */
export function choose(part) {
  choice.value = { ...choice.value, ...part };
  saveChoice(choice.value);
}

/** @param {Partial<Limits>} part */
export function limit(part) {
  choose({ limits: { ...choice.value.limits, ...part } });
  node?.send({ type: 'limits', ...part });
  if (watched) node?.send({ type: 'signals', ...meant({ pressure: watched.now.pressure }) });
}

/**
 * The signals without a pressure that is the node's own.
 * @template {Partial<import('../../worker/node.js').Signals>} T
 * @param {T} signals
 * @returns {T}
 */
const meant = signals =>
  signals.pressure && shareOfComputer(choice.value.limits, cores()) > PRESSURE_TELLS_BELOW ? { ...signals, pressure: null } : signals;

/** Withdraw the consent: models, key and settings leave this browser. */
export async function forget() {
  await forgetEverything();
  withdraw();
  choice.value = loadChoice(cores());
  given.value = null;
}

/** @param {import('../../worker/node.js').FromWorker} message */
function heard(message) {
  if (message.type === 'error') return fail(message.message);
  status.value = message;
  // Refused for good, not asked to stop: there is nothing to wait for.
  if (message.phase === 'stopped' && stage.value === 'running') fail(message.reason);
}

/** What cannot go on must not go on unseen either. @param {string} reason */
function fail(reason) {
  failure.value = reason || 'The node ended without saying why.';
  node?.kill();
  clearInterval(ticker);
}

function tick() {
  const tokens = status.value?.tokensDone ?? 0;
  batch(() => {
    nowMs.value = Date.now();
    activity.value = [...activity.value, tokens - tokensBefore].slice(-ACTIVITY_SECONDS);
  });
  tokensBefore = tokens;
}

function ended() {
  clearInterval(ticker);
  watched?.stop();
  node = watched = null;
  batch(() => {
    given.value = { jobs: status.value?.jobsDone ?? 0, tokens: status.value?.tokensDone ?? 0 };
    stage.value = 'offered';
  });
}
