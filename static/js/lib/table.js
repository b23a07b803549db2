// @ts-check
/** Sorting, filtering and paging of rows: pure. */

/** @typedef {{key: string, descending: boolean}} Sort */

/**
 * Sort by one column; rows without a value come last either way, ties stay as they were.
 * @template T
 * @param {readonly T[]} rows
 * @param {Sort} sort
 * @param {(row: T, key: string) => string | number | null | undefined} value
 * @returns {T[]}
 */
export function sorted(rows, { key, descending }, value) {
  const sign = descending ? -1 : 1;
  return rows.toSorted((left, right) => {
    const [a, b] = [value(left, key), value(right, key)];
    if (a == null || b == null) return Number(a == null) - Number(b == null);
    if (typeof a === 'string' && typeof b === 'string') return sign * a.localeCompare(b);
    return sign * (Number(a) - Number(b));
  });
}

/**
 * The sort after a click on a column's heading: names start upwards, numbers start with the largest.
 * @param {Sort} sort
 * @param {string} key
 * @param {boolean} numeric
 * @returns {Sort}
 */
export const clicked = (sort, key, numeric) =>
  sort.key === key ? { key, descending: !sort.descending } : { key, descending: numeric };

/**
 * Rows in which every word of the query occurs.
 * @template T
 * @param {readonly T[]} rows
 * @param {string} query
 * @param {(row: T) => string} text
 * @returns {T[]}
 */
export function matching(rows, query, text) {
  const words = query.toLowerCase().split(/\s+/).filter(Boolean);
  return rows.filter(row => {
    const held = text(row).toLowerCase();
    return words.every(word => held.includes(word));
  });
}

/**
 * One page of rows; a page that no longer exists becomes the last one.
 * @template T
 * @param {readonly T[]} rows
 * @param {number} page from 0
 * @param {number} size
 */
export function paged(rows, page, size) {
  const last = Math.max(0, Math.ceil(rows.length / size) - 1);
  const at = Math.min(page, last);
  return { rows: rows.slice(at * size, at * size + size), page: at, first: at === 0, last: at === last, from: at * size };
}
