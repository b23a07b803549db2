// @ts-check
/** Starts and ends the worker that is the node. Nothing of it is fetched before `startNode` is called. */

/** @typedef {import('../../worker/node.js').ToWorker} ToWorker */
/** @typedef {import('../../worker/node.js').FromWorker} FromWorker */
/** @typedef {import('../../worker/node.js').StartMessage} StartMessage */

const URL_OF_NODE = '/static/worker/node.js';
const GOODBYE_MS = 2000;

// The page's policy lets scripts be named by this function alone, and it knows one name.
const policy = /** @type {any} */ (globalThis).trustedTypes?.createPolicy('node-worker', {
  createScriptURL: (/** @type {string} */ url) => {
    if (url !== URL_OF_NODE) throw new TypeError(`no worker at ${url}`);
    return url;
  },
});

/**
 * @typedef {object} RunningNode
 * @property {(message: ToWorker) => void} send
 * @property {() => Promise<void>} stop   let it say goodbye, then end it
 * @property {() => void} kill            end it now
 */

/**
 * @param {Omit<StartMessage, 'type'>} start
 * @param {(message: FromWorker) => void} heard
 * @returns {RunningNode}
 */
export function startNode(start, heard) {
  const worker = new Worker(policy ? policy.createScriptURL(URL_OF_NODE) : URL_OF_NODE, { type: 'module', name: 'node' });
  let onStopped = () => {};
  const message = (/** @type {MessageEvent<FromWorker>} */ { data }) => {
    heard(data);
    if (data.type === 'status' && data.phase === 'stopped') onStopped();
  };
  const broken = (/** @type {ErrorEvent} */ event) =>
    heard({ type: 'error', code: 'boot_failed', message: event.message || 'The worker could not be loaded.' });
  worker.addEventListener('message', message);
  worker.addEventListener('error', broken);
  worker.postMessage({ type: 'start', ...start });

  const kill = () => {
    worker.removeEventListener('message', message);
    worker.removeEventListener('error', broken);
    worker.terminate();
  };
  return {
    send: order => worker.postMessage(order),
    kill,
    stop: () => new Promise(resolve => {
      const end = () => {
        clearTimeout(timer);
        kill();
        resolve();
      };
      // A worker in the middle of a computation may take a while to hear it; the visitor does not wait.
      const timer = setTimeout(end, GOODBYE_MS);
      onStopped = end;
      worker.postMessage({ type: 'stop' });
    }),
  };
}
