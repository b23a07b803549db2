// @ts-check
/** What the visitor has agreed to and set, kept in this browser only. */

/** @typedef {import('../../worker/node.js').Limits} Limits */

/** Raise it whenever what the page says would run, download or be sent changes: then nobody has agreed yet. */
export const CONSENT_VERSION = 1;
const KEY = 'zerogpu.volunteer';

/**
 * @typedef {object} Choice
 * @property {boolean} agreed      to this version, at some time
 * @property {boolean} autoStart   start by itself on the next visit
 * @property {Limits} limits
 */

/** @param {number} cores @returns {Choice} */
export const defaults = cores => ({
  agreed: false,
  autoStart: false,
  limits: { cpuShare: 0.5, threads: Math.max(1, Math.min(4, Math.floor(cores / 2))), runHidden: false, runOnBattery: false, runOnSaveData: false },
});

/**
 * Read a stored choice; whatever does not fit falls back to the default.
 * @param {string | null} stored
 * @param {number} cores
 * @returns {Choice}
 */
export function parseChoice(stored, cores) {
  const standard = defaults(cores);
  /** @type {any} */
  let held;
  try {
    held = JSON.parse(stored ?? 'null');
  } catch {
    return standard;
  }
  if (held === null || typeof held !== 'object') return standard;
  const limits = held.limits ?? {};
  const agreed = held.version === CONSENT_VERSION;
  return {
    agreed,
    autoStart: agreed && held.autoStart === true,
    limits: {
      cpuShare: within(limits.cpuShare, 0.1, 1) ?? standard.limits.cpuShare,
      threads: Math.round(within(limits.threads, 1, cores) ?? standard.limits.threads),
      runHidden: limits.runHidden === true,
      runOnBattery: limits.runOnBattery === true,
      runOnSaveData: limits.runOnSaveData === true,
    },
  };
}

/** @param {number} cores */
export const loadChoice = cores => parseChoice(localStorage.getItem(KEY), cores);

/** @param {Choice} choice */
export function saveChoice({ agreed, autoStart, limits }) {
  localStorage.setItem(KEY, JSON.stringify({ version: agreed ? CONSENT_VERSION : 0, autoStart, limits }));
}

/** Forget that anything was agreed to. */
export const withdraw = () => localStorage.removeItem(KEY);

/** The most of this computer's processor that the limits allow, 0 … 1. @param {Limits} limits @param {number} cores */
export const shareOfComputer = ({ cpuShare, threads }, cores) => Math.min(1, (cpuShare * threads) / cores);

/** @param {unknown} value @param {number} low @param {number} high */
const within = (value, low, high) => (typeof value === 'number' && value >= low && value <= high ? value : undefined);
