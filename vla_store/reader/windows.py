"""Windows: which steps of an episode a sample takes around its anchor. Pure arithmetic.

Offset d of anchor step s is time s + d of the same episode. Outside the episode the nearest step stands in, and is_pad is true.
Under causal alignment, a source that records observations *after* the action of the same row has its observation of
decision time s in row s - 1: such fields are read one row earlier.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vla_store.errors import OptionError, UnknownName, index_of

MAX_OFFSET = 2**31 - 1

Int64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Window:
    """The offsets of one field; `has_axis` is false where an int was asked for, which adds no axis."""

    field: str
    offsets: tuple[int, ...]
    has_axis: bool

    @property
    def axes(self) -> tuple[int, ...]:
        """The axes that the window puts in front of a step's shape."""
        return (len(self.offsets),) if self.has_axis else ()

    @property
    def is_run(self) -> bool:
        """True where the offsets ascend by one, so that a window inside its episode is one slice."""
        return all(b - a == 1 for a, b in zip(self.offsets, self.offsets[1:]))

    def __str__(self) -> str:
        if not self.has_axis:
            return str(self.offsets[0])
        if self.is_run and len(self.offsets) > 4:
            return f"range({self.offsets[0]}, {self.offsets[-1] + 1})"
        shown = ", ".join(map(str, self.offsets[:8]))
        return f"[{shown}, ... ({len(self.offsets)})]" if len(self.offsets) > 8 else f"[{shown}]"


def by_field(windows: Any) -> Any:
    """Return the windows of a dataset as {field: Window}; what else was given as it is. Raises OptionError for two of one field."""
    if not isinstance(windows, Sequence) or not windows or not all(isinstance(each, Window) for each in windows):
        return windows
    made = {each.field: each for each in windows}
    if len(made) < len(windows):
        raise OptionError("two windows are of one field", windows=", ".join(each.field for each in windows))
    return made


def parse_windows(windows: Mapping[str, int | Iterable[int] | Window], known: Iterable[str]) -> tuple[Window, ...]:
    """Return the windows of {field: offset, offsets or window}, in that order. Raises UnknownName, OptionError."""
    known = list(known)
    if not isinstance(windows, Mapping):
        raise OptionError(
            "windows is a dict of field names to offsets", found=type(windows).__name__, hint='{"actions": range(64)}'
        )
    if not windows:
        raise OptionError("windows names no field", hint=f"fields: {', '.join(known)}")
    made = []
    for field, offsets in windows.items():
        if field not in known:
            raise UnknownName.among("field", field, known)
        made.append(_window(field, offsets))
    return tuple(made)


def shift_of(role: str, observation: str, alignment: str) -> int:
    """Return how many rows from its time a field's value lies in a source: -1 for observations recorded after the action, causally."""
    return -1 if alignment == "causal" and role == "observation" and observation == "after" else 0


def window_times(steps: Int64, lengths: Int64, offsets: Int64) -> tuple[Int64, Bool]:
    """Return the steps that windows take, within their episodes, and which of them are padding; both (B, K).

    steps, lengths: (B,) anchor steps, with their shift, and lengths of their episodes. offsets: (K,).
    """
    times = steps[:, None] + offsets
    last = lengths[:, None] - 1
    clipped = np.maximum(times, 0)
    np.minimum(clipped, last, out=clipped)
    return clipped, clipped != times


def _window(field: str, offsets: Any) -> Window:
    if isinstance(offsets, Window):
        offsets = offsets.offsets if offsets.has_axis else offsets.offsets[0]
    if isinstance(offsets, (bytes, Mapping)):  # whose items are numbers, or may be
        raise _no_offsets(field, offsets)
    with contextlib.suppress(TypeError):
        return Window(field, (_offset(field, offsets),), False)
    try:
        made = tuple(_offset(field, each) for each in offsets)
    except TypeError:
        raise _no_offsets(field, offsets) from None
    if not made:
        raise OptionError(f"the window of {field!r} has no offsets", hint="leave the field out of `windows` instead")
    return Window(field, made, True)


def _offset(field: str, given: Any) -> int:
    """Return an offset. Raises TypeError for what is no whole number."""
    offset = index_of(given)
    if abs(offset) > MAX_OFFSET:
        raise OptionError(f"an offset of {field!r} is beyond any episode", found=offset)
    return offset


def _no_offsets(field: str, found: Any) -> OptionError:
    return OptionError(
        f"the window of {field!r} is not a whole number or a list of them",
        found=repr(found)[:100],
        hint="0 for the anchor's own step, [-1, 0] for two steps, range(64) for a chunk",
    )
