"""The progress of a build on stderr: a bar that is redrawn in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import io
import os
import sys
import time
from typing import TextIO

from vla_store.text import counted, duration_text, shown

REDRAW_S = 0.2
LINE_S = 10.0
DEFAULT_COLUMNS = 80


def leave(stream: TextIO) -> None:
    """Send what is written to a stream from now on to nowhere: its reader has left, or its disk is full. That is no reason to stop."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


class ProgressBar:
    """Steps/s, MB/s of raw data and time left. A step counts in proportion to the raw bytes that are encoded.

    In a terminal one line is redrawn in place and never wraps; otherwise (a file, a pipe, a log) a line is printed at
    most every ten seconds, without control characters. quiet: nothing at all. As a context manager it leaves no unfinished line.
    """

    def __init__(self, stream: TextIO | None = None, *, quiet: bool = False) -> None:
        self._stream = io.StringIO() if quiet else stream if stream is not None else sys.stderr
        self._terminal = self._stream.isatty()
        self._steps = self._nbytes = self._done = self._before = 0
        self._began = self._shown = time.monotonic()
        self._width = 0

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(self, *_: object) -> None:
        self._clear()

    def talk(self, text: str) -> None:
        if self._terminal:
            self._draw(shown(text))
        elif time.monotonic() - self._shown >= LINE_S:
            self._shown = time.monotonic()
            self._print(shown(text))

    def begin(self, steps: int, nbytes: int, done_nbytes: int) -> None:
        self._steps, self._nbytes, self._done, self._before = steps, max(1, nbytes), done_nbytes, done_nbytes
        self._began = self._shown = time.monotonic()
        if done_nbytes:
            self._clear()
            self._print(f"resuming: {done_nbytes / self._nbytes:.0%} of the data is encoded already")
        if self._terminal:
            self._draw(self.line(0.0, self._room()))

    def advance(self, nbytes: int) -> None:
        self._done += nbytes
        now = time.monotonic()
        if self._terminal and now - self._shown >= REDRAW_S:
            self._shown = now
            self._draw(self.line(now - self._began, self._room()))
        elif not self._terminal and now - self._shown >= LINE_S and self._done < self._nbytes:
            self._shown = now  # the last line is end()'s
            self._print(self.line(now - self._began))

    def end(self) -> None:
        self._clear()
        if self._nbytes and self._done >= self._nbytes:
            now = self._shown = time.monotonic()
            self._print(self.line(now - self._began, self._room()))

    def line(self, seconds: float, columns: int | None = None) -> str:
        """Return the bar's line after so many seconds of encoding. columns: how wide it may be; what matters least goes first."""
        share = self._done / self._nbytes
        rate = (self._done - self._before) / seconds if seconds > 0 else 0.0
        parts = {"share": f"{share:4.0%}", "steps": f"{int(self._steps * share):,} of {counted(self._steps, 'step')}"}
        if rate:
            left = (self._nbytes - self._done) / rate
            parts["rate"] = f"{rate * self._steps / self._nbytes:,.0f} steps/s"
            parts["bytes"] = f"{rate / 1e6:,.0f} MB/s"
            parts["time"] = (
                f"{duration_text(left)} left" if self._done < self._nbytes else f"in {duration_text(seconds)}"
            )
        for least in ("bytes", "steps", "rate", "time"):
            if columns is not None and len("  ".join(parts.values())) > columns:
                parts.pop(least, None)
        return "  ".join(parts.values())

    def _draw(self, text: str) -> None:
        columns = self._room() or len(text)
        drawn = text[:columns]
        self._print("\r" + drawn + " " * max(0, min(self._width, columns) - len(drawn)), end="")
        self._width = len(drawn)

    def _clear(self) -> None:
        if self._width:
            self._print("\r" + " " * min(self._width, self._room() or 0) + "\r", end="")
            self._width = 0

    def _print(self, text: str, end: str = "\n") -> None:
        try:
            print(text, end=end, file=self._stream, flush=True)
        except OSError:
            leave(self._stream)

    def _room(self) -> int | None:
        """Columns a line may have; None where lines do not matter."""
        if not self._terminal:
            return None
        try:  # of this stream's terminal: stdout, which shutil asks, may be a file
            columns = os.get_terminal_size(self._stream.fileno()).columns
        except (OSError, ValueError):
            columns = 0
        return max(10, (columns or DEFAULT_COLUMNS) - 1)
