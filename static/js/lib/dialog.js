// @ts-check
/** A modal dialog of the browser's own: it keeps the focus inside, Escape closes it, the focus goes back. */
import { html, useLayoutEffect, useRef } from '/vendor/@/ui.js';
import { Icon } from './shell.js';

/**
 * @param {{title: string, onClose: () => void, wide?: boolean, children?: unknown}} props
 *   mounted while it is open
 */
export function Dialog({ title, onClose, wide = false, children }) {
  const element = useRef(/** @type {HTMLDialogElement | null} */ (null));
  useLayoutEffect(() => {
    const dialog = element.current;
    dialog?.showModal();
    // The element goes with the view; closing it first is what gives the focus back. Later effects
    // than those of the layout would be undone when it is gone already.
    return () => dialog?.close();
  }, []);
  const outside = (/** @type {MouseEvent} */ event) => {
    if (event.target === element.current) onClose();
  };
  // The view closes it, as the button has it do: once the browser has, the focus is back before the
  // view hears of it, and who opens it again at once would see it go.
  const escaped = (/** @type {Event} */ event) => {
    event.preventDefault();
    onClose();
  };
  // The event comes late: by then the element may be gone, and another dialog open in its place.
  const closed = () => {
    if (element.current) onClose();
  };
  return html`<dialog ref=${element} class=${`card dialog${wide ? ' wide' : ''}`} aria-labelledby="dialog-h" onCancel=${escaped} onClose=${closed} onClick=${outside}>
    <div class="inner"><header><h2 id="dialog-h">${title}</h2>
      <button class="btn icon quiet" type="button" aria-label="Close" onClick=${onClose}><${Icon} name="x" /></button></header>
      ${children}</div></dialog>`;
}
