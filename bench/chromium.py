"""Volunteers in real Chromium: a profile, a tab that donates, and when it was ready for what."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from playwright.sync_api import BrowserContext, Page, Playwright

_READY_MS: Final = 120_000

# Notes the click, the worker's first word (Python runs by then) and the moment all is ready. The
# machine is busy with the benchmark: its pressure must not pause the tab that is measured.
_MARKS: Final = """
(() => {
  const marks = {}, waiting = {};
  const mark = name => { marks[name] ??= performance.now(); waiting[name]?.(marks); };
  window.benchMarked = (name, patience) => new Promise((resolve, reject) => {
    if (marks[name]) return resolve(marks);
    waiting[name] = resolve;
    setTimeout(() => reject(new Error(`${name} did not come within ${patience} ms`)), patience);
  });
  addEventListener('click', () => mark('click'), {capture: true});
  const Original = Worker;
  window.Worker = class extends Original {
    constructor(...words) { super(...words); this.addEventListener('message', () => mark('word')); }
  };
  window.PressureObserver = class { async observe() {} disconnect() {} };
  new MutationObserver(() => {
    const states = [...document.querySelectorAll('ul.models li span:last-child')];
    if (states.length && states.every(state => state.textContent === 'ready')) mark('ready');
  }).observe(document, {subtree: true, childList: true, characterData: true});
})()
"""


@contextlib.contextmanager
def profile(playwright: Playwright, folder: Path) -> Iterator[BrowserContext]:
    """Run a browser of its own whose caches and identity are in ``folder``."""
    names = ("chromium", "chromium-browser", "google-chrome")
    found = [os.environ.get("CHROMIUM_PATH"), *map(shutil.which, names)]
    context = playwright.chromium.launch_persistent_context(
        folder,
        executable_path=next((path for path in found if path), None),
        args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"],
    )
    context.add_init_script(_MARKS)
    try:
        yield context
    finally:
        context.close()


def donate(context: BrowserContext, url: str, *, full_share: bool = False) -> Page:
    """Open the volunteers' page of a server and agree; ``full_share`` gives all of a processor."""
    page = context.new_page()
    page.goto(f"{url}/volunteer")
    button = page.get_by_role("button", name="Start donating")
    button.wait_for()
    if full_share:
        give_all(page)
    button.click()
    return page


def give_all(page: Page) -> None:
    page.get_by_label("Processor time").fill("100")


def marked(page: Page, name: str) -> dict[str, float]:
    """Wait for a mark (``click``, ``word``, ``ready``) and return all that have been set.

    In milliseconds of the page's clock.
    """
    # A promise, as the page's policy forbids what Playwright's own waiting would evaluate.
    marks: dict[str, float] = page.evaluate(f"benchMarked('{name}', {_READY_MS})")
    return marks
