"""Headless Chromium, for tests of pages: a file that it opens and prints, or a page that a test drives. Neither asks the network.

Where there is no Chromium the tests that need it are skipped, and say so; `.ci/run` installs one.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

OPTIONS = ("--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run", "--disable-dev-shm-usage")
NO_NAMES = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"  # addresses of this machine need no name

# Of a page: texts that lie on other texts, or outside of the page; pictures that did not load; addresses that were fetched.
LOOK = """
() => {
  const seen = {title: document.title, wrong: [], pictures: 0, scripts: 0, fetched: []};
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const boxes = [];
  // What a box that scrolls, or cuts, leaves of a text.
  const left = (box, node) => {
    let {left, right, top, bottom} = box;
    for (let each = node; each && each !== document.body; each = each.parentElement) {
      const style = getComputedStyle(each), frame = each.getBoundingClientRect();
      if (style.overflowX !== 'visible') { left = Math.max(left, frame.left); right = Math.min(right, frame.right); }
      if (style.overflowY !== 'visible') { top = Math.max(top, frame.top); bottom = Math.min(bottom, frame.bottom); }
    }
    return {left, right, top, bottom};
  };
  while (walker.nextNode()) {
    const node = walker.currentNode;
    if (!node.data.trim() || node.parentElement.closest('script, noscript, option, dialog:not([open]), details:not([open]) > :not(summary)')) continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    const wide = node.parentElement.closest('.wide');
    for (const whole of range.getClientRects()) if (whole.width > 1) {
      const box = left(whole, node.parentElement);
      if (box.right - box.left <= 1 || box.bottom - box.top <= 1) continue;
      boxes.push([node.data.trim().slice(0, 30), box, node]);
      if (!wide && box.right > document.documentElement.clientWidth + 1) seen.wrong.push('outside: ' + node.data.slice(0, 60));
      if (box.left < -1) seen.wrong.push('cut at the left: ' + node.data.slice(0, 60));
    }
  }
  for (let i = 0; i < boxes.length; i++) for (let j = i + 1; j < boxes.length; j++) {
    const [a, b] = [boxes[i][1], boxes[j][1]];
    const across = Math.min(a.right, b.right) - Math.max(a.left, b.left);
    const along = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
    if (boxes[i][2] === boxes[j][2]) continue; // with its ellipsis a text has two boxes
    if (across > 2 && along > 5) seen.wrong.push(boxes[i][0] + ' on ' + boxes[j][0]);
  }
  for (const each of document.images) { seen.pictures++; if (!each.naturalWidth) seen.wrong.push('a picture does not load'); }
  for (const each of document.querySelectorAll('svg')) {
    const frame = each.getBoundingClientRect();
    for (const part of each.querySelectorAll('text')) {
      const box = part.getBoundingClientRect();
      if (box.left < frame.left - 1 || box.right > frame.right + 1 || box.bottom > frame.bottom + 1) seen.wrong.push('cut: ' + part.textContent);
    }
  }
  if (document.documentElement.scrollWidth > document.documentElement.clientWidth) seen.wrong.push('the page scrolls sideways');
  seen.fetched = performance.getEntriesByType('resource').map(e => e.name).filter(n => !n.startsWith('data:'));
  seen.scripts = document.scripts.length;
  return seen;
}
"""

# The same in a page that is only opened: it then consists of what was seen.
LOOK_AT_LOAD = f"""
<script>addEventListener('load', () => {{
  const seen = ({LOOK})();
  seen.scripts -= 1;
  document.documentElement.textContent = 'SEEN' + JSON.stringify(seen) + 'END';
}});</script>
"""


def browser() -> str:
    """Chromium, by one of its names. Skips where there is none."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.skip("there is no Chromium here")
    return found


def in_browser(page: Path, *options: str) -> str:
    """What headless Chromium prints of a page that is a file."""
    command = [browser(), "--headless", *OPTIONS, NO_NAMES, f"--user-data-dir={page.parent / 'profile'}"]
    done = subprocess.run([*command, *options, page.as_uri()], capture_output=True, timeout=120)
    if done.returncode:
        pytest.skip(f"Chromium does not start here: {done.stderr[-300:].decode(errors='replace')}")
    return done.stdout.decode()


@contextlib.contextmanager
def driven() -> Iterator[Any]:
    """A browser that a test drives, as playwright has it. Skips where it does not start."""
    api = pytest.importorskip("playwright.sync_api", reason="driving a browser needs playwright")
    path = browser()
    with api.sync_playwright() as driver:
        try:
            started = driver.chromium.launch(executable_path=path, args=[*OPTIONS, NO_NAMES])
        except api.Error as error:
            pytest.skip(f"Chromium does not start here: {str(error)[:300]}")
        try:
            yield started
        finally:
            started.close()
