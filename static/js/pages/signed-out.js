// @ts-check
/** What `/operate` is for somebody who has not signed in: how to get a link. */
import { html } from '/vendor/@/ui.js';
import { CopyLine } from '../lib/code.js';
import { Icon, mount } from '../lib/shell.js';

mount('command', html`<${CopyLine} text="zerogpu console-link" label="command" />`);
if (new URLSearchParams(location.search).get('link') === 'void') {
  mount('void-link', html`<p class="note c-warn" role="status"><${Icon} name="triangle-alert" />
    <span>That link does not work any more: it was used before, or it is too old. Make a new one.</span></p>`);
  history.replaceState(null, '', '/operate'); // a reload should not complain again
}
