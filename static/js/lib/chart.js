// @ts-check
/** Two small charts drawn as SVG paths: columns stacked per second, and lines. No library, no canvas. */
import { html } from '/vendor/@/ui.js';

const HEIGHT = 100;

/**
 * The next round number at or above a value, near enough not to waste the height.
 * @param {number} value
 */
export function roundedUp(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 3, 4, 5, 6, 8, 10].map(step => step * power).find(top => top >= value * 0.9999) ?? value;
}

/**
 * Path of columns standing on `below`.
 * @param {number[]} values
 * @param {number[]} below
 * @param {number} top       value at the upper edge
 * @param {number} slots     columns that fit; the newest value is in the last
 */
export function columns(values, below, top, slots) {
  const offset = slots - values.length;
  return values
    .map((value, index) => {
      if (value <= 0) return '';
      const y = HEIGHT - (below[index] / top) * HEIGHT;
      return `M${offset + index + 0.14} ${y.toFixed(2)}v${(-(value / top) * HEIGHT).toFixed(2)}h.72V${y.toFixed(2)}z`;
    })
    .join('');
}

/**
 * Path through the values that are there; a gap in the data is a gap in the line.
 * @param {(number | null)[]} values
 * @param {number} top
 * @param {number} slots
 */
export function line(values, top, slots) {
  const offset = slots - values.length;
  let pen = 'M';
  return values
    .map((value, index) => {
      if (value === null) {
        pen = 'M';
        return '';
      }
      const point = `${pen}${offset + index + 0.5} ${(HEIGHT - (value / top) * HEIGHT).toFixed(2)}`;
      pen = 'L';
      return point;
    })
    .join('');
}

/**
 * @param {object} props
 * @param {string} props.label          what a screen reader says instead
 * @param {{tone: string, path: string, kind: 'columns' | 'line'}[]} props.series
 * @param {number} props.slots
 * @param {number} props.top
 * @param {(value: number) => string} props.format
 * @param {string} props.from           what the left edge is
 * @param {string} [props.empty]        said in the middle of an empty chart
 */
export const Chart = ({ label, series, slots, top, format, from, empty }) => html`<div class="chart" role="img" aria-label=${label}>
  <div class="scale num" aria-hidden="true">${!empty && [top, top / 2, 0].map(value => html`<span key=${value}>${format(value)}</span>`)}</div>
  <div class="plot"><svg viewBox=${`0 0 ${slots} ${HEIGHT}`} preserveAspectRatio="none" aria-hidden="true">
    <path class="rule" d=${empty ? `M0 100H${slots}` : `M0 0H${slots}M0 50H${slots}M0 100H${slots}`} />
    ${series.map(({ tone, path, kind }, index) => html`<path key=${index} class=${`${kind} c-${tone}`} d=${path} />`)}
  </svg>${empty && html`<p class="muted small">${empty}</p>`}</div>
  <div class="span" aria-hidden="true"><span>${from}</span><span>now</span></div></div>`;
