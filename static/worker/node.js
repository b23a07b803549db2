// @ts-check
/**
 * Worker boot: loads Pyodide and ONNX Runtime Web side by side, then hands over to Python, which owns the rest.
 *
 * Creating this worker starts the download of the runtime, so the page creates it only after consent:
 * `new Worker('/static/worker/node.js', {type: 'module'})`. Messages are plain objects with a `type`.
 *
 * ## page → worker
 *
 * @typedef {object} Limits   what the volunteer allows
 * @property {number} cpuShare        share of the time the node may compute, 0.05 … 1
 * @property {number} threads         threads of one computation, ≥ 1; more than 1 needs cross-origin isolation
 * @property {boolean} runHidden      go on while the tab is hidden (default false)
 * @property {boolean} runOnBattery   go on while the battery discharges (default false; below 20 % it pauses anyway)
 * @property {boolean} runOnSaveData  go on although the browser asks to save data (default false)
 *
 * @typedef {object} Signals  what the page sees of the device; a field the browser does not tell is null
 * @property {boolean} hidden                   document.hidden
 * @property {boolean} frozen                   the browser is about to stop the tab (the page's freeze event)
 * @property {number | null} battery            level 0 … 1
 * @property {boolean | null} charging
 * @property {boolean} saveData                 navigator.connection.saveData
 * @property {'nominal' | 'fair' | 'serious' | 'critical' | null} pressure   compute pressure of the CPU
 *
 * @typedef {object} DeviceFacts  sent once
 * @property {number} cores                     navigator.hardwareConcurrency
 * @property {number | null} memoryMb           navigator.deviceMemory × 1000
 * @property {string | null} connection         navigator.connection.effectiveType
 * @property {string | null} timeZone           IANA name
 *
 * @typedef {{type: 'start', limits: Limits, signals: Signals, device: DeviceFacts}} StartMessage
 *   the first message, once; the node connects to the worker's own origin
 * @typedef {{type: 'signals'} & Partial<Signals>} SignalsMessage   what changed
 * @typedef {{type: 'limits'} & Partial<Limits>} LimitsMessage      what changed; `threads` counts from the next start
 * @typedef {{type: 'pause'}} PauseMessage       take no more work, give back what is held, stay connected
 * @typedef {{type: 'resume'}} ResumeMessage     undo `pause`
 * @typedef {{type: 'stop'}} StopMessage         say goodbye and end: the last status has the phase `stopped`,
 *                                               then the page calls `terminate()`. For a new start make a new worker.
 * @typedef {StartMessage | SignalsMessage | LimitsMessage | PauseMessage | ResumeMessage | StopMessage} ToWorker
 *
 * ## worker → page
 *
 * @typedef {'loading' | 'calibrating' | 'ready' | 'working' | 'paused' | 'reconnecting' | 'stopped' | 'error'} Phase
 *   loading: runtime or model on its way · calibrating: measuring and answering known questions · ready: waiting for work ·
 *   working · paused: by the volunteer, or the node's own manners (see `state`, `reason`) · reconnecting: not connected,
 *   will try again · stopped: after `stop`, or the server will not have this node (see `reason`) · error: cannot go on
 *
 * @typedef {object} ModelRow
 * @property {string} id
 * @property {'loading' | 'calibrating' | 'ready' | 'failed'} state
 *
 * @typedef {object} StatusMessage  the whole state when it changed, at most four times a second;
 *   until the first one the page shows `loading`
 * @property {'status'} type
 * @property {Phase} phase
 * @property {'active' | 'hidden' | 'throttled' | 'paused' | 'draining'} state   what the server is told
 * @property {string} reason                one sentence for the visitor, '' when all is normal
 * @property {{doneBytes: number, totalBytes: number}} progress   model files: bytes here of bytes wanted; 0/0 = not known yet
 * @property {number} jobsDone              answers sent since the worker started
 * @property {number} tokensDone            tokens in them
 * @property {number} tokensPerS            measured speed, calibrated first, then of the last batches; 0 = not known yet
 * @property {string | null} nodeId         null while not connected
 * @property {ModelRow[]} models
 * @property {string} notice                last sentence the operator sent to the people at the nodes, or ''
 *
 * @typedef {object} ErrorMessage  the node cannot go on: make a new worker to try again
 * @property {'error'} type
 * @property {'boot_failed' | 'internal_error'} code   boot_failed: no status comes with it, the node never ran
 * @property {string} message               one sentence
 *
 * @typedef {StatusMessage | ErrorMessage} FromWorker
 */

const RUNTIME = '/runtime/@/';

/** @type {ToWorker[]} */
const early = [];
/** @type {(message: ToWorker) => void} */
let deliver = (message) => early.push(message);
addEventListener('message', ({data}) => deliver(data));

async function bootPython() {
  const {loadPyodide} = await import(`${RUNTIME}pyodide.mjs`);
  const python = await loadPyodide({
    indexURL: RUNTIME,
    lockFileURL: new URL(`${RUNTIME}pyodide-lock.json`, location.origin).href,
    packages: ['zerogpu-browser-node'],
  });
  // Throws when a package is missing: Pyodide itself only logs that.
  return python.pyimport('browser_node.runtimes.browser');
}

async function bootOrt() {
  const ort = await import(`${RUNTIME}ort.wasm.min.mjs`);
  ort.env.wasm.wasmPaths = RUNTIME;
  ort.env.logLevel = 'error';
  Object.assign(globalThis, {ort});
}

try {
  const [node] = await Promise.all([bootPython(), bootOrt()]);
  const started = new Promise((resolve) => {
    deliver = (message) => (message.type === 'start' ? resolve(message) : early.push(message));
    early.splice(0).forEach((message) => deliver(message));
  });
  deliver = node.start(await started);
  early.splice(0).forEach((message) => deliver(message));
} catch (error) {
  postMessage({type: 'error', code: 'boot_failed', message: `The runtime could not be started: ${error}`});
}
