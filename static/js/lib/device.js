// @ts-check
/** All that the pages ask of the browser: can it run a node, what is it like, what is it doing. */

/** @typedef {import('../../worker/node.js').Signals} Signals */
/** @typedef {import('../../worker/node.js').DeviceFacts} DeviceFacts */

/** @typedef {{id: string, text: string, blocks: boolean}} Lack  what is missing; `blocks`: a node cannot run without it */

// The smallest module that uses a 128-bit vector: engines without SIMD do not validate it.
const SIMD = new Uint8Array([0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11]);
const PRESSURE_SAMPLE_MS = 2000;

const secure = () => window.isSecureContext;
const hasSimd = () => typeof WebAssembly === 'object' && WebAssembly.validate(SIMD);

/** What this browser lacks, in words for its owner; empty when all is well. @returns {Lack[]} */
export function lacks() {
  if (!secure()) {
    return [{
      id: 'secure', blocks: true,
      text: 'This page was not loaded over a secure connection. Browsers then withhold storage, keys and threads. Ask the operator for an https address, or open it as localhost.',
    }];
  }
  /** @type {[string, boolean, boolean, string][]} */
  const checks = [
    ['workers', typeof Worker === 'function', true, 'This browser has no web workers, so the page would freeze while it computes.'],
    ['wasm', hasSimd(), true, 'This browser has no WebAssembly with SIMD, which the models need. A version of the last years has it.'],
    ['storage', typeof navigator.storage?.getDirectory === 'function', true, 'This browser has no private file storage (OPFS), so the models cannot be kept.'],
    ['keys', typeof crypto.subtle === 'object', true, 'This browser has no web cryptography, so it cannot prove who it is.'],
    ['threads', window.crossOriginIsolated === true, false, 'This page is not isolated, so only one thread can be used.'],
  ];
  return checks.filter(([, ok]) => !ok).map(([id, , blocks, text]) => ({ id, blocks, text }));
}

/** Processors this browser tells of. */
export const cores = () => navigator.hardwareConcurrency || 1;

/** Whether the browser tells about its battery; elsewhere the switch for it would do nothing. */
export const tellsBattery = () => 'getBattery' in navigator;

/** Whether the visitor has asked for less data to be used. */
export const savesData = () => connection()?.saveData === true;

const connection = () => /** @type {any} */ (navigator).connection;

/** What is sent once: coarse by design. @returns {DeviceFacts} */
export const deviceFacts = () => ({
  cores: cores(),
  memoryMb: 'deviceMemory' in navigator ? Number(navigator.deviceMemory) * 1000 : null,
  connection: connection()?.effectiveType ?? null,
  timeZone: Intl.DateTimeFormat().resolvedOptions().timeZone ?? null,
});

/**
 * Watch the signals; `changed` gets what differs from before. Returns what is known now, and what stops it.
 * @param {(changed: Partial<Signals>) => void} changed
 * @returns {{now: Signals, stop: () => void}}
 */
export function watchSignals(changed) {
  /** @type {Signals} */
  const now = { hidden: document.hidden, frozen: false, battery: null, charging: null, saveData: savesData(), pressure: null };
  const stops = /** @type {(() => void)[]} */ ([]);
  let stopped = false;

  const note = (/** @type {Partial<Signals>} */ fresh) => {
    const different = Object.fromEntries(Object.entries(fresh).filter(([key, value]) => now[/** @type {keyof Signals} */ (key)] !== value));
    if (stopped || Object.keys(different).length === 0) return;
    Object.assign(now, different);
    changed(different);
  };
  const listen = (/** @type {EventTarget | undefined} */ target, /** @type {string} */ name, /** @type {() => void} */ listener) => {
    target?.addEventListener(name, listener);
    stops.push(() => target?.removeEventListener(name, listener));
  };

  listen(document, 'visibilitychange', () => note({ hidden: document.hidden }));
  listen(document, 'freeze', () => note({ frozen: true }));
  listen(document, 'resume', () => note({ frozen: false }));
  listen(connection(), 'change', () => note({ saveData: savesData() }));
  watchBattery(note, listen);
  stops.push(watchPressure(note));
  return {
    now,
    stop: () => {
      stopped = true;
      for (const stop of stops) stop();
    },
  };
}

/**
 * @param {(fresh: Partial<Signals>) => void} note
 * @param {(target: EventTarget, name: string, listener: () => void) => void} listen
 */
async function watchBattery(note, listen) {
  if (!tellsBattery()) return;
  try {
    const battery = await /** @type {any} */ (navigator).getBattery();
    const tell = () => note({ battery: battery.level, charging: battery.charging });
    listen(battery, 'levelchange', tell);
    listen(battery, 'chargingchange', tell);
    tell();
  } catch {
    // refused by the browser's settings: the same as not telling
  }
}

/** @param {(fresh: Partial<Signals>) => void} note @returns {() => void} */
function watchPressure(note) {
  const Observer = /** @type {any} */ (window).PressureObserver;
  if (!Observer) return () => {};
  const observer = new Observer((/** @type {{state: Signals['pressure']}[]} */ records) => note({ pressure: records.at(-1)?.state ?? null }));
  observer.observe('cpu', { sampleInterval: PRESSURE_SAMPLE_MS }).catch(() => {
    // this machine has no sensor, or the browser will not say
  });
  return () => observer.disconnect();
}

/** Delete what a node keeps in this browser: models and key. Returns when it is gone. */
export async function forgetEverything() {
  const root = await navigator.storage.getDirectory();
  for await (const name of /** @type {any} */ (root).keys()) await root.removeEntry(name, { recursive: true });
  for (const name of await caches.keys()) await caches.delete(name);
  const databases = (await indexedDB.databases?.()) ?? [];
  await Promise.all(databases.map(({ name }) => new Promise(done => {
    const request = indexedDB.deleteDatabase(String(name));
    request.onsuccess = request.onerror = request.onblocked = done;
  })));
}
