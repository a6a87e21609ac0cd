"""Windows as people write them on the page: "agentview_rgb: -1, 0; actions: 0..15". Pure functions."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from vla_store.errors import OptionError
from vla_store.look.saying import is_action
from vla_store.reader import Store
from vla_store.reader.seconds import Seconds, seconds

MAX_OFFSETS = 256
MAX_FIELDS = 64
CHUNK = 16  # actions of the windows that a page begins with
FORM = (
    "FIELD: -1, 0; FIELD: 0..15 (both ends belong to it); FIELD: 0 (one step, without an axis); FIELD: seconds(0, 0.8) or "
    "seconds([-0.1, 0]), as in Python"
)

Windows = dict[str, "int | list[int] | Seconds"]

_SECONDS = re.compile(
    r"seconds\( *(?:\[(?P<times>[^][]*)\]|(?P<start>[^],[]+),(?P<stop>[^],[]+?)) *(?:, *fps *= *(?P<fps>[^,]+))?\)"
)


def parse_windows_text(text: str) -> Windows:
    """Return windows as `Samples` takes them.

    A single number is an int, which adds no axis; `[0]` is a list of one; seconds are those of `vla_store.seconds`. Raises OptionError.
    """
    made: Windows = {}
    for piece in filter(None, map(str.strip, re.split(r"[;\n]", text))):
        name, colon, said = (each.strip() for each in piece.rpartition(":"))
        if not colon or not name:
            raise _wrong(piece)
        if name in made:
            raise OptionError(f"windows name {name!r} twice", expected="each field once", found=piece[:100])
        if said.startswith("seconds"):
            made[name] = _seconds(said, piece)
            continue
        listed = re.fullmatch(r"\[(.*)\]", said)
        offsets = [offset for each in (listed[1] if listed else said).split(",") for offset in _offsets(each, piece)]
        if len(offsets) > MAX_OFFSETS:
            raise many_offsets(name)
        made[name] = offsets if listed or len(offsets) > 1 or ".." in said else offsets[0]
    if not made or len(made) > MAX_FIELDS:
        raise OptionError(
            "windows name no field" if not made else "windows name too many fields", expected=FORM, found=text[:100]
        )
    return made


def windows_text(windows: Mapping[str, int | Sequence[int] | Seconds]) -> str:
    """Return what `parse_windows_text` reads as these windows."""
    return "; ".join(f"{name}: {_offsets_text(offsets)}" for name, offsets in windows.items())


def default_windows(store: Store) -> Windows:
    """Return windows to begin with: two pictures of each camera, a chunk of actions, and else one number of each step."""
    fixed = [each for each in store.fields.values() if each.is_fixed]
    cameras: Windows = {each.name: [-1, 0] for each in fixed if each.is_camera}
    actions = [each for each in fixed if is_action(each)]
    numbers: Windows = {each.name: list(range(CHUNK)) for each in actions[:1]}
    return cameras | numbers or {each.name: 0 for each in (fixed or list(store.fields.values()))[:1]}


def _offsets(said: str, piece: str) -> list[int]:
    found = re.fullmatch(r"\s*([+-]?[0-9]{1,9})\s*(?:\.\.\s*([+-]?[0-9]{1,9})\s*)?", said)
    if not found:
        raise _wrong(piece)
    first = int(found[1])
    last = first if found[2] is None else int(found[2])
    if last < first:
        raise _wrong(piece)
    if last - first >= MAX_OFFSETS:
        raise many_offsets(piece.rpartition(":")[0].strip())
    return list(range(first, last + 1))


def _seconds(said: str, piece: str) -> Seconds:
    found = _SECONDS.fullmatch(said)
    if not found:
        raise _wrong(piece)
    try:
        fps = None if found["fps"] is None else float(found["fps"])
        start = float(found["start"]) if found["times"] is None else [float(each) for each in found["times"].split(",")]
        stop = None if found["stop"] is None else float(found["stop"])
    except ValueError:
        raise _wrong(piece) from None
    return seconds(start, stop, fps=fps)


def _offsets_text(offsets: int | Sequence[int] | Seconds) -> str:
    if isinstance(offsets, (int, Seconds)):
        return str(offsets)
    first, last = offsets[0], offsets[-1]
    if len(offsets) > 2 and list(offsets) == list(range(first, last + 1)):
        return f"{first}..{last}"
    return ", ".join(map(str, offsets)) if len(offsets) > 1 else f"[{first}]"


def _wrong(piece: str) -> OptionError:
    return OptionError("this is no window", expected=FORM, found=piece[:100])


def many_offsets(name: str) -> OptionError:
    """Return the error of a window of too many offsets."""
    return OptionError(
        f"the window of {name[:100]!r} has more offsets than a page can show",
        expected=f"at most {MAX_OFFSETS}",
        found="more",
    )
