// @ts-check
/** The console's routes beside the live stream: what is read now and then, and the orders that are given. */
import { useEffect, useRef, useState } from '/vendor/@/ui.js';

const UNREACHABLE = 'The server cannot be reached. This is what it said last.';

/** @typedef {'drain' | 'resume' | 'quarantine' | 'ban' | 'release'} Order */
/** @typedef {{id: string, identity: string, runtime: string}} Subject  `id` is empty when no node is meant */

/** Where a standing is. @param {{identity: string, runtime: string}} subject */
export const standingPath = ({ identity, runtime }) => `standings/${identity}/${runtime}`;

/**
 * Give an order; throws with the server's sentence when it is not taken.
 * @param {Order} order
 * @param {Subject} subject
 */
export function give(order, subject) {
  const path = order === 'drain' || order === 'resume' ? `nodes/${encodeURIComponent(subject.id)}` : standingPath(subject);
  return ask(path, { method: 'POST', body: JSON.stringify({ order }) });
}

/**
 * @param {string} path below /console/
 * @param {RequestInit} options
 */
async function ask(path, options) {
  const reply = await fetch(`/console/${path}`, options);
  const body = await reply.json().catch(() => ({}));
  if (!reply.ok) throw new Error(body.error?.message ?? `The server answered with status ${reply.status}.`);
  return body;
}

/**
 * Read a path now and then, while somebody looks at the tab.
 * @param {string} path
 * @param {object} options
 * @param {number} options.everyMs
 * @param {boolean} [options.still]     read once, then leave what is shown as it is
 * @param {number} [options.revision]   a new number means: read again now
 * @returns {{value: any, error: string}}  `value` is null until something has come
 */
export function usePolled(path, { everyMs, still = false, revision = 0 }) {
  const [state, setState] = useState({ value: /** @type {any} */ (null), error: '', path: '' });
  const read = useRef('');
  const version = `${path} ${revision}`;
  useEffect(() => {
    if (still && read.current === version) return undefined;
    const stop = new AbortController();
    let timer = 0;
    const turn = async () => {
      try {
        if (!document.hidden) {
          const value = await ask(path, { signal: stop.signal });
          read.current = version;
          setState({ value, error: '', path });
        }
      } catch (error) {
        if (stop.signal.aborted) return;
        const text = error instanceof TypeError ? UNREACHABLE : /** @type {Error} */ (error).message;
        setState(before => ({ ...before, error: text }));
      }
      if (!still && !stop.signal.aborted) timer = window.setTimeout(turn, everyMs);
    };
    turn();
    return () => {
      stop.abort();
      clearTimeout(timer);
    };
  }, [version, everyMs, still]);
  // What came for another path is not this one's.
  return { value: state.path === path ? state.value : null, error: state.error };
}
