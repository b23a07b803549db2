// @ts-check
/** Keeps live rows where they are while somebody points at them or is in them by keyboard. */
import { useEffect, useRef, useState } from '/vendor/@/ui.js';

/**
 * Whether the rows are held, and what to spread on the element around them. A dialog that was opened
 * from a row still counts as being in it: the focus will come back.
 * @returns {{held: boolean, hold: Record<string, unknown>}}
 */
export function useHeld() {
  const around = useRef(/** @type {HTMLElement | null} */ (null));
  const [focused, setFocused] = useState(false);
  const [pointed, setPointed] = useState(false);
  const inside = (/** @type {Element | null} */ element) =>
    element !== null && (around.current?.contains(element) || element.closest('dialog') !== null);
  useEffect(() => {
    // A row that goes takes the focus and the pointer with it and tells nobody.
    if (focused && !inside(document.activeElement)) setFocused(false);
    if (pointed && !around.current?.matches(':hover')) setPointed(false);
  });
  return {
    held: focused || pointed,
    hold: {
      ref: around,
      onfocusin: () => setFocused(true),
      onfocusout: (/** @type {FocusEvent} */ event) => setFocused(inside(/** @type {Element | null} */ (event.relatedTarget))),
      onpointerenter: (/** @type {PointerEvent} */ event) => setPointed(event.pointerType === 'mouse'),
      onpointerleave: () => setPointed(false),
    },
  };
}

/**
 * Rows in the order they had when they were last free; whoever is gone is left out.
 * @template {{id: string}} T
 * @param {T[]} rows     in the order they should have
 * @param {boolean} held
 * @param {string} key   another key is another list, which has no order to keep
 * @param {ReadonlyMap<string, T>} all
 * @returns {T[]}
 */
export function useKeptOrder(rows, held, key, all) {
  const kept = useRef({ key, ids: /** @type {string[]} */ ([]) });
  if (!held || kept.current.key !== key) kept.current = { key, ids: rows.map(row => row.id) };
  return held ? kept.current.ids.flatMap(id => all.get(id) ?? []) : rows;
}
