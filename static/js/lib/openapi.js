// @ts-check
/** What a page reads out of an OpenAPI 3.1 document: operations by tag, types in words, fields. Pure. */
import { count } from './format.js';

/**
 * @typedef {Record<string, any>} Schema
 * @typedef {{name: string, schema: Schema, required: boolean, text: string, place?: string}} Field
 * @typedef {{status: string, text: string, codes: [string, string][]}} Failure
 * @typedef {object} Operation
 * @property {string} id
 * @property {string} tag
 * @property {string} method
 * @property {string} path
 * @property {string} title
 * @property {string} text
 * @property {Field[]} parameters
 * @property {{schema: Schema, type: string} | null} body
 * @property {{schema: Schema, type: string, example: unknown, events?: Schema}[]} answers
 * @property {Failure[]} failures
 * @property {{lang: string, label: string, source: string, 'x-example': string}[]} samples
 * @property {string} words  what a search looks through
 */

const METHODS = new Set(['get', 'post', 'delete']);

/**
 * Follow references until there is something.
 * @param {Schema} doc
 * @param {Schema} thing
 * @returns {Schema}
 */
export function resolve(doc, thing) {
  let found = thing;
  while (found?.$ref) found = found.$ref.slice(2).split('/').reduce((/** @type {Schema} */ at, /** @type {string} */ name) => at[name], doc);
  return found;
}

/** @param {Schema} doc @returns {{tag: string, text: string, operations: Operation[]}[]} in the document's order */
export function groups(doc) {
  const all = Object.entries(doc.paths).flatMap(([path, methods]) =>
    Object.keys(methods).filter(method => METHODS.has(method)).map(method => operation(doc, path, method, methods[method])));
  return doc.tags.map((/** @type {{name: string, description: string}} */ tag) => ({
    tag: tag.name, text: tag.description, operations: all.filter(one => one.tag === tag.name),
  }));
}

/** @param {Schema} doc @param {string} path @param {string} method @param {Schema} raw @returns {Operation} */
function operation(doc, path, method, raw) {
  const parameters = raw.parameters.map((/** @type {Schema} */ one) => resolve(doc, one)).map((/** @type {Schema} */ one) => ({
    name: one.name, schema: one.schema, required: one.required === true, text: one.description ?? '', place: one.in,
  }));
  const [type, content] = Object.entries(resolve(doc, raw.requestBody)?.content ?? {})[0] ?? [];
  const body = content ? { schema: content.schema, type } : null;
  const answers = Object.entries(raw.responses['200'].content).map(([kind, one]) => ({
    type: kind, schema: one.schema, example: one.example, events: one['x-event-schema'],
  }));
  const failures = Object.entries(raw.responses).filter(([status]) => status >= '400').map(([status, one]) => {
    const answer = resolve(doc, one);
    return { status, text: answer.description, codes: /** @type {[string, string][]} */ (Object.entries(answer['x-codes'])) };
  });
  const named = [...parameters, ...(body ? fields(doc, body.schema) : [])].map(one => one.name);
  return {
    id: raw.operationId, tag: raw.tags[0], method: method.toUpperCase(), path, title: raw.summary,
    text: raw.description === raw.summary ? '' : raw.description,
    parameters, body, answers, failures, samples: raw['x-codeSamples'],
    words: [raw.operationId, raw.tags[0], method, path, raw.summary, raw.description, ...named].join(' ').toLowerCase(),
  };
}

/** Whether every word of a search is in it. @param {Operation} one @param {string} search */
export const matches = (one, search) => search.toLowerCase().split(/\s+/).every(word => one.words.includes(word));

/** The alternatives of a schema, `null` left out. @param {Schema} schema @returns {Schema[]} */
const variants = schema => (schema.anyOf ?? schema.oneOf ?? [schema]).filter((/** @type {Schema} */ one) => one.type !== 'null');

/** @param {Schema} schema */
const nullable = schema => schema.type === 'null' || (schema.anyOf ?? []).some((/** @type {Schema} */ one) => one.type === 'null');

