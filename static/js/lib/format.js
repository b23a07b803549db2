// @ts-check
/** Numbers, sizes and times in the visitor's own notation. Pure, apart from reading the locale once. */

const language = document.documentElement.lang || 'en';
// The page's language in the visitor's region: en-GB has a 24-hour clock, en-US has not.
const locale = navigator.languages?.find(tag => tag.split('-')[0] === language) ?? language;

const whole = new Intl.NumberFormat(locale, { maximumFractionDigits: 0 });
const oneDigit = new Intl.NumberFormat(locale, { minimumFractionDigits: 1, maximumFractionDigits: 1 });
const share = new Intl.NumberFormat(locale, { style: 'percent', maximumFractionDigits: 0 });
const compact = new Intl.NumberFormat(locale, { notation: 'compact', maximumFractionDigits: 1 });
const megabytes = new Intl.NumberFormat(locale, { style: 'unit', unit: 'megabyte', maximumFractionDigits: 1 });
const relative = new Intl.RelativeTimeFormat(locale, { numeric: 'auto', style: 'narrow' });
const clock = new Intl.DateTimeFormat(locale, { hour: '2-digit', minute: '2-digit', second: '2-digit' });
const dayAndClock = new Intl.DateTimeFormat(locale, { day: 'numeric', month: 'short', hour: '2-digit', minute: '2-digit', second: '2-digit' });
const plurals = new Intl.PluralRules(locale);

/** @param {number} value */
export const count = value => whole.format(value);

/** Up to four figures in full, then 12.3K. @param {number} value */
export const short = value => (Math.abs(value) < 10_000 ? whole : compact).format(value);

/** One decimal below 100, none above. @param {number} value */
export const rate = value => (value < 100 ? oneDigit : whole).format(value);

/** @param {number} part 0 … 1 */
export const percent = part => share.format(part);

/** Decimal megabytes. @param {number} value bytes */
export const bytes = value => megabytes.format(value / 1e6);

/** @param {number} seconds since it happened */
export function ago(seconds) {
  if (seconds < 60) return relative.format(-Math.max(0, Math.round(seconds)), 'second');
  if (seconds < 3600) return relative.format(-Math.round(seconds / 60), 'minute');
  return relative.format(-Math.round(seconds / 3600), 'hour');
}

/** A length of time with its two largest units: 42s, 3m 5s, 2h 10m. @param {number} seconds */
export function duration(seconds) {
  const total = Math.max(0, Math.floor(seconds));
  const [d, h, m, s] = [Math.floor(total / 86400), Math.floor(total / 3600) % 24, Math.floor(total / 60) % 60, total % 60];
  const units = d ? [[d, 'day'], [h, 'hour']] : h ? [[h, 'hour'], [m, 'minute']] : m ? [[m, 'minute'], [s, 'second']] : [[s, 'second']];
  return units
    .filter(([value], index) => index === 0 || value)
    .map(([value, unit]) => new Intl.NumberFormat(locale, { style: 'unit', unit: String(unit), unitDisplay: 'narrow' }).format(Number(value)))
    .join(' ');
}

/** @param {number} at seconds since the epoch */
export const time = at => clock.format(at * 1000);

/** With the day, for what may be long ago. @param {number} at seconds since the epoch */
export const moment = at => dayAndClock.format(at * 1000);

/** A short length of time, measured finely: 41.2 ms, 3.2 s. @param {number} seconds */
export const span = seconds => (seconds < 1 ? `${rate(seconds * 1000)} ms` : `${rate(seconds)} s`);

/**
 * Choose a sentence by number: `plural(2, {one: '# tab', other: '# tabs'})`.
 * @param {number} value
 * @param {{one: string, other: string}} forms
 */
export const plural = (value, forms) =>
  (plurals.select(value) === 'one' ? forms.one : forms.other).replace('#', count(value));
