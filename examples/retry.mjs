// @ts-check
// A retry loop of one's own in JavaScript, with nothing but fetch (Node 20 or newer):
//
//     ZEROGPU_API_KEY=zgpu-api-… node examples/retry.mjs
//
// Only what may get better is tried again: a busy or failing server, a network that failed.

const {ZEROGPU_URL = 'http://127.0.0.1:8000', ZEROGPU_MODEL = 'zlm-v1-summary-cloud', ZEROGPU_API_KEY} = process.env;
const RETRIABLE = new Set([408, 429, 500, 502, 503, 504]);
const LONGEST_WAIT_S = 30;

/** @param {number} seconds */
const pause = (seconds) => new Promise((resolve) => setTimeout(resolve, seconds * 1000));

/**
 * Returns the answer to `body`; throws after the last try, and at once where trying is no use.
 * @param {object} body
 */
export async function ask(body, {tries = 6, timeoutS = 30} = {}) {
  const headers = {
    'content-type': 'application/json',
    'x-api-key': String(ZEROGPU_API_KEY),
    // The same for all tries: one that was answered after all is not charged twice.
    'idempotency-key': crypto.randomUUID(),
  };
  for (let attempt = 1; ; attempt++) {
    let toldS = null;
    try {
      const signal = AbortSignal.timeout(timeoutS * 1000);
      const reply = await fetch(`${ZEROGPU_URL}/v1/responses`, {
        method: 'POST',
        headers,
        body: JSON.stringify(body),
        signal,
      });
      if (reply.ok) return await reply.json();
      if (!RETRIABLE.has(reply.status) || attempt === tries) {
        throw new Error(`${reply.status}: ${await reply.text()}`, {cause: 'answered'});
      }
      toldS = reply.headers.get('retry-after');
    } catch (error) {
      if (attempt === tries || (error instanceof Error && error.cause === 'answered')) throw error;
    }
    // Twice as long each time, and not all clients at once; unless the server says when.
    await pause(toldS ? Number(toldS) : Math.min(2 ** (attempt - 1), LONGEST_WAIT_S) + Math.random());
  }
}

if (!ZEROGPU_API_KEY) {
  console.error('Set ZEROGPU_API_KEY to an API key: `zerogpu keys create` makes one.');
  process.exit(1);
}
const input = 'The ferry leaves at noon. It was late all week. Nobody knows why.';
const response = await ask({model: ZEROGPU_MODEL, input});
console.log(response.output[0].content[0].text);
