"""Windows in seconds: `seconds(0, 3.2)`, made the offsets of steps by the rate of the sources that are selected. Pure arithmetic."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vla_store.errors import OptionError
from vla_store.reader.windows import Window

MAX_STEPS = 1_000_000  # from the anchor: a window of more is a mistake in the unit
CLOSE = 1e-3  # steps: what is no farther from a step than this is that step, as 0.3 s x 10 Hz and 1/3 s x 30 Hz are
SHOWN = 4


@dataclass(frozen=True)
class Seconds:
    """A window in seconds; made by `seconds`, which says what it means. stop: None where `times` are listed."""

    times: tuple[float, ...]
    stop: float | None
    fps: float | None

    def offsets(self, fps: float) -> list[int] | range:
        """Return the offsets at a rate. Raises OptionError where that gives none, or not one."""
        if self.stop is None:
            return [_nearest(each, fps) for each in self.times]
        ends = self.times[0] * fps, self.stop * fps
        if max(map(abs, ends)) > MAX_STEPS:
            raise OptionError(f"{self} is beyond any episode", fps=fps, expected=f"at most {MAX_STEPS:,} steps away")
        found = range(_first_from(ends[0]), _first_from(ends[1]))
        if not found:
            raise OptionError(f"{self} has no step", fps=fps, hint=f"a step takes {1 / fps:.6g} s")
        return found

    def __str__(self) -> str:
        given = [*map(str, self.times)] if self.stop is not None else [str(list(self.times))]
        given += [str(self.stop)] if self.stop is not None else []
        return f"seconds({', '.join(given)}{f', fps={self.fps}' if self.fps is not None else ''})"


WindowChoice = Mapping[str, int | Iterable[int] | Seconds | Window] | Sequence[Window]
"""What an option `windows` takes: offsets by field, or the windows of another dataset."""


def seconds(start: float | Iterable[float], stop: float | None = None, *, fps: float | None = None) -> Seconds:
    """Return a window in seconds, to give for a field of `windows` in place of offsets.

    `seconds(start, stop)` are all steps in [start, stop), counted from the anchor: at 20 steps a second `seconds(0, 3.2)` is
    `range(64)`. `seconds([-0.1, 0])` are the steps nearest to these times. A time within a thousandth of a step of a step is
    that step's.

    Parameters
    ----------
    start : float or iterable of float
        Where the steps begin; or the times, where `stop` is not given.
    stop : float, optional
        Where they end; a step at `stop` is none of them.
    fps : float, optional
        Steps a second. Default: that of the selection's sources, which must be one.

    Returns
    -------
    Seconds

    Raises
    ------
    OptionError
        For what are no such numbers. By what takes the window, for a time half way between two steps, and for sources of
        several rates or of none.
    """
    rate = None if fps is None else checked_rate(fps)
    times = (start,) if stop is not None else start
    if not isinstance(times, Iterable) or isinstance(times, (str, bytes, Mapping)):
        raise OptionError(
            "seconds takes a start and a stop, or a list of times",
            found=repr(start)[:100],
            hint="seconds(0, 3.2) for all steps in between, seconds([-0.1, 0]) for two",
        )
    listed: tuple[Any, ...] = tuple(times)
    wrong = [each for each in (*listed, *(() if stop is None else (stop,))) if not _is_number(each)]
    if wrong or not listed:
        raise OptionError("times are numbers, and at least one", found=repr(wrong[0] if wrong else listed)[:100])
    return Seconds(tuple(map(float, listed)), None if stop is None else float(stop), rate)


def checked_rate(given: Any) -> float:
    """Return steps a second as a float. Raises OptionError for what are none."""
    if not (_is_number(given) and given > 0):
        raise OptionError("fps is a number above 0", found=repr(given)[:100])
    return float(given)


def in_steps(windows: Mapping[str, Any], rates: Callable[[], Mapping[float | None, str]]) -> Mapping[str, Any]:
    """Return windows in which none is in seconds. rates: gives those of the selection's sources, each with the name of one."""
    if not isinstance(windows, Mapping) or not any(isinstance(each, Seconds) for each in windows.values()):
        return windows
    made = {}
    for field, window in windows.items():
        made[field] = (
            window.offsets(window.fps or _only(rates(), field, window)) if isinstance(window, Seconds) else window
        )
    return made


def _only(rates: Mapping[float | None, str], field: str, window: Seconds) -> float:
    """Return the one rate that there is. Raises OptionError."""
    rate = next(iter(rates))
    if len(rates) == 1 and rate is not None:
        return rate
    lines = sorted(f"{'not known' if rate is None else rate}: {name}" for rate, name in rates.items())
    what = (
        "the selected sources have several rates" if len(rates) > 1 else "the rate of the selected sources is not known"
    )
    raise OptionError(
        what,
        window=f"{field!r}: {window}",
        rates="\n".join(lines[:SHOWN]) + (f"\nand {len(lines) - SHOWN} more" if len(lines) > SHOWN else ""),
        hint=f"say it here, as in {str(window).removesuffix(')')}, fps=20); or when a store is built, with --fps 20",
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)


def _first_from(steps: float) -> int:
    """Return the first step that is not before a time, which is given in steps."""
    nearest = math.floor(steps + 0.5)
    return nearest if abs(steps - nearest) <= CLOSE else math.ceil(steps)


def _nearest(time: float, fps: float) -> int:
    steps = time * fps
    if abs(steps) > MAX_STEPS:
        raise OptionError(
            f"a time is beyond any episode: {time} s", fps=fps, expected=f"at most {MAX_STEPS:,} steps away"
        )
    nearest = math.floor(steps + 0.5)
    if abs(abs(steps - nearest) - 0.5) <= CLOSE:
        below = math.floor(steps - CLOSE)
        raise OptionError(
            f"a time lies half way between two steps: {time} s",
            fps=fps,
            steps=f"{below} at {below / fps:.6g} s, {below + 1} at {(below + 1) / fps:.6g} s",
            hint="write the time of one of them",
        )
    return nearest
