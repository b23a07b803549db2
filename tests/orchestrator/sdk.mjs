// @ts-check
// The official `openai` npm package, unmodified: every operation there is, against BASE_URL.
// Prints {"<claim>": null or "what was wrong"} and nothing else; test_sdk_node.py asks for it.
import assert from 'node:assert/strict';

const {BASE_URL, API_KEY, PROJECT_ID, OPENAI_PACKAGE, SUMMARY, EMBEDDINGS, IAB} = process.env;
const {default: OpenAI, toFile} = await import(String(OPENAI_PACKAGE));

const options = {
  baseURL: BASE_URL,
  apiKey: 'unused',
  defaultHeaders: {'x-api-key': API_KEY, 'x-project-id': PROJECT_ID},
  maxRetries: 0,
  timeout: 30_000,
};
const client = new OpenAI(options);
const TEXT = 'the cat sat. a dog ran home';
const messages = [{role: 'user', content: TEXT}];
const ENDED = new Set(['completed', 'failed', 'expired', 'cancelled']);

const batchFile = (/** @type {string[]} */ texts) =>
  texts
    .map((text, number) => ({
      custom_id: `q-${number}`,
      method: 'POST',
      url: '/v1/chat/completions',
      body: {model: SUMMARY, messages: [{role: 'user', content: text}]},
    }))
    .map((line) => JSON.stringify(line) + '\n')
    .join('');

const all = async (/** @type {AsyncIterable<any>} */ items) => {
  const seen = [];
  for await (const item of items) seen.push(item);
  return seen;
};

