"""One line on a terminal's stderr while a cache fills: how much of the store is on this machine. Imports text."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import Any

from vla_store.text import percent_text, size_text

LEAST_S, SHARE = 0.5, 0.01  # it looks so often at most, and takes so much of the time at most
QUIET_S = 10.0


class Filling:
    """The line; nothing where stderr is no terminal. ahead: of the dataset, which says what is here.

    It goes when nothing more has come for ten seconds, and comes back when something does.
    """

    def __init__(self, ahead: Any) -> None:
        self._ahead = ahead
        self._is_shown = sys.stderr.isatty()
        self._next = self._grew_at = time.monotonic()
        self._nbytes = -1
        self._width = 0

    def look(self) -> None:
        """Draw the line anew, if it is time."""
        now = time.monotonic()
        if not self._is_shown or now < self._next:
            return
        nbytes, all_nbytes = self._ahead.kept
        if nbytes != self._nbytes:
            self._nbytes, self._grew_at = nbytes, now
        if not all_nbytes or nbytes == all_nbytes or now - self._grew_at > QUIET_S:
            self.clear()
        else:
            self._draw(
                f"the cache fills: {size_text(nbytes)} of {size_text(all_nbytes)}, {percent_text(nbytes, all_nbytes)}"
            )
        took = time.monotonic() - now
        self._next = now + took + max(LEAST_S, took / SHARE)

    def clear(self) -> None:
        """Take the line away."""
        if self._width:
            self._draw("")

    def _draw(self, text: str) -> None:
        with contextlib.suppress(OSError):  # the terminal is gone
            print(f"\r{text:<{self._width}}" + ("" if text else "\r"), end="", file=sys.stderr, flush=True)
        self._width = len(text)
