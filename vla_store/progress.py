"""Progress: what long work tells, and the faces that it has: ours on stderr, a bar that is redrawn in a terminal and a line now and then
elsewhere; tqdm's, where a user of Python asks for a bar and has tqdm; none.

The only module that imports tqdm, and only then.
"""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, ParamSpec, Protocol, TextIO, TypeVar

from vla_store.errors import OptionError
from vla_store.text import counted, duration_text, shown

Parameters = ParamSpec("Parameters")
Made = TypeVar("Made")

log = logging.getLogger("vla_store.progress")

REDRAW_S = 0.2
LINE_S = 10.0
DEFAULT_COLUMNS = 80


def leave(stream: TextIO) -> None:
    """Send what is written to a stream from now on to nowhere: its reader has left, or its disk is full. That is no reason to stop."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


class Progress(Protocol):
    """Receives what work reports that takes long.

    A protocol: any object with these four methods will do. Work that has no steps to count calls `talk` alone.
    """

    def talk(self, text: str) -> None:
        """Take one line about the stage that the work is in.

        Parameters
        ----------
        text
            The line.
        """

    def begin(self, steps: int, nbytes: int, done_nbytes: int) -> None:
        """Learn that encoding begins.

        Parameters
        ----------
        steps
            Number of steps to encode.
        nbytes
            Raw bytes to encode.
        done_nbytes
            How many of these bytes an earlier call has encoded already.
        """

    def advance(self, nbytes: int) -> None:
        """Learn that more was encoded.

        Parameters
        ----------
        nbytes
            Raw bytes that were encoded since the last call.
        """

    def end(self) -> None:
        """Learn that encoding is over, whether it succeeded or not."""


class Silent:
    """A `Progress` that nobody sees; what is told stands in the log, for those who look."""

    def talk(self, text: str) -> None:
        log.debug("%s", text)

    def begin(self, steps: int, nbytes: int, done_nbytes: int) -> None: ...

    def advance(self, nbytes: int) -> None: ...

    def end(self) -> None: ...


SILENT = Silent()


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


class TqdmBar:
    """tqdm's bar of steps, in a terminal or a notebook, whatever `tqdm.auto` finds; stages are told on a line of their own.

    A step counts in proportion to the raw bytes that are encoded, as in a ProgressBar. As a context manager it leaves no bar open.
    """

    def __init__(self, tqdm: Any) -> None:
        self._tqdm = tqdm
        self._bar: Any = None
        self._stage: Any = None
        self._steps = self._nbytes = self._done = 0

    def __enter__(self) -> TqdmBar:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def talk(self, text: str) -> None:
        if self._bar is not None:
            self._bar.set_postfix_str(shown(text))
            return
        if self._stage is None:
            self._stage = self._tqdm(bar_format="{desc}", leave=False)
        self._stage.set_description_str(shown(text))

    def begin(self, steps: int, nbytes: int, done_nbytes: int) -> None:
        self._close()
        self._steps, self._nbytes, self._done = steps, max(1, nbytes), done_nbytes
        every = (
            {} if sys.stderr.isatty() else {"mininterval": LINE_S}
        )  # a log is no terminal; a notebook draws as it likes
        self._bar = self._tqdm(total=steps, initial=self._reached(), unit=" steps", smoothing=0, **every)

    def advance(self, nbytes: int) -> None:
        self._done += nbytes
        if self._bar is not None:
            self._bar.update(self._reached() - self._bar.n)

    def end(self) -> None:
        self._close()

    def _reached(self) -> int:
        return self._steps * min(self._done, self._nbytes) // self._nbytes

    def _close(self) -> None:
        for each in (self._bar, self._stage):
            if each is not None:
                each.close()
        self._bar = self._stage = None


Shown = Progress | bool | None
"""What an option `progress` takes: True for a bar, an object that is told, or nothing."""


@contextlib.contextmanager
def showing(given: Shown) -> Iterator[Progress]:
    """Give what is to be told of progress in this block, for what was asked; at its end, also at an error, no bar is left open."""
    if isinstance(given, bool) and given:
        with _bar() as bar:
            yield bar
    else:
        yield told_to(given)


def told_to(given: Shown) -> Progress:
    """Return what is told: the object that was given, or nobody. Raises OptionError."""
    if given is None or isinstance(given, bool):
        return SILENT
    if isinstance(given, type) or not any(callable(getattr(given, name, None)) for name in ("talk", "advance")):
        raise OptionError(
            "progress is True, False, None or an object with the methods of vla_store.builder.Progress",
            found=repr(given)[:100],
        )
    return given


def takes_progress(function: Callable[Parameters, Made]) -> Callable[Parameters, Made]:
    """Decorate a function with an option `progress`, by name: inside, it is what `told_to` takes, whatever was given."""

    @functools.wraps(function)
    def call(*arguments: Parameters.args, **options: Parameters.kwargs) -> Made:
        asked: Any = options
        with showing(asked.get("progress")) as progress:
            asked["progress"] = progress
            return function(*arguments, **options)

    return call


def _bar() -> TqdmBar | ProgressBar:
    try:
        from tqdm.auto import tqdm
    except ImportError:
        return ProgressBar()
    return TqdmBar(tqdm)
