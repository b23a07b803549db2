// @ts-check
/** The dashboard's one connection: server-sent events, taken up again whenever they break off. */

const HIDDEN_MS = 30_000;
const RETRY_MS = 3_000;

/** @typedef {'connecting' | 'live' | 'lost' | 'signed-out'} Connection */

/**
 * Open the stream; returns what closes it for good.
 * @param {object} handlers
 * @param {(message: any) => void} handlers.snapshot
 * @param {(message: any) => void} handlers.change
 * @param {(connection: Connection) => void} handlers.connection
 */
export function watch({ snapshot, change, connection }) {
  /** @type {EventSource | null} */
  let source = null;
  let timer = 0;

  const drop = () => {
    clearTimeout(timer);
    source?.close();
    source = null;
  };

  const signedOut = () => {
    drop();
    connection('signed-out');
  };

  // An EventSource that got an answer other than a stream gives up and does not say which.
  const whyClosed = async () => {
    try {
      const reply = await fetch('/console/session');
      if (reply.ok && !(await reply.json()).signed_in) return signedOut();
    } catch {
      // the server is not there; try again below
    }
    timer = window.setTimeout(open, RETRY_MS);
  };

  function open() {
    drop();
    source = new EventSource('/console/stream');
    source.addEventListener('snapshot', event => {
      connection('live');
      snapshot(JSON.parse(event.data));
    });
    source.addEventListener('change', event => change(JSON.parse(event.data)));
    source.addEventListener('closing', () => connection('lost'));
    source.addEventListener('signed-out', signedOut);
    source.addEventListener('error', () => {
      connection('lost');
      if (source?.readyState === EventSource.CLOSED) whyClosed();
    });
  }

  // Nobody looks at a tab that has been hidden for long: stop, and fetch all of it on return.
  const visibility = () => {
    clearTimeout(timer);
    if (document.hidden) timer = window.setTimeout(drop, HIDDEN_MS);
    else if (source === null) {
      connection('connecting');
      open();
    }
  };
  document.addEventListener('visibilitychange', visibility);
  connection('connecting');
  open();
  return () => {
    document.removeEventListener('visibilitychange', visibility);
    drop();
  };
}