/** @type {Record<string, () => Promise<void>>} */
const claims = {
  'a response is typed and says who made it': async () => {
    const {data, response, request_id} = await client.responses
      .create({model: SUMMARY, input: TEXT})
      .withResponse();
    assert.equal(data.output_text, 'the cat sat');
    assert.equal(response.headers.get('x-inference-type'), 'edge');
    assert.equal(request_id, response.headers.get('x-request-id'));
  },
  'a response is streamed as events': async () => {
    const events = await all(await client.responses.create({model: SUMMARY, input: TEXT, stream: true}));
    assert.equal(events[0].type, 'response.created');
    assert.equal(events.at(-1).response.status, 'completed');
    const stream = client.responses.stream({model: SUMMARY, input: TEXT});
    let said = '';
    stream.on('response.output_text.delta', (/** @type {any} */ event) => (said += event.delta));
    const final = await stream.finalResponse();
    assert.equal(said, 'the cat sat ');
    assert.equal(final.output_text, said);
  },
  'a completion is typed': async () => {
    const completion = await client.chat.completions.create({model: SUMMARY, messages});
    assert.equal(completion.choices[0].message.content, 'the cat sat');
    assert.equal(completion.usage.completion_tokens, 3);
  },
  'a completion is streamed in chunks with its usage': async () => {
    const request = {model: SUMMARY, messages, stream: true, stream_options: {include_usage: true}};
    const chunks = await all(await client.chat.completions.create(request));
    assert.equal(chunks.map((chunk) => chunk.choices[0]?.delta.content ?? '').join(''), 'the cat sat ');
    assert.equal(chunks.at(-1).usage.completion_tokens, 3);
    const stream = client.chat.completions.stream({model: SUMMARY, messages});
    assert.equal(await stream.finalContent(), 'the cat sat ');
    assert.equal((await stream.finalChatCompletion()).choices[0].finish_reason, 'stop');
  },
  'a stream can be left in the middle': async () => {
    const stream = await client.chat.completions.create({model: SUMMARY, messages, stream: true});
    for await (const _ of stream) break;
    assert.ok(stream.controller.signal.aborted);
  },
  'embeddings are numbers by default and when asked for': async () => {
    const byDefault = await client.embeddings.create({model: EMBEDDINGS, input: ['the cat', 'a dog']});
    const floats = await client.embeddings.create({model: EMBEDDINGS, input: 'the cat', encoding_format: 'float'});
    assert.equal(byDefault.data[0].embedding.length, 384);
    assert.deepEqual(Array.from(byDefault.data[0].embedding), floats.data[0].embedding);
  },
  'models are listed and found': async () => {
    const listed = (await all(client.models.list())).map((model) => model.id);
    assert.ok(listed.includes(SUMMARY) && listed.includes(IAB));
    assert.equal((await client.models.retrieve(String(IAB))).owned_by, 'zerogpu');
  },
  'errors are of their own classes': async () => {
    await assert.rejects(client.moderations.create({input: 'a text'}), (/** @type {any} */ error) => {
      assert.ok(error instanceof OpenAI.NotFoundError);
      return error.code === 'model_not_found';
    });
    await assert.rejects(client.responses.create({model: EMBEDDINGS, input: TEXT, stream: true}), OpenAI.BadRequestError);
    await assert.rejects(client.batches.retrieve('batch_0'), OpenAI.NotFoundError);
    const stranger = new OpenAI({...options, defaultHeaders: {'x-api-key': 'zgpu-api-x'}});
    await assert.rejects(stranger.models.list(), OpenAI.AuthenticationError);
  },
  'files are kept, listed in pages, read and deleted': async () => {
    const content = batchFile([TEXT]);
    /** @type {any[]} */
    const made = [];
    for (const name of ['a', 'b', 'c']) {
      made.push(await client.files.create({file: await toFile(Buffer.from(content), `${name}.jsonl`), purpose: 'batch'}));
    }
    assert.equal(made[0].bytes, content.length);
    assert.equal((await client.files.waitForProcessing(made[0].id)).status, 'processed');
    assert.equal((await client.files.retrieve(made[1].id)).filename, 'b.jsonl');
    const ids = (await all(client.files.list({limit: 2, order: 'asc'}))).map((file) => file.id);
    assert.deepEqual(ids.filter((id) => made.some((file) => file.id === id)), made.map((file) => file.id));
    assert.equal(await (await client.files.content(made[2].id)).text(), content);
    assert.ok((await client.files.delete(made[0].id)).deleted);
    await assert.rejects(client.files.content(made[0].id), OpenAI.NotFoundError);
  },
  'a batch runs to its end': async () => {
    const content = batchFile([TEXT, 'a dog ran. the cat', 'cat '.repeat(90)]);
    const file = await client.files.create({file: await toFile(Buffer.from(content), 'in.jsonl'), purpose: 'batch'});
    let batch = await client.batches.create({
      input_file_id: file.id,
      endpoint: '/v1/chat/completions',
      completion_window: '24h',
      metadata: {job: 'sdk'},
    });
    assert.equal(batch.status, 'in_progress');
    for (let poll = 0; poll < 5000 && !ENDED.has(batch.status); poll++) batch = await client.batches.retrieve(batch.id);
    assert.deepEqual(batch.request_counts, {total: 3, completed: 2, failed: 1});
    const output = await (await client.files.content(String(batch.output_file_id))).text();
    const said = output.trim().split('\n').map((line) => JSON.parse(line).response.body.choices[0].message.content);
    assert.deepEqual(said.sort(), ['a dog ran', 'the cat sat']);
    const errors = await (await client.files.content(String(batch.error_file_id))).text();
    assert.equal(JSON.parse(errors).error.code, 'context_length_exceeded');
    assert.equal((await client.batches.list({limit: 1})).data[0].id, batch.id);
    await assert.rejects(client.batches.cancel(batch.id), OpenAI.ConflictError);
  },
};

/** @type {Record<string, string | null>} */
const found = {};
for (const [claim, check] of Object.entries(claims)) {
  try {
    await check();
    found[claim] = null;
  } catch (error) {
    found[claim] = error instanceof Error ? String(error.stack) : String(error);
  }
}
console.log(JSON.stringify(found));
