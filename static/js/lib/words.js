// @ts-check
/** Words for what the server names by a code: levels of trust, purposes, outcomes, why nodes were passed over. */
import { plural } from './format.js';

/** @typedef {import('./fleet.js').Level} Level */

/** Shape and word as well as colour. @type {Record<Level, {word: string, shape: string, tone: string}>} */
export const LEVELS = {
  newcomer: { word: 'Newcomer', shape: 'diamond', tone: 'info' },
  trusted: { word: 'Trusted', shape: '', tone: 'ok' },
  quarantined: { word: 'In quarantine', shape: 'ring', tone: 'bad' },
  banned: { word: 'Banned', shape: 'square', tone: 'bad' },
};

/** Why nodes do not take a job: codes of the index and the router. @type {Record<string, {one: string, other: string}>} */
const GROUPS = {
  open: { one: '# has room', other: '# have room' },
  busy: { one: '# busy', other: '# busy' },
  newcomer: { one: '# newcomer', other: '# newcomers' },
  loading: { one: '# loading', other: '# loading' },
  not_loaded: { one: '# without the model', other: '# without the model' },
  no_memory: { one: '# with too little memory', other: '# with too little memory' },
  draining: { one: '# draining', other: '# draining' },
  quarantined: { one: '# in quarantine', other: '# in quarantine' },
  silent: { one: '# silent', other: '# silent' },
  paused: { one: '# paused', other: '# paused' },
  hidden: { one: '# hidden', other: '# hidden' },
  no_slots: { one: '# without a slot', other: '# without a slot' },
  late: { one: '# late with an answer', other: '# late with answers' },
  backing_off: { one: '# resting after a failure', other: '# resting after failures' },
  already_tried: { one: '# tried already', other: '# tried already' },
  other_region: { one: '# in another region', other: '# in other regions' },
  no_cpu_worker: { one: 'no CPU worker', other: 'no CPU worker' },
  kept_for_requests: { one: '# kept free for requests', other: '# kept free for requests' },
  too_slow: { one: '# too slow', other: '# too slow' },
};

/** A group of nodes and how many are in it. @param {string} group @param {number} nodes */
export const grouped = (group, nodes) => plural(nodes, GROUPS[group] ?? { one: `# ${spelled(group)}`, other: `# ${spelled(group)}` });

/** @type {Record<string, {word: string, means: string}>} */
const PURPOSES = {
  serve: { word: 'Answer', means: 'Its answer may be delivered at once.' },
  trial: { word: 'Trial', means: 'A newcomer’s answer, delivered only if the CPU worker’s agrees.' },
  load: { word: 'Load', means: 'The node loads the model first; the job waits for that.' },
  hedge: { word: 'Hedge', means: 'A second start, because the first takes unusually long.' },
  audit: { word: 'Audit', means: 'Repeats an answer that was delivered already, to check it.' },
  replay: { word: 'Replay', means: 'A task whose right answer is known, to check the node.' },
};

/** @param {string} purpose */
export const purposeOf = purpose => PURPOSES[purpose] ?? { word: capital(spelled(purpose)), means: '' };

/** @type {Record<string, {word: string, tone: string}>} */
const OUTCOMES = {
  running: { word: 'Running', tone: 'info' },
  loading: { word: 'Loads the model', tone: 'info' },
  answered: { word: 'Answered', tone: 'ok' },
  cancelled: { word: 'Cancelled', tone: 'off' },
  unplaced: { word: 'Not placed', tone: 'warn' },
  closed: { word: 'Node left', tone: 'warn' },
  silence: { word: 'Node fell silent', tone: 'warn' },
  lease: { word: 'Lease ended', tone: 'warn' },
  failed: { word: 'Node failed', tone: 'bad' },
  handed_back: { word: 'Handed back', tone: 'warn' },
  distrusted: { word: 'Not trusted', tone: 'bad' },
};

/** @param {string} outcome */
export const outcomeOf = outcome => OUTCOMES[outcome] ?? { word: capital(spelled(outcome)), tone: 'off' };

/** @type {Record<string, string>} */
const CHECKS = { audit: 'Audit', replay: 'Known answer', pair: 'Two nodes' };

/** How a disagreement was found. @param {string} kind */
export const checkOf = kind => CHECKS[kind] ?? capital(spelled(kind));

/** The start of a long digest, enough to tell it from others. @param {string} identity */
export const brief = identity => (/^[0-9a-f]{64}$/.test(identity) ? identity.slice(0, 12) : identity);

/** @param {string} code */
const spelled = code => code.replaceAll('_', ' ');

/** @param {string} text */
const capital = text => text.charAt(0).toUpperCase() + text.slice(1);