/**
 * A type in words, such as `string or array of Message`.
 * @param {Schema} doc
 * @param {Schema} schema
 * @param {{nulls?: boolean}} options  whether to say that it may be null
 * @returns {string}
 */
export function typeOf(doc, schema, { nulls = false } = {}) {
  const words = [...new Set(variants(schema).map(one => single(doc, one)))];
  if (nulls && nullable(schema)) words.push('null');
  return words.length ? words.join(' or ') : 'null';
}

/** @param {Schema} doc @param {Schema} schema @returns {string} */
function single(doc, schema) {
  if (schema.$ref) return schema.$ref.split('/').at(-1);
  if ('const' in schema) return JSON.stringify(schema.const);
  if (schema.enum?.length === 1) return JSON.stringify(schema.enum[0]);
  if (schema.format === 'binary') return 'file';
  if (schema.type === 'array') {
    const inner = typeOf(doc, schema.items ?? {}, { nulls: true });
    return `array of ${inner.includes(' or ') ? `(${inner})` : inner}`;
  }
  if (schema.type === 'object' && schema.additionalProperties?.type) return `object of ${single(doc, schema.additionalProperties)}`;
  return schema.type ?? 'any';
}

/**
 * What a value has to keep to, in phrases.
 * @param {Schema} schema
 * @returns {string[]}
 */
export function limits(schema) {
  const said = [];
  for (const one of variants(schema)) {
    const number = span(one.minimum, one.maximum);
    if (number) said.push(number);
    const letters = span(one.minLength, one.maxLength);
    if (letters) said.push(letters === NOT_EMPTY ? 'not empty' : `${letters} characters`);
    const items = span(one.minItems, one.maxItems);
    if (items) said.push(items === NOT_EMPTY ? 'not empty' : `${items} items`);
    if (one.enum?.length > 1) said.push(`one of ${one.enum.map((/** @type {unknown} */ value) => JSON.stringify(value)).join(', ')}`);
  }
  const fixed = schema.enum?.length === 1 || 'const' in schema;
  if ('default' in schema && !fixed && schema.default !== null) said.push(`default ${JSON.stringify(schema.default)}`);
  return said;
}

const NOT_EMPTY = 'at least 1';

/** @param {number | undefined} low @param {number | undefined} high */
function span(low, high) {
  if (low === undefined && high === undefined) return '';
  if (high === undefined || high >= 2 ** 30) return `at least ${count(low ?? 0)}`;
  return low === undefined ? `at most ${count(high)}` : `${count(low)} to ${count(high)}`;
}

/** The fields of an object. @param {Schema} doc @param {Schema} schema @returns {Field[]} those that must be sent first */
export function fields(doc, schema) {
  const object = resolve(doc, schema);
  const all = Object.entries(object.properties ?? {}).map(([name, one]) => ({
    name, schema: one, required: (object.required ?? []).includes(name), text: one.description ?? '',
  }));
  return [...all.filter(one => one.required), ...all.filter(one => !one.required)];
}

/**
 * The objects that a value is or holds, to be unfolded.
 * @param {Schema} doc
 * @param {Schema} schema
 * @returns {{title: string, schema: Schema}[]}
 */
export function inside(doc, schema) {
  const found = variants(schema).flatMap(one => {
    if (one.type === 'array') return inside(doc, one.items ?? {});
    if (one.type === 'object' && one.additionalProperties?.$ref) return inside(doc, one.additionalProperties);
    const object = resolve(doc, one);
    return object.properties ? [{ title: one.$ref ? single(doc, one) : 'object', schema: object }] : [];
  });
  return found.filter((one, at) => found.findIndex(other => other.title === one.title) === at);
}

/** What the `type` of an object always is, if it has one. @param {Schema} schema @returns {string | undefined} */
export function tagOf(schema) {
  const known = schema.properties?.type?.enum ?? [];
  return known.length === 1 ? known[0] : undefined;
}
